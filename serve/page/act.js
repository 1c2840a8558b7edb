// Any action of any model: a field for each of its ports, and what comes out as its result's port says.

import { byId, button, element, guarded, pickPictures, takesPictures } from "./dom.js";
import { can, offer } from "./models.js";
import { dataUri, decoded, isSmall } from "./pictures.js";

const ROWS = 12; // rows of numbers that are shown
const COLUMNS = 16;
const short = (value) => (Array.isArray(value) ? `[${value.map(short).join(", ")}]` : typeof value === "number" ? String(Math.round(value * 1e4) / 1e4) : String(value));

export class Act {
  constructor(app) {
    this.app = app;
    this.model = byId("act-model");
    this.action = byId("act-action");
    this.model.addEventListener("change", () => this.offers());
    this.action.addEventListener("change", () => this.draw());
    byId("act-form").addEventListener("submit", guarded((event) => (event.preventDefault(), this.run())));
  }

  async ready() {
    offer(this.model, this.app.models.filter(can.act));
    this.offers();
  }

  get card() {
    return this.app.models.find((card) => card.id === this.model.value);
  }

  get chosen() {
    return this.card?.actions[this.action.value];
  }

  offers() {
    this.action.replaceChildren(...Object.keys(this.card?.actions ?? {}).map((name) => new Option(name, name)));
    this.draw();
  }

  /** A field for each argument: what is needed first. */
  draw() {
    byId("act-about").textContent = this.chosen?.description ?? "";
    const { properties = {}, required = [] } = this.chosen?.parameters ?? {};
    const names = Object.keys(properties).sort((one, other) => required.includes(other) - required.includes(one));
    this.fields = names.map((name) => field(name, properties[name], this.card, required.includes(name)));
    byId("act-fields").replaceChildren(...this.fields.map(({ root }) => root));
    byId("act-result").replaceChildren(element("p", { className: "empty" }, "What the action gives appears here."));
  }

  async run() {
    byId("act-go").disabled = true;
    try {
      const given = {};
      for (const { name, value } of this.fields) {
        const found = await value();
        if (found !== undefined) given[name] = found;
      }
      const { result } = this.chosen;
      const made = await this.app.api.action(this.card.id, this.action.value, given);
      byId("act-result").replaceChildren(result.picture ? pictures(made) : numbers(made));
    } finally {
      byId("act-go").disabled = false;
    }
  }
}

/** {name, root, value()} of one argument; a value that is undefined is left to the model. */
function field(name, schema, card, needed) {
  const id = `act-${name}`;
  const note = `${schema["x-port"] ?? ""}${needed ? "" : ", optional"}`;
  const [control, value] = schema["x-picture"] ? picturesField(id) : plainField(id, schema, card);
  const root = element("div", { className: "field", data: { port: schema["x-port"] } }, element("label", { htmlFor: id }, name), control, element("small", {}, note));
  return { name, root, value };
}

/** Pictures from files. */
function picturesField(id) {
  let files = [];
  const shown = element("div", { className: "strip" });
  const take = guarded(async (found) => {
    for (const file of found) await decoded(file);
    files = found;
    shown.replaceChildren(...files.map((file) => element("img", { className: "pixels", alt: file.name, src: URL.createObjectURL(file) })));
  });
  const choose = button("Choose pictures", "upload", async () => take(await pickPictures(true)));
  choose.id = id;
  const root = element("div", { className: "drop", tabIndex: 0 }, choose, shown);
  takesPictures(root, take);
  return [root, async () => (files.length ? Promise.all(files.map(dataUri)) : undefined)];
}

/** Numbers, words, choices, and arrays as JSON. */
function plainField(id, schema, card) {
  if (schema.enum) {
    const select = element("select", { id }, ...schema.enum.map((one) => new Option(one, one)));
    if (schema.default !== undefined) select.value = schema.default;
    return [select, async () => select.value];
  }
  if (schema["x-port"] === "label" && card.classes.length) {
    const select = element("select", { id }, ...card.classes.map((one, number) => new Option(one, number)));
    return [select, async () => [Number(select.value)]];
  }
  if (schema.type === "integer" || schema.type === "number") {
    const input = element("input", { id, type: "number", min: schema.minimum, max: schema.maximum, step: schema.type === "integer" ? 1 : "any", value: schema.default ?? "" });
    return [input, async () => (input.value === "" ? undefined : Number(input.value))];
  }
  if (schema.type === "string") {
    const input = element("input", { id, type: "text", value: schema.default ?? "" });
    return [input, async () => input.value || undefined];
  }
  const words = schema.items?.type === "string";
  const area = element("textarea", { id, rows: words ? 3 : 2, placeholder: words ? "One a line" : schema.anyOf ? "[[0.1, 0.2], …]" : "1, 2, 3" });
  return [area, async () => entries(area.value.trim(), words, Boolean(schema.anyOf))];
}

function entries(text, words, array) {
  if (!text) return undefined;
  if (words) return text.split("\n").map((line) => line.trim()).filter(Boolean);
  const list = array ? text : text.startsWith("[") ? text : `[${text}]`;
  try {
    return JSON.parse(list);
  } catch {
    throw new Error(`“${text.slice(0, 40)}” is no list of numbers, as in ${array ? "[[0.1, 0.2]]" : "1, 2, 3"}.`);
  }
}

function pictures(blobs) {
  return element("div", { className: "tiles" }, ...blobs.map((blob, at) => {
    const shown = element("img", { className: "subject", alt: `Picture ${at + 1}`, src: URL.createObjectURL(blob), on: { load: () => shown.classList.toggle("pixels", isSmall({ width: shown.naturalWidth, height: shown.naturalHeight })) } });
    return shown;
  }));
}

/** A table of rows; what is deeper stands in a cell as JSON. */
function numbers(made) {
  const rows = (Array.isArray(made) ? made : [made]).map((row) => (Array.isArray(row) ? row : [row]));
  const cell = (value) => element("td", {}, short(value).slice(0, 80));
  const body = rows.slice(0, ROWS).map((row, at) => element("tr", {}, element("th", { scope: "row" }, String(at)), ...row.slice(0, COLUMNS).map(cell), row.length > COLUMNS ? element("td", {}, `… ${row.length} in all`) : null));
  const rest = rows.length - ROWS;
  return element("div", { className: "scroll" }, element("table", { className: "numbers" }, element("tbody", {}, ...body)), rest > 0 ? element("p", { className: "faint" }, `and ${rest} more ${rest === 1 ? "row" : "rows"}`) : null);
}
