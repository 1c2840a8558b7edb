// A self-organising map: its units as pictures where they lie, coloured by what lies between them; pictures find their place on it.

import { byId, element, guarded, pickPictures, takesPictures } from "./dom.js";
import { neighbours, placesOf, units } from "./map_units.js";
import { SAMPLE, actionOf, asArguments, can, offer } from "./models.js";
import { addressOf, dataUri, fitted, values } from "./pictures.js";

const SVG = "http://www.w3.org/2000/svg";
const classing = (card) => actionOf(card, "probabilities", SAMPLE);
const always = () => true;
const COLOURS = [["distance", "Distance to neighbours", always], ["cluster", "Clusters", (card) => "cluster" in card.actions], ["class", "Classes", classing], ["none", "None", always]];
const CELL = 40; // units of the drawing a step on the grid

export class MapView {
  constructor(app) {
    this.app = app;
    this.model = byId("map-model");
    this.colour = byId("map-colour");
    this.model.addEventListener("change", guarded(() => this.set()));
    this.colour.addEventListener("change", guarded(() => this.paint()));
    byId("map-form").addEventListener("submit", (event) => event.preventDefault());
    const take = guarded((files) => this.find(files));
    byId("map-pick").addEventListener("click", async () => take(await pickPictures(true)));
    takesPictures(byId("map"), take);
  }

  async ready() {
    offer(this.model, this.app.models.filter(can.map));
  }

  open() {
    if (this.shown !== this.model.value) guarded(() => this.set())();
  }

  get card() {
    return this.app.models.find((card) => card.id === this.model.value);
  }

  async set() {
    this.shown = this.model.value;
    this.colour.replaceChildren(...COLOURS.filter(([, , offered]) => offered(this.card)).map(([value, label]) => new Option(label, value)));
    byId("map-picture").replaceChildren(element("p", { className: "empty" }, "Reading the map"));
    this.map = await units(this.app.api, this.card);
    this.pixels = await Promise.all(this.map.units.map((one) => values(one.blob)));
    this.draw();
    await this.paint();
  }

  draw() {
    const { units: all, hexagonal } = this.map;
    const [xs, ys] = [all.map((one) => one.x * CELL), all.map((one) => one.y * CELL)];
    const [left, top] = [Math.min(...xs) - CELL * 0.7, Math.min(...ys) - CELL * 0.7];
    this.svg = drawn("svg", { class: "map", viewBox: `${left} ${top} ${Math.max(...xs) + CELL * 0.7 - left} ${Math.max(...ys) + CELL * 0.7 - top}`, role: "listbox", "aria-label": "Units of the map" });
    const side = CELL * (hexagonal ? 0.62 : 0.8);
    this.cells = all.map((one, at) => {
      const cell = drawn("g", { transform: `translate(${xs[at]} ${ys[at]})`, role: "option", tabindex: at ? -1 : 0, "aria-label": `Unit ${at + 1}` });
      const shape = hexagonal ? drawn("polygon", { points: hexagon(CELL / Math.sqrt(3)) }) : drawn("rect", { x: -CELL / 2, y: -CELL / 2, width: CELL, height: CELL });
      const url = addressOf({ id: `unit-${this.card.id}-${this.card.sha256}-${at}`, blob: one.blob });
      cell.append(shape, drawn("image", { href: url, x: -side / 2, y: -side / 2, width: side, height: side, class: "pixels" }));
      cell.addEventListener("click", guarded(() => this.choose(at)));
      cell.addEventListener("focus", guarded(() => this.choose(at)));
      return cell;
    });
    this.marks = drawn("g", { class: "marks" });
    this.svg.append(...this.cells, this.marks);
    this.svg.addEventListener("keydown", (event) => this.key(event));
    byId("map-picture").replaceChildren(this.svg, (this.legend = element("ul", { className: "legend" })));
  }

  async paint() {
    const kind = this.colour.value;
    const images = async () => Promise.all(this.map.units.map((one) => dataUri(one.blob)));
    const ask = async (action) => (this.map[action] ??= await this.app.api.action(this.card.id, action, asArguments(this.card, action, [[SAMPLE, await images()]])));
    if (kind === "distance") this.shade(this.distances());
    else if (kind === "none") this.tint(this.map.units.map(() => null), []);
    else if (kind === "cluster") this.tint(Array.from(await ask("cluster"), Number), (number) => `Cluster ${number + 1}`);
    else this.tint((await ask(classing(this.card))).map((row) => row.indexOf(Math.max(...row))), (number) => this.card.classes[number] ?? `Class ${number}`);
  }

