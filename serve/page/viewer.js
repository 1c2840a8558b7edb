// One picture, large: how it was made, and what to do with it next.

import { button, byId, download, element, guarded, notify } from "./dom.js";
import { can, modesOf } from "./models.js";
import { forget } from "./pictures.js";
import { described, image } from "./tiles.js";

const FACTS = [
  ["prompt", "Prompt"], ["label", "Class"], ["negative", "Without"], ["model", "Model"], ["mode", "Made by"], ["seed", "Seed"], ["steps", "Steps"],
  ["guidance", "Guidance"], ["sampler", "Sampler"], ["strength", "Strength"],
];

export class Viewer {
  constructor(app) {
    this.app = app;
    this.dialog = byId("viewer");
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** Shows a kept picture; the arrows go through `among`. */
  async open(id, among = []) {
    this.among = among.map((one) => one.id);
    this.heldOut = new Map(among.filter((one) => one.heldOut).map((one) => [one.id, one]));
    await this.show(id);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelector(".use").focus();
  }

  async show(id) {
    this.picture = this.heldOut.get(id) ?? (await this.app.store.picture(id));
    if (!this.picture || this.picture.gone) return this.dialog.close();
    const at = this.among.indexOf(id);
    const side = (step, name, label) => Object.assign(button(label, name, () => this.step(step), { quiet: true, className: `square ${name}` }), { disabled: !this.among[at + step] });
    byId("viewed").replaceChildren(
      element("div", { className: "lightbox" }, image(this.picture, { loading: "eager" }), side(-1, "left", "Previous picture"), side(1, "right", "Next picture")),
      element("div", { className: "facts" }, element("div", { className: "row end" }, this.picture.heldOut ? null : this.star(), button("Close", "close", () => this.dialog.close(), { quiet: true, className: "square plain" })),
        this.facts(), element("div", { className: "actions" }, ...this.actions())),
    );
  }

  facts() {
    const { settings, width, height, created, seed, model, name, heldOut } = this.picture;
    const known = { ...settings, seed, model };
    const rows = FACTS.filter(([name]) => known[name] !== undefined && known[name] !== null && known[name] !== "").map(([name, label]) => [label, known[name]]);
    if (name) rows.push(["Words", name]);
    rows.push(["Size", `${width} × ${height}`], heldOut ? ["From", "Held-out samples: training did not see it"] : ["Made", new Date(created).toLocaleString()]);
    return element("dl", {}, ...rows.flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, String(value))]));
  }

  actions() {
    const { app, picture } = this;
    const leave = (act) => guarded(async () => (this.dialog.close(), act()));
    const found = Object.keys(picture.settings).length ? [button("Use these settings", "reuse", leave(() => app.create.use(picture.settings)), { className: "primary" })] : [];
    if (app.models.some((card) => modesOf(card).length)) found.push(button("Start from this", "brush", leave(() => app.create.begin(picture.blob))));
    if (app.models.some(can.search)) found.push(button("Find similar", "search", leave(() => app.search.similar(picture))));
    if (app.models.some(can.classify)) found.push(button("Classify", "classify", leave(() => app.classify.take([picture.blob]))));
    found.push(button("Save", "download", () => download(picture.blob, `${(described(picture).replace(/[^\p{L}\p{N}]+/gu, "-") || "picture").slice(0, 80)}.${picture.blob.type === "image/jpeg" ? "jpg" : "png"}`)));
    if (!picture.heldOut) found.push(button("Delete", "trash", guarded(() => this.remove()), { className: "danger" }));
    found[0].classList.add("use");
    return found;
  }

  star() {
    const toggle = button("Favourite", "star", guarded(async () => {
      this.picture.favourite = !this.picture.favourite;
      await this.app.store.keep(this.picture);
      toggle.setAttribute("aria-pressed", String(this.picture.favourite));
    }), { quiet: true, className: "square" });
    toggle.setAttribute("aria-pressed", String(Boolean(this.picture.favourite)));
    return toggle;
  }

  async remove() {
    const picture = this.picture;
    const at = this.among.indexOf(picture.id);
    const next = this.among[at + 1] ?? this.among[at - 1];
    this.among = this.among.filter((id) => id !== picture.id);
    await this.app.store.remove(picture);
    const undo = guarded(() => this.app.store.keep(picture));
    notify("Deleted from this browser.", { action: ["Undo", undo] });
    forget(picture);
    if (next) await this.show(next);
    else this.dialog.close();
  }

  step(by) {
    const next = this.among[this.among.indexOf(this.picture.id) + by];
    if (next) this.show(next).then(() => this.dialog.querySelector(by < 0 ? ".left" : ".right").focus());
  }

  key(event) {
    if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else if (event.key === "Delete" && !this.picture.heldOut) guarded(() => this.remove())();
  }
}
