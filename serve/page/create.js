// The form of what shall be made: shows what the chosen model has use for, and says it in the API's words.

import { byId, guarded, icon, notify, offerIdeas, pickPictures, takesPictures } from "./dom.js";
import { Segments, Slider } from "./form.js";
import { choices, creators, modesOf, needs, offer, sides, takes } from "./models.js";
import { Painter } from "./painter.js";
import { settingsOf } from "./png.js";

const DRAFT = "genlib.draft";
const MOST_SEED = Number.MAX_SAFE_INTEGER;
const PARTIALS = 8;
const IDEAS = 5;

export class Create {
  constructor(app) {
    this.app = app;
    this.source = null;
    this.offered = "";
    for (const name of ["model", "prompt", "label", "negative", "width", "height", "sampler", "seed", "dice", "lock", "go"]) this[name] = byId(name);
    const at = (name) => document.querySelector(`[data-slider="${name}"]`);
    this.count = new Slider(at("count"), { label: "Pictures", low: 1, high: 16, step: 1, value: 4 });
    this.steps = new Slider(at("steps"), { label: "Steps", low: 1, high: 100, step: 1, value: 25 });
    this.guidance = new Slider(at("guidance"), { label: "Guidance", low: 0, high: 15, step: 0.5, value: null, auto: true });
    this.truncation = new Slider(at("truncation"), { label: "Truncation", low: -1, high: 1.5, step: 0.05, value: 1, signed: true });
    this.strength = new Slider(at("strength"), { label: "Strength of the change", low: 0, high: 1, step: 0.05, value: 0.6 });
    this.painter = new Painter(byId("painter"));
    this.mode = new Segments(byId("mode"), guarded(() => this.fit()));
    this.listen();
  }