  /** Mean distance of each unit to its neighbours, from 0 to 1 (the U-matrix, Ultsch 1990). */
  distances() {
    const apart = (a, b) => Math.sqrt(this.pixels[a].reduce((sum, value, at) => sum + (value - this.pixels[b][at]) ** 2, 0));
    const means = this.map.units.map((_, at) => {
      const near = neighbours(this.map, at);
      return near.reduce((sum, other) => sum + apart(at, other), 0) / Math.max(1, near.length);
    });
    const [low, high] = [Math.min(...means), Math.max(...means)];
    return means.map((mean) => (mean - low) / (high - low || 1));
  }

  shade(shares) {
    this.cells.forEach((cell, at) => (cell.firstChild.style.fill = `color-mix(in oklab, var(--accent) ${Math.round(100 * shares[at])}%, var(--sunk))`));
    this.legend.replaceChildren(element("li", {}, element("i", { className: "ramp" }), "alike to unlike its neighbours"));
  }

  tint(numbers, nameOf) {
    const used = [...new Set(numbers)].filter((one) => one !== null).sort((a, b) => a - b);
    const hue = (number) => `oklch(70% 0.13 ${Math.round((360 * used.indexOf(number)) / used.length + 40)})`;
    this.cells.forEach((cell, at) => (cell.firstChild.style.fill = numbers[at] === null ? "var(--sunk)" : hue(numbers[at])));
    this.legend.replaceChildren(...used.slice(0, 40).map((number) => {
      const spot = element("i");
      spot.style.background = hue(number);
      return element("li", {}, spot, nameOf(number));
    }));
  }

  async choose(at) {
    this.cells.forEach((cell, other) => (cell.setAttribute("aria-selected", String(at === other)), (cell.tabIndex = at === other ? 0 : -1)));
    const one = this.map.units[at];
    const shown = element("img", { className: "subject pixels", src: this.cells[at].querySelector("image").getAttribute("href"), alt: `Prototype of unit ${at + 1}` });
    byId("map-detail").replaceChildren(shown, element("p", { className: "faint" }, `Unit ${at + 1} at ${one.x.toFixed(1)}, ${one.y.toFixed(1)}`));
  }

  key(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    const at = this.cells.indexOf(document.activeElement);
    if (at < 0 || (!x && !y)) return;
    event.preventDefault();
    const here = this.map.units[at];
    const ahead = this.map.units.map((one, other) => [other, (one.x - here.x) * x + (one.y - here.y) * y, Math.abs((one.x - here.x) * y + (one.y - here.y) * x)]);
    const [next] = ahead.filter(([, along, aside]) => along > 0.1 && aside <= along + 0.1).sort((a, b) => a[1] + a[2] - b[1] - b[2]);
    if (next) this.cells[next[0]].focus();
  }

  /** Marks where pictures belong. */
  async find(files) {
    const side = this.card.image_size;
    const images = await Promise.all(files.map(async (file) => dataUri(await fitted(file, side, side))));
    const places = await placesOf(this.app.api, this.card, images);
    this.marks.replaceChildren(...places.map(([x, y], at) => {
      const mark = drawn("g", { transform: `translate(${x * CELL} ${y * CELL})` });
      mark.append(drawn("circle", { r: CELL * 0.5 }), drawn("image", { href: URL.createObjectURL(files[at]), x: -CELL * 0.3, y: -CELL * 0.3, width: CELL * 0.6, height: CELL * 0.6 }));
      return mark;
    }));
    const [x, y] = places[0];
    await this.choose(this.map.units.findIndex((one) => Math.hypot(one.x - x, one.y - y) < 0.3));
  }
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function hexagon(radius) {
  return Array.from({ length: 6 }, (_, corner) => [30, 90, 150, 210, 270, 330][corner] * (Math.PI / 180)).map((angle) => `${radius * Math.cos(angle)},${radius * Math.sin(angle)}`).join(" ");
}
