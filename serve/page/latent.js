// A latent space under one's hands: numbers of a code by sliders, or the way from one seed to another.

import { button, byId, element, guarded, pickPictures, takesPictures } from "./dom.js";
import { Slider } from "./form.js";
import { SAMPLE, actionOf, asArguments, can, offer } from "./models.js";
import { canvasBlob, dataUri, decoded, fitted, isSmall, values } from "./pictures.js";

const REACH = 3; // standard deviations that a slider spans, to either side
const FRAMES = 25;
const AT_FIRST = 12; // sliders that are shown, of the numbers that change the picture most

export class Latent {
  constructor(app) {
    this.app = app;
    this.model = byId("latent-model");
    this.controls = byId("latent-controls");
    this.picture = element("img", { className: "subject", alt: "What the code stands for" });
    this.model.addEventListener("change", guarded(() => this.set()));
    byId("latent-form").addEventListener("submit", (event) => event.preventDefault());
    takesPictures(byId("latent"), guarded(([file]) => this.embed(file)));
  }

  async ready() {
    offer(this.model, this.app.models.filter(can.latent));
  }

  open() {
    if (this.shown !== this.model.value) guarded(() => this.set())();
  }

  get card() {
    return this.app.models.find((card) => card.id === this.model.value);
  }

  async set() {
    this.shown = this.model.value;
    this.decoder = actionOf(this.card, "image", "code");
    this.encoder = actionOf(this.card, "code", SAMPLE);
    this.coded = Boolean(this.decoder && this.encoder);
    byId("latent-picture").replaceChildren(this.picture);
    if (this.coded) await this.sliders();
    else await this.journey();
  }

  show(blob) {
    const before = this.picture.src;
    this.picture.onload = () => this.picture.classList.toggle("pixels", isSmall({ width: this.picture.naturalWidth, height: this.picture.naturalHeight }));
    this.picture.src = URL.createObjectURL(blob);
    if (before) URL.revokeObjectURL(before);
    this.blob = blob;
  }

  /** A model with codes: one slider a number, those that change the picture most first. */
  async sliders() {
    this.code = await this.codeOf(await blank(this.card.image_size));
    this.code.fill(0);
    this.order = await this.effects();
    const grid = element("div", { className: "sliders" });
    this.handles = this.order.map(({ at, effect }, place) => {
      const root = element("div", { hidden: place >= AT_FIRST });
      const handle = new Slider(root, { label: `Number ${at + 1}`, low: -REACH, high: REACH, step: 0.05, value: 0, signed: true });
      root.classList.toggle("weak", effect < 0.02 * this.order[0].effect);
      root.addEventListener("input", () => ((this.code[at] = handle.value), this.decode()));
      grid.append(root);
      return handle;
    });
    const rest = this.order.length - AT_FIRST;
    const all = button(`Show ${rest} more`, "latent", () => (all.remove(), grid.querySelectorAll("[hidden]").forEach((one) => (one.hidden = false))), { className: "plain" });
    this.controls.replaceChildren(
      element("div", { className: "row" }, button("Draw one", "dice", () => this.move(this.code.map(normal))), button("All to 0", "undo", () => this.move(this.code.map(() => 0)))),
      element("div", { className: "row" }, button("Of a picture", "upload", guarded(async () => this.embed((await pickPictures())[0]))), button("Keep", "gallery", guarded(() => this.keep()))),
      element("small", {}, "In the order of how much each changes the picture; drop a picture to start from its code."), grid, ...(rest > 0 ? [all] : []));
    this.move(this.code.map(normal));
  }

  ask(action, values) {
    return this.app.api.action(this.card.id, action, asArguments(this.card, action, values));
  }

  async codeOf(blob) {
    const answer = await this.ask(this.encoder, [[SAMPLE, [await dataUri(blob)]]]);
    return Array.from(answer[0]);
  }

