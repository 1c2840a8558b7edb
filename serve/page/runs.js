// Work that the server does for this page: started, followed, cancelled, and found again after a refresh. Pictures are kept before a job is forgotten.

import { button, element, guarded, notify } from "./dom.js";
import { ending, news, picturesOf } from "./jobs.js";
import { blobOf } from "./pictures.js";
import { described, image } from "./tiles.js";

const FOLLOWED = 3; // jobs whose news are heard at a time: browsers keep six connections to a server

export class Runs {
  constructor(app, root) {
    Object.assign(this, { app, root, cards: new Map(), heard: 0, waiting: [] });
  }

  /** Goes on with what ran when the page was left, or was started in another tab. */
  async resume() {
    for (const record of await this.app.store.jobs()) if (!this.cards.has(record.key)) this.follow(record);
  }

  /** Starts what `request` = {path, body} says; `settings` are what the form showed, `body` an object or [name, value] pairs of a form. */
  async start(request, settings) {
    const record = { key: crypto.randomUUID(), created: Date.now(), ...request, settings, id: null };
    await this.app.store.keepJob(record);
    for (const [key, card] of this.cards) if (card.over) this.drop(key, card);
    this.follow(record);
  }

  drop(key, card) {
    card.root.remove();
    this.cards.delete(key);
  }

  async follow(record) {
    const { store } = this.app;
    const card = new Card(record, { cancel: guarded(() => this.cancel(record, card)), close: () => this.drop(record.key, card), app: this.app });
    this.cards.set(record.key, card);
    this.root.prepend(card.root);
    try {
      const pictures = await this.result(record, card);
      await store.keep(...pictures);
      await store.dropJob(record.key);
      card.finish(pictures);
    } catch (error) {
      if (!card.cancelled) card.fail(error);
      if (error.name !== "Unreachable") await store.dropJob(record.key);
    }
  }

  async result(record, card) {
    const { api, store } = this.app;
    if (!record.id) {
      const body = Array.isArray(record.body) ? formData(record.body) : record.body;
      record.id = (await reaching(api.start(record.path, body, record.key))).id;
      if (card.cancelled) return this.cancel(record, card);
      await store.keepJob(record);
    }
    const job = await this.ended(record, card);
    if (job.status !== "completed") throw new Error(job.error?.message ?? `This was ${job.status} elsewhere.`);
    return reaching(picturesOf(api, job, record.settings));
  }

  /** Follows a job to its end, once its turn has come. */
  async ended(record, card) {
    if (this.heard === FOLLOWED) await new Promise((resolve) => this.waiting.push(resolve));
    else this.heard += 1;
    try {
      return await this.followed(record, card);
    } finally {
      if (this.waiting.length) this.waiting.shift()();
      else this.heard -= 1;
    }
  }

  async followed(record, card) {
    card.signal.throwIfAborted();
    for await (const event of this.app.api.events(record.id, card.signal)) {
      card.hear(news(event));
      const job = ending(event);
      if (job) return job;
    }
    return reaching(this.app.api.job(record.id));
  }

  async cancel(record, card) {
    card.stop();
    await this.app.store.dropJob(record.key);
    if (record.id) await this.app.api.cancel(record.id);
    this.drop(record.key, card);
    notify("Cancelled.");
    return [];
  }
}

/** Marks what failed only because the server was away: such work is not forgotten. */
async function reaching(promise) {
  try {
    return await promise;
  } catch (error) {
    if (!error.status || error.status >= 500 || error.status === 429) error.name = "Unreachable";
    throw error;
  }
}

function formData(pairs) {
  const form = new FormData();
  for (const [name, value] of pairs) form.append(name, value);
  return form;
}

/** What one sees of a run: its pictures as they become clear. */
class Card {
  constructor(record, { cancel, close, app }) {
    Object.assign(this, { record, app, over: false, cancelled: false, abort: new AbortController(), close });
    this.status = element("span", { className: "faint" }, "Waiting");
    this.bar = element("progress", { max: 1, aria: { label: "Progress" } });
    this.end = button("Cancel", "stop", cancel, { className: "cancel" });
    this.frames = Array.from({ length: record.settings.count }, () => element("div", { className: "frame" }));
    this.shape();
    const title = described({ settings: record.settings, model: record.settings.model });
    this.root = element("article", { className: "run", aria: { label: title } },
      element("div", { className: "row head" }, element("strong", { className: "title" }, title), this.status, this.end),
      this.bar,
      (this.grid = element("div", { className: "frames", data: { count: this.frames.length } }, ...this.frames)));
  }

  shape() {
    const { width, height } = this.record.settings;
    for (const frame of this.frames) frame.style.aspectRatio = `${width} / ${height}`;
  }

  get signal() {
    return this.abort.signal;
  }

  /** {step, steps} of progress, `partials` [[index, base64]]. */
  hear({ step, steps, partials }) {
    if (steps) {
      this.bar.value = step / steps;
      this.status.textContent = `Step ${step} of ${steps}`;
    }
    for (const [index, base64] of partials) this.develop(index, base64);
  }

  develop(index, base64) {
    const frame = this.frames[index];
    const shown = frame?.querySelector("img") ?? element("img", { alt: "Becoming clear" });
    const before = shown.src;
    shown.src = URL.createObjectURL(blobOf(base64));
    shown.classList.toggle("pixels", this.record.settings.width <= 160);
    if (before) URL.revokeObjectURL(before);
    if (frame && !shown.isConnected) frame.append(shown);
  }

  finish(pictures) {
    this.over = true;
    this.root.classList.add("over");
    this.bar.remove();
    this.status.textContent = "";
    this.end.replaceWith(button("Put away", "close", this.close, { quiet: true, className: "plain square" }));
    this.grid.replaceChildren(...pictures.map((one) =>
      element("button", { type: "button", className: "frame", on: { click: () => this.app.view(one.id) } }, image(one, { loading: "eager" }))));
    this.grid.dataset.count = pictures.length;
  }

  fail(error) {
    this.over = true;
    this.root.classList.add("over");
    this.bar.remove();
    this.grid.remove();
    this.status.replaceWith(element("p", { className: "bad", role: "alert" }, error.message));
    this.end.replaceWith(
      button("Try again", "reuse", () => (this.close(), this.app.runs.start({ path: this.record.path, body: this.record.body }, this.record.settings))),
      button("Put away", "close", this.close, { quiet: true, className: "plain square" }));
  }

  stop() {
    this.cancelled = true;
    this.abort.abort();
    this.end.disabled = true;
    this.status.textContent = "Cancelling";
  }
}
