// What a model's run kept of its held-out samples: pictures that the model never saw, and words to try.

import { notify } from "./dom.js";
import { blobOf, decoded } from "./pictures.js";

const LONGEST = 48; // letters of words that fit on a button

export class HeldOut {
  constructor(api) {
    this.api = api;
    this.known = new Map();
  }

  /** Pictures of a model's run, each with its words as `name`; none where it kept none. */
  of(card) {
    if (!card?.has_held_out) return Promise.resolve([]);
    // without them everything else still works, so that it is said once
    if (!this.known.has(card.sha256)) this.known.set(card.sha256, this.fetched(card).catch((error) => (notify(error.message, { bad: true }), [])));
    return this.known.get(card.sha256);
  }

  async fetched(card) {
    const rows = await this.api.heldOut(card.id);
    const blobs = rows.map((row) => blobOf(row.b64_json, row.media_type));
    const { width, height } = await decoded(blobs[0]); // all are of the model's size
    const shared = { heldOut: true, created: card.created * 1000, width, height, model: "", settings: {}, seed: null };
    return rows.map((row, at) => ({ ...shared, id: `held-out-${card.sha256}-${row.index}`, name: row.words, blob: blobs[at] }));
  }

  /** At most so many different words of them, from all over. */
  async ideas(card, most) {
    const words = [...new Set((await this.of(card)).map(({ name }) => name.trim()).filter((name) => name.length > 2 && name.length <= LONGEST))];
    const pitch = Math.max(1, words.length / most);
    return words.filter((_, at) => Math.floor(at / pitch) !== Math.floor((at - 1) / pitch)).slice(0, most);
  }
}