  /** How much each number changes the picture between its usual ends: [{at, effect}], the most first. */
  async effects() {
    const ends = this.code.flatMap((_, at) => [-2, 2].map((end) => this.code.map((_, other) => (other === at ? end : 0))));
    const pixels = [];
    const most = Math.max(2, this.card.max_batch || 64);
    for (let at = 0; at < ends.length; at += most) pixels.push(...(await Promise.all((await this.ask(this.decoder, [["code", ends.slice(at, at + most)]])).map(values))));
    return this.code.map((_, at) => ({ at, effect: difference(pixels[2 * at], pixels[2 * at + 1]) })).sort((a, b) => b.effect - a.effect);
  }

  move(code) {
    this.code = code;
    this.order.forEach(({ at }, place) => (this.handles[place].value = code[at]));
    this.decode();
  }

  /** Draws the code; while one is being drawn, only the newest waits. */
  decode() {
    this.stale = true;
    this.pending ??= this.decoded().finally(() => (this.pending = null));
  }

  async decoded() {
    while (this.stale) {
      this.stale = false;
      const made = await guarded(() => this.ask(this.decoder, [["code", [this.code]]]))();
      if (made) this.show(made[0]);
    }
  }

  async embed(file) {
    if (!file || !this.coded) return;
    const side = this.card.image_size;
    this.move(await this.codeOf(await fitted(file, side, side)));
  }

  /** A model without codes: the way between two seeds. */
  async journey() {
    const seed = (label) => {
      const input = element("input", { type: "number", min: 0, max: 2 ** 31, id: `latent-${label}`, value: dice(), on: { change: () => this.travel() } });
      const roll = button("Another seed", "dice", () => ((input.value = dice()), this.travel()), { quiet: true, className: "square" });
      return [input, element("div", { className: "field" }, element("label", { htmlFor: input.id }, label), element("div", { className: "row" }, input, roll))];
    };
    const [[first, from], [last, to]] = [seed("From seed"), seed("To seed")];
    const place = element("div");
    Object.assign(this, { first, last, place: new Slider(place, { label: "On the way, %", low: 0, high: 100, step: 1, value: 50 }) });
    place.addEventListener("input", () => this.pass());
    this.strip = element("div", { className: "strip" });
    this.controls.replaceChildren(from, to, place, element("div", { className: "row" }, button("Keep", "gallery", guarded(() => this.keep()))));
    byId("latent-picture").replaceChildren(this.picture, this.strip);
    await this.travel();
  }

  travel() {
    this.pending = this.travelled().finally(() => (this.pending = null));
    return this.pending;
  }

  travelled = guarded(async () => {
    this.frames = await this.ask(actionOf(this.card, "strip", "seed", "seed"), [["seed", Number(this.first.value)], ["seed", Number(this.last.value)], ["frame_count", FRAMES]]);
    const jump = (at) => ((this.place.value = (100 * at) / (FRAMES - 1)), this.pass());
    this.strip.replaceChildren(...this.frames.map((blob, at) => at % 3 ? null : element("button", { type: "button", aria: { label: `${Math.round((100 * at) / (FRAMES - 1))}% of the way` }, on: { click: () => jump(at) } },
      element("img", { className: "pixels", alt: "", src: URL.createObjectURL(blob) }))).filter(Boolean));
    this.pass();
  });

  pass() {
    this.show(this.frames[Math.round((this.place.value / 100) * (FRAMES - 1))]);
  }

  /** Puts the picture into the gallery. */
  async keep() {
    await this.pending;
    const { width, height } = await decoded(this.blob);
    await this.app.store.keep({ id: `latent-${crypto.randomUUID()}`, created: Date.now(), blob: this.blob, width, height, model: this.card.id, seed: null, settings: { model: this.card.id, mode: "latent space" }, favourite: false });
  }
}

const dice = () => crypto.getRandomValues(new Uint32Array(1))[0] % 2 ** 31;
const difference = (a, b) => Math.sqrt(a.reduce((sum, value, at) => sum + (value - b[at]) ** 2, 0) / a.length);

/** One number of the standard normal (Box and Muller 1958). */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

function blank(side) {
  return canvasBlob(element("canvas", { width: side, height: side }));
}
