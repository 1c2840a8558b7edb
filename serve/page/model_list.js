// What is served, with its limits and the hash of its weights.

import { byId, element } from "./dom.js";

export class ModelList {
  constructor(app) {
    this.app = app;
  }

  async ready() {
    byId("models-list").replaceChildren(...this.app.models.map(drawn));
  }
}

function drawn(card) {
  const facts = [
    ["Recipe", card.recipe], ["Step", card.step?.toLocaleString()], ["Trained on", card.image_size ? `${card.image_size} × ${card.image_size} pixels` : "vectors"],
    ["Other sizes", card.multiple ? `multiples of ${card.multiple}` : "none"], ["Steps at most", card.max_steps || "–"], ["At once", `${card.max_batch} rows`],
    ["Classes", card.classes?.length ? card.classes.slice(0, 12).join(", ") + (card.classes.length > 12 ? ` and ${card.classes.length - 12} more` : "") : "–"],
    ["Written", new Date(card.created * 1000).toLocaleString()],
  ].filter(([, value]) => value !== undefined);
  return element("article", { className: "model" },
    element("h2", {}, card.id),
    element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]),
      element("dt", {}, "SHA-256"), element("dd", { className: "mono" }, card.sha256 ?? "–")),
    element("h3", {}, "What it can do"),
    element("ul", { className: "deeds" }, ...Object.entries(card.actions ?? {}).map(([action, { description, parameters }]) =>
      element("li", {}, element("details", {}, element("summary", {}, element("code", {}, action), element("span", {}, description)),
        element("p", { className: "mono" }, Object.entries(parameters.properties ?? {}).map(([name, one]) => name + ("default" in one ? ` = ${JSON.stringify(one.default)}` : "")).join(", ")))))),
  );
}
