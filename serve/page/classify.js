// What a picture is: among labels of one's own (zero-shot), or among the classes that a model was trained on.

import { button, byId, debounced, element, guarded, pickPictures, takesPictures } from "./dom.js";
import { can, offer } from "./models.js";
import { dataUri, decoded, isSmall, shrunk } from "./pictures.js";

const LABELS = "genlib.labels";
const SHOWN = 6;
const IDEAS = 8;
const MOST = 24;

export class Classify {
  constructor(app) {
    this.app = app;
    this.model = byId("classify-model");
    this.labels = byId("classify-labels");
    this.labels.value = localStorage.getItem(LABELS) ?? "arrow\nhouse\nheart\ncloud\nanimal\ntool";
    this.pictures = [];
    const again = guarded(() => this.run());
    this.model.addEventListener("change", again);
    this.labels.addEventListener("input", debounced(again, 400));
    byId("classify-form").addEventListener("submit", (event) => event.preventDefault());
    const take = guarded((files) => this.take(files));
    byId("classify-pick").addEventListener("click", async () => take(await pickPictures(true)));
    takesPictures(byId("classify"), take);
  }

  async ready() {
    offer(this.model, this.app.models.filter(can.classify));
    const ideas = this.own && localStorage.getItem(LABELS) === null ? await this.app.heldOut.ideas(this.card, IDEAS) : [];
    if (ideas.length) this.labels.value = ideas.join("\n");
    this.draw();
  }

  get card() {
    return this.app.models.find((card) => card.id === this.model.value);
  }

  get own() {
    const found = Object.values(this.card?.actions ?? {}).find(({ result }) => result.port === "probabilities");
    return Object.values(found?.parameters.properties ?? {}).some((schema) => schema["x-port"] === "names");
  }

  /** Takes pictures, the newest first. */
  async take(files) {
    this.app.go("classify");
    for (const file of files) await decoded(file);
    this.pictures = [...files.map((blob) => ({ blob, url: URL.createObjectURL(blob) })), ...this.pictures];
    for (const old of this.pictures.splice(MOST)) URL.revokeObjectURL(old.url);
    await this.run();
  }

  async run() {
    this.draw();
    const labels = [...new Set(this.labels.value.split("\n").map((line) => line.trim()).filter(Boolean))];
    localStorage.setItem(LABELS, this.labels.value);
    if (!this.card || !this.pictures.length || (this.own && !labels.length)) return;
    const pictures = this.pictures;
    const images = await Promise.all(pictures.map(async ({ blob }) => dataUri(await shrunk(blob, 2 * this.card.image_size || 512))));
    const answers = await this.app.api.classify(this.card.id, images, this.own ? labels : null);
    if (pictures !== this.pictures) return;
    answers.forEach((answer, at) => (pictures[at].answer = answer));
    this.draw();
  }

  draw() {
    byId("classify-own").hidden = !this.own;
    const empty = element("p", { className: "empty" }, "Give a picture: what it is most likely to show appears here.");
    byId("classify-results").replaceChildren(...(this.pictures.length ? this.pictures.map((one) => this.result(one)) : [empty]));
  }

  result(one) {
    const shown = element("img", { src: one.url, alt: one.answer ? `Most likely ${one.answer[0].label}` : "A picture", on: { load: () => shown.classList.toggle("pixels", isSmall({ width: shown.naturalWidth, height: shown.naturalHeight })) } });
    const rows = (one.answer ?? []).slice(0, SHOWN).map(({ label, score }) => {
      const filled = element("i");
      filled.style.width = `${100 * score}%`;
      const bar = element("div", { className: "meter", role: "meter", aria: { label, valuemin: 0, valuemax: 1, valuenow: score } }, filled);
      return element("li", {}, element("span", {}, label), bar, element("span", { className: "share" }, `${(100 * score).toFixed(score < 0.1 ? 1 : 0)}%`));
    });
    const away = button("Put away", "close", () => ((this.pictures = this.pictures.filter((other) => other !== one)), this.draw()), { quiet: true, className: "plain square" });
    return element("article", { className: "guess" }, shown, element("ol", {}, ...rows), away);
  }
}
