// The picture that an edit starts from: painted on where it shall be filled, or placed in a larger frame.

import { button, element } from "./dom.js";
import { Slider } from "./form.js";
import { canvasBlob, decoded } from "./pictures.js";

const SHOWN = 560; // pixels of the canvas that one sees, at least
const MOST_UNDO = 30;

export class Painter {
  constructor(root) {
    this.canvas = element("canvas", { tabIndex: 0, role: "application" });
    this.hole = element("canvas");
    this.tools = element("div", { className: "row tools" });
    this.brush = element("div");
    this.placing = element("div");
    this.size = new Slider(this.brush, { label: "Brush", low: 1, high: 50, step: 1, value: 18 });
    this.share = new Slider(this.placing, { label: "Size in the frame, %", low: 20, high: 95, step: 1, value: 60 });
    this.said = element("p", { className: "hidden", role: "status" });
    root.append(this.canvas, this.tools, this.brush, this.placing, this.said);
    this.buttons();
    this.placing.addEventListener("input", () => this.draw());
    this.canvas.addEventListener("pointerdown", (event) => this.down(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (this.last = null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  buttons() {
    this.erasing = button("Erase", "eraser", () => this.erasing.setAttribute("aria-pressed", String(!this.erases)), { quiet: true, className: "square" });
    this.erasing.setAttribute("aria-pressed", "false");
    this.tools.append(
      this.erasing,
      button("Undo", "undo", () => this.undo(), { quiet: true, className: "square" }),
      button("Invert", "invert", () => this.change((pen, { width, height }) => {
        pen.globalCompositeOperation = "xor";
        pen.fillRect(0, 0, width, height);
      }), { quiet: true, className: "square" }),
      button("Clear", "trash", () => this.change((pen, { width, height }) => pen.clearRect(0, 0, width, height)), { quiet: true, className: "square" }),
    );
  }

  get erases() {
    return this.erasing.getAttribute("aria-pressed") === "true";
  }

  /** Shows a picture, filling a frame of so many pixels. What was painted stays where the frame does. */
  async open(blob, width, height, mode) {
    const same = this.painted === blob && this.width === width && this.height === height;
    Object.assign(this, { width, height, mode, painted: blob, zoom: Math.max(1, Math.ceil(SHOWN / Math.max(width, height))) });
    if (!same) {
      Object.assign(this.hole, { width, height });
      Object.assign(this, { past: [], bitmap: null, at: { x: width / 2, y: height / 2 }, offset: { x: 0.5, y: 0.5 } });
      const bitmap = await decoded(blob);
      if (this.painted !== blob) return; // another one was opened meanwhile
      this.bitmap = bitmap;
    }
    Object.assign(this.canvas, { width: width * this.zoom, height: height * this.zoom });
    this.brush.hidden = this.tools.hidden = mode !== "inpaint";
    this.placing.hidden = mode !== "outpaint";
    const how = { inpaint: "Paint over what shall be filled: arrow keys move, space paints", outpaint: "Place the picture: drag it, or arrow keys" }[mode];
    this.canvas.setAttribute("aria-label", how ?? "The picture to start from");
    this.canvas.style.cursor = { inpaint: "crosshair", outpaint: "move" }[mode] ?? "default";
    this.draw();
  }

  /** Where the picture lies in the frame, in its pixels. */
  box() {
    const share = this.mode === "outpaint" ? this.share.value / 100 : 1;
    const fill = this.mode === "outpaint" ? Math.min : Math.max;
    const scale = share * fill(this.width / this.bitmap.width, this.height / this.bitmap.height);
    const [w, h] = [Math.round(this.bitmap.width * scale), Math.round(this.bitmap.height * scale)];
    return { x: Math.round((this.width - w) * this.offset.x), y: Math.round((this.height - h) * this.offset.y), w, h };
  }

  draw() {
    if (!this.bitmap) return;
    const pen = this.canvas.getContext("2d");
    const ink = getComputedStyle(this.canvas).getPropertyValue("--accent");
    pen.setTransform(this.zoom, 0, 0, this.zoom, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    pen.imageSmoothingEnabled = Math.max(this.bitmap.width, this.bitmap.height) > 64;
    const { x, y, w, h } = this.box();
    pen.drawImage(this.bitmap, x, y, w, h);
    if (this.mode === "inpaint") this.overlay(pen, ink);
  }

  overlay(pen, ink) {
    const tint = new OffscreenCanvas(this.width, this.height);
    const over = tint.getContext("2d");
    over.drawImage(this.hole, 0, 0);
    over.globalCompositeOperation = "source-in";
    over.fillStyle = ink;
    over.fillRect(0, 0, this.width, this.height);
    pen.globalAlpha = 0.72;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(tint, 0, 0);
    pen.globalAlpha = 1;
    if (!this.pointer) return;
    pen.lineWidth = 2 / this.zoom;
    pen.strokeStyle = ink;
    pen.beginPath();
    pen.arc(this.pointer.x, this.pointer.y, this.radius, 0, 2 * Math.PI);
    pen.stroke();
  }

  get radius() {
    return Math.max(0.5, (this.size.value / 200) * Math.max(this.width, this.height));
  }

  place(event) {
    const frame = this.canvas.getBoundingClientRect();
    return { x: ((event.clientX - frame.left) / frame.width) * this.width, y: ((event.clientY - frame.top) / frame.height) * this.height };
  }

  point(place) {
    this.pointer = place;
    if (this.mode === "inpaint") this.draw();
  }

  down(event) {
    if (this.mode === "image_to_image") return;
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    if (this.mode === "inpaint") this.stroke(this.last, this.last, true);
  }

  move(event) {
    const now = this.place(event);
    if (this.last && this.mode === "inpaint") this.stroke(this.last, now, false);
    if (this.last && this.mode === "outpaint") this.shift(now.x - this.last.x, now.y - this.last.y);
    if (this.last) this.last = now;
    this.point(now);
  }

  shift(x, y) {
    const { w, h } = this.box();
    const moved = (share, by, room) => (room ? Math.min(1, Math.max(0, share + by / room)) : share);
    this.offset = { x: moved(this.offset.x, x, this.width - w), y: moved(this.offset.y, y, this.height - h) };
    this.draw();
  }

  stroke(from, to, first) {
    this.change((pen) => {
      Object.assign(pen, { lineCap: "round", lineWidth: 2 * this.radius, globalCompositeOperation: this.erases ? "destination-out" : "source-over" });
      pen.beginPath();
      pen.moveTo(from.x, from.y);
      pen.lineTo(to.x, to.y + 1e-3); // a line of no length is not drawn
      pen.stroke();
    }, first);
  }

  change(paint, keep = true) {
    const pen = this.hole.getContext("2d", { willReadFrequently: true });
    if (keep) this.past = [...this.past, pen.getImageData(0, 0, this.width, this.height)].slice(-MOST_UNDO);
    pen.save();
    paint(pen, this.hole);
    pen.restore();
    this.draw();
  }

  undo() {
    const before = this.past.pop();
    if (before) this.hole.getContext("2d").putImageData(before, 0, 0);
    this.draw();
  }

  key(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    const pace = Math.max(1, Math.round(this.width / 32));
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (event.key === " " && this.mode === "inpaint") this.stroke(this.at, this.at, true);
    else if ((x || y) && this.mode === "outpaint") this.shift(x * pace, y * pace);
    else if (x || y) {
      this.at = { x: Math.min(this.width, Math.max(0, this.at.x + x * pace)), y: Math.min(this.height, Math.max(0, this.at.y + y * pace)) };
      this.point(this.at);
      this.said.textContent = `${Math.round((100 * this.at.x) / this.width)}% from the left, ${Math.round((100 * this.at.y) / this.height)}% from the top`;
    } else return;
    event.preventDefault();
  }

  /** The picture as it is sent, of the frame's size; transparency stays, the server knows what lies behind it. */
  async image() {
    const sent = element("canvas", { width: this.width, height: this.height });
    const pen = sent.getContext("2d");
    const { x, y, w, h } = this.box();
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.bitmap, x, y, w, h);
    return canvasBlob(sent);
  }

  /** The mask, transparent where pixels shall be filled as in OpenAI's API; null where the whole picture changes. */
  async mask() {
    if (this.mode === "image_to_image") return null;
    const mask = element("canvas", { width: this.width, height: this.height });
    const pen = mask.getContext("2d");
    const { x, y, w, h } = this.box();
    if (this.mode === "outpaint") pen.fillRect(x, y, w, h);
    else {
      pen.fillRect(0, 0, this.width, this.height);
      pen.globalCompositeOperation = "destination-out";
      pen.drawImage(hardened(this.hole), 0, 0);
    }
    const { data } = pen.getImageData(0, 0, this.width, this.height);
    if (!data.some((value, at) => at % 4 === 3 && value < 128)) throw new Error("Nothing is painted: paint over what shall be filled.");
    return canvasBlob(mask);
  }
}

/** A brush's soft edge decided: painted or not. */
function hardened(canvas) {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  pixels.data.forEach((value, at) => at % 4 === 3 && (pixels.data[at] = value >= 128 ? 255 : 0));
  const hard = new OffscreenCanvas(canvas.width, canvas.height);
  hard.getContext("2d").putImageData(pixels, 0, 0);
  return hard;
}
