// Pictures found by what they show: CLIP's directions of a text and of pictures, compared in this page.

import { byId, debounced, guarded, offerIdeas, pickPictures, takesPictures } from "./dom.js";
import { can, offer } from "./models.js";
import { dataUri, decoded, shrunk } from "./pictures.js";
import { Tiles } from "./tiles.js";

const AT_ONCE = 32;
const IDEAS = 8;

export class Search {
  constructor(app) {
    this.app = app;
    this.model = byId("search-model");
    this.text = byId("search-text");
    this.like = null;
    this.turn = 0;
    this.tiles = new Tiles(byId("search-grid"), { open: (id) => app.view(id, this.found), caption: (one) => this.caption(one), empty: "Drop pictures here, or make some: they are then found by what they show." });
    const again = guarded(() => this.find());
    byId("search-form").addEventListener("submit", (event) => (event.preventDefault(), again()));
    this.text.addEventListener("input", debounced(() => ((this.like = null), again()), 250));
    this.model.addEventListener("change", again);
    byId("search-add").addEventListener("click", async () => this.add(await pickPictures(true)));
    takesPictures(byId("search"), (files) => this.add(files));
  }

  async ready() {
    offer(this.model, this.app.models.filter(can.search));
  }

  caption({ id, name = "" }) {
    return [this.scores?.get(id)?.toFixed(2), name].filter(Boolean).join("  ");
  }

  /** Words of the model's held-out samples, as examples of what can be asked. */
  async offerIdeas() {
    const { card } = this;
    if (this.offered === card) return; // the same buttons stay, and focus with them
    const words = await this.app.heldOut.ideas(card, IDEAS);
    if (card !== this.card) return;
    this.offered = card;
    offerIdeas(byId("search-ideas"), words, (word) => {
      [this.text.value, this.like] = [word, null];
      guarded(() => this.find())();
    });
  }

  open() {
    guarded(() => this.find())();
  }

  /** Takes files into the set that is searched, where they stay. */
  add = guarded(async (files) => {
    const kept = await Promise.all(files.map(async (file) => {
      const { width, height } = await decoded(file);
      const name = file.name.replace(/\.\w+$/, "");
      return { id: `added-${crypto.randomUUID()}`, added: true, created: Date.now(), blob: file, width, height, model: "", name, settings: {}, seed: null };
    }));
    await this.app.store.keep(...kept);
    await this.find();
  });

  /** Pictures that look like one. */
  async similar(picture) {
    this.text.value = "";
    this.like = picture.id;
    this.app.go("search");
    await this.find();
  }

  get card() {
    return this.app.models.find((card) => card.id === this.model.value);
  }

  /** Ranks all pictures; a later call overtakes an earlier one. */
  async find() {
    if (!this.card) return;
    const turn = (this.turn += 1);
    await this.offerIdeas();
    const own = await this.app.store.pictures({ added: true });
    const heldOut = await this.app.heldOut.of(this.card);
    const pictures = [...own, ...heldOut];
    const vectors = await this.directions(pictures, turn);
    const text = this.text.value.trim();
    const wanted = this.like ? vectors.get(this.like) : text ? (await this.app.api.embeddings(this.model.value, [text]))[0] : null;
    if (turn !== this.turn) return;
    this.scores = wanted && new Map(pictures.filter((one) => vectors.has(one.id)).map((one) => [one.id, cosine(wanted, vectors.get(one.id))]));
    this.found = wanted ? pictures.filter((one) => this.scores.has(one.id)).sort((a, b) => this.scores.get(b.id) - this.scores.get(a.id)) : pictures;
    this.tiles.show(this.found);
    const order = this.like ? ", the most similar first" : text ? ", the best match first" : own.length ? ", the newest first" : "";
    const counts = [own.length && counted(own.length, "picture") + (heldOut.length ? " of yours" : ""), heldOut.length && counted(heldOut.length, "picture") + " that training did not see"];
    this.say(counts.filter(Boolean).join(" and ") + (pictures.length ? order : ""));
  }

  /** Directions of pictures, made where they are not there yet. */
  async directions(pictures, turn) {
    const set = `${this.model.value} ${this.card.sha256}`;
    const vectors = await this.app.store.vectors(set);
    const missing = pictures.filter((one) => !vectors.has(one.id));
    for (let at = 0; at < missing.length && turn === this.turn; at += AT_ONCE) {
      this.say(`Looking at ${counted(missing.length - at, "picture")}`);
      const part = missing.slice(at, at + AT_ONCE);
      const input = await Promise.all(part.map(async (one) => dataUri(await shrunk(one.blob, 2 * this.card.image_size || 256))));
      const made = await this.app.api.embeddings(this.model.value, input);
      const pairs = part.map((one, index) => [one.id, made[index]]);
      await this.app.store.keepVectors(set, pairs);
      for (const [id, vector] of pairs) vectors.set(id, vector);
    }
    return vectors;
  }

  say(sentence) {
    byId("search-state").textContent = sentence;
  }
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function cosine(a, b) {
  let [both, first, second] = [0, 0, 0];
  for (let at = 0; at < a.length; at += 1) {
    both += a[at] * b[at];
    first += a[at] ** 2;
    second += b[at] ** 2;
  }
  return both / Math.sqrt(first * second || 1);
}