  listen() {
    const form = byId("wish");
    this.model.addEventListener("change", guarded(() => this.fit()));
    for (const side of [this.width, this.height]) side.addEventListener("change", guarded(() => this.paint()));
    this.dice.addEventListener("click", () => this.roll());
    this.lock.addEventListener("click", () => this.hold(!this.locked));
    form.addEventListener("submit", (event) => (event.preventDefault(), this.submit()));
    form.addEventListener("input", () => this.draft());
    form.addEventListener("change", () => this.draft());
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || byId("create").hidden || byId("viewer").open) return;
      event.preventDefault(); // a field would submit the form once more
      this.submit();
    });
    const take = guarded(([file]) => file && this.take(file));
    byId("source-pick").addEventListener("click", async () => take(await pickPictures()));
    byId("source-drop").addEventListener("click", guarded(() => this.begin(null)));
    takesPictures(byId("source"), take);
  }

  /** Called once the models are known. */
  async ready() {
    offer(this.model, creators(this.app.models));
    this.go.disabled = !this.card;
    this.roll();
    this.hold(false);
    await this.fill(JSON.parse(localStorage.getItem(DRAFT) ?? "{}"));
  }

  get card() {
    return this.app.models.find((card) => card.id === this.model.value);
  }

  /** The action that the form is for. */
  get action() {
    if (this.source && this.mode.value) return this.mode.value === "outpaint" ? "inpaint" : this.mode.value;
    return takes(this.card, "generate") ? "generate" : this.mode.value;
  }

  /** Makes the form fit the model and the source. */
  async fit() {
    const { card } = this;
    if (!card) return;
    const modes = modesOf(card).filter(([mode]) => mode !== "outpaint" || takes(card, "inpaint"));
    this.mode.offer(modes);
    const wanted = needs(card, this.source ? this.action : takes(card, "generate") ? "generate" : modes[0][0]);
    if (this.source && this.mode.value !== "image_to_image" && !(this.mode.value === "inpaint" && takes(card, "inpaint"))) wanted.delete("strength");
    for (const field of document.querySelectorAll("#wish [data-needs]")) field.hidden = !wanted.has(field.dataset.needs);
    byId("source-empty").hidden = Boolean(this.source);
    byId("source-there").hidden = !this.source;
    this.offers(card, takes(card, this.action) ?? {});
    await this.paint();
    const ideas = wanted.has("texts") ? await this.app.heldOut.ideas(card, IDEAS) : [];
    if (card === this.card) offerIdeas(byId("prompt-ideas"), ideas, (words) => ((this.prompt.value = words), this.draft(), this.prompt.focus()));
  }

  offers(card, schema) {
    if (this.offered === `${card.id} ${this.action}`) return;
    const another = !this.offered.startsWith(`${card.id} `);
    this.offered = `${card.id} ${this.action}`;
    const options = (select, values, first, keep) => {
      const before = select.value;
      select.replaceChildren(...values.map((value) => new Option(value, value)));
      select.value = keep && values.some((value) => String(value) === before) ? before : (first ?? values[0] ?? "");
    };
    options(this.label, card.classes ?? [], undefined, true);
    options(this.sampler, choices(schema.sampler), schema.sampler?.default, !another);
    for (const side of [this.width, this.height]) options(side, sides(card), card.image_size, !another);
    this.steps.bounds(1, Math.max(Math.min(card.max_steps || 200, 200), schema.steps?.default ?? 1), 1);
    this.steps.value = schema.steps?.default ?? 25;
    this.guidance.value = schema.guidance?.default > 0 ? schema.guidance.default : null;
    this.truncation.value = schema.truncation?.default ?? 1;
    if (schema.strength) this.strength.value = schema.strength.default ?? 0.6;
  }

  get frame() {
    return this.card.multiple ? [Number(this.width.value), Number(this.height.value)] : [this.card.image_size, this.card.image_size];
  }

  async paint() {
    if (!this.source || !this.mode.value) return;
    this.opening = this.painter.open(this.source, ...this.frame, this.mode.value);
    await this.opening;
  }

  /** Starts from a file; one that says how it was made can also be made again. */
  async take(file) {
    await this.begin(file);
    const settings = await settingsOf(file);
    if (settings) notify("This picture says how it was made.", { action: ["Use these settings", guarded(() => this.begin(null).then(() => this.use(settings)))] });
  }

  /** Starts from a picture, or from none. */
  async begin(blob) {
    if (blob && !modesOf(this.card).length) this.model.value = this.app.models.find((card) => modesOf(card).length).id;
    this.source = blob;
    this.app.go("create");
    await this.fit();
  }

  get locked() {
    return this.lock.getAttribute("aria-pressed") === "true";
  }

  hold(locked) {
    this.lock.setAttribute("aria-pressed", String(locked));
    this.lock.replaceChildren(icon(locked ? "lock" : "unlock"));
    byId("seed-note").textContent = locked ? "This seed again next time; picture i has the seed plus i." : "Another seed each time; picture i has the seed plus i.";
  }

  roll() {
    this.seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 2 ** 31;
  }

  /** What the form says, of what the model has use for. */
  settings() {
    const shown = (name) => !document.querySelector(`#wish [data-needs="${name}"]`).hidden;
    const [width, height] = this.frame;
    const all = {
      texts: this.prompt.value.trim(), label: this.label.value, negative_text: this.negative.value.trim(), steps: this.steps.value,
      guidance: this.guidance.value, truncation: this.truncation.value, sampler: this.sampler.value, seeds: Math.min(MOST_SEED, Math.max(0, Math.floor(Number(this.seed.value) || 0))),
    };
    const used = Object.fromEntries(Object.entries(all).filter(([name, value]) => shown(name) && value !== "" && value !== null));
    const { texts: prompt, negative_text: negative, guidance, seeds: seed, ...rest } = used;
    const mode = this.source ? { mode: this.mode.value, ...(this.mode.value === "image_to_image" && { strength: this.strength.value }) } : {};
    return { model: this.card.id, count: this.count.value, width, height, ...rest, ...(prompt !== undefined && { prompt }), ...(seed !== undefined && { seed }), ...(negative && { negative }), ...(guidance !== undefined && { guidance }), ...mode };
  }

  /** Puts settings into the form; what they do not name stays. */
  async fill(settings) {
    if (creators(this.app.models).some((card) => card.id === settings.model)) this.model.value = settings.model;
    if (settings.mode && this.source) this.mode.set(settings.mode, false);
    await this.fit();
    const put = (control, value) => value !== undefined && value !== null && (control.value = value);
    put(this.prompt, settings.prompt);
    put(this.label, settings.label);
    put(this.negative, settings.negative);
    put(this.sampler, settings.sampler);
    put(this.count, settings.count);
    put(this.steps, settings.steps);
    put(this.strength, settings.strength);
    put(this.truncation, settings.truncation);
    put(this.seed, settings.seed);
    if ("guidance" in settings) this.guidance.value = settings.guidance;
    if (this.card?.multiple) for (const side of ["width", "height"]) if (sides(this.card).includes(settings[side])) this[side].value = settings[side];
    await this.paint();
  }

  /** Puts a picture's settings into the form, all of them: its seed stays. */
  async use(settings) {
    this.app.go("create");
    await this.fill({ prompt: "", negative: "", guidance: null, ...settings });
    this.hold(true);
    this.draft();
    this.go.focus();
  }

  draft() {
    if (this.card) localStorage.setItem(DRAFT, JSON.stringify(this.settings()));
  }

  submit = guarded(async () => {
    if (!this.card || !byId("wish").reportValidity()) return;
    if (!this.source && !takes(this.card, "generate")) {
      notify(`${this.card.id} starts from a picture: choose one.`, { bad: true });
      byId("source-pick").focus();
      return;
    }
    const settings = this.settings();
    await this.app.runs.start(this.source ? await this.edit(settings) : generation(settings), settings);
    if (!this.locked) this.roll();
    byId("runs").scrollIntoView({ block: "nearest" });
  });

  async edit(settings) {
    await this.opening;
    const mask = await this.painter.mask();
    const more = { mode: mask ? "inpaint" : settings.mode, ...(settings.strength !== undefined && { strength: settings.strength }) };
    const pairs = Object.entries({ ...spoken(settings), ...more }).map(([name, value]) => [name, String(value)]);
    return { path: "v1/images/edits", body: [...pairs, ["image", await this.painter.image()], ...(mask ? [["mask", mask]] : [])] };
  }
}

/** Settings in the API's words. */
function spoken({ model, prompt, label, negative, count, width, height, seed, steps, guidance, truncation, sampler }) {
  const all = {
    model, prompt, label, n: count, size: `${width}x${height}`, seed, negative_prompt: negative, guidance_scale: guidance,
    num_inference_steps: steps, truncation, scheduler: sampler, async: true, partial_images: PARTIALS,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

function generation(settings) {
  return { path: "v1/images/generations", body: spoken(settings) };
}
