// What is served: what each model shows, reached and learnt from, how it is asked, and what it can do.

import { button, byId, element, guarded, notify } from "./dom.js";
import { asCurl, asPython, exampleOf } from "./example.js";

const IDEAS = 3;
const CLASSES = 12;

export class ModelList {
  constructor(app) {
    this.app = app;
    this.drawn = null;
  }

  async ready() {
    this.drawn = null;
  }

  open() {
    if (this.drawn === this.app.models) return;
    this.drawn = this.app.models;
    byId("models-list").replaceChildren(...this.app.models.map((card) => this.article(card)));
  }

  article(card) {
    const picture = element("div", { className: "telling", hidden: true });
    const example = element("div", { className: "example" });
    if (card.has_picture) guarded(() => this.show(picture, card))();
    guarded(() => this.exemplify(example, card))();
    return element("article", { className: "model" },
      element("h2", {}, card.id), element("p", { className: "faint" }, summary(card)), picture,
      ...scores(card), example,
      element("h3", {}, "What it can do"), deeds(card),
      element("h3", {}, "What it is"), facts(card),
    );
  }

  async show(root, card) {
    const address = URL.createObjectURL(await this.app.api.picture(card.id));
    root.replaceChildren(element("a", { href: address, target: "_blank", rel: "noopener" }, element("img", { src: address, alt: `What ${card.id} can do, as its run drew it` })));
    root.hidden = false;
  }

  async exemplify(root, card) {
    const found = exampleOf(card, await this.app.heldOut.ideas(card, IDEAS));
    if (!found) return;
    const server = location.href.split(/[#?]/)[0].replace(/\/$/, "");
    const code = element("code");
    const forms = [["curl", asCurl(found, server, this.app.api.key)], ["Python", asPython(found, server, this.app.api.key)]];
    const choose = (name) => {
      code.textContent = forms.find(([form]) => form === name)[1];
      for (const one of tabs) one.setAttribute("aria-checked", String(one.textContent === name));
    };
    const tabs = forms.map(([name]) => element("button", { type: "button", role: "radio", on: { click: () => choose(name) } }, name));
    const copy = button("Copy", "copies", guarded(async () => {
      await navigator.clipboard.writeText(code.textContent);
      notify("Copied.");
    }));
    root.replaceChildren(element("h3", {}, `How to ask it: ${found.about}`),
      element("div", { className: "row" }, element("div", { className: "segments", role: "radiogroup", aria: { label: "Language" } }, ...tabs), copy),
      element("pre", { tabIndex: 0 }, code));
    choose("curl");
  }
}

function summary({ recipe, step, data }) {
  const after = step ? ` after ${counted(step, "step")}` : "";
  return `${recipe}${after}${data ? `, trained on ${data}` : ""}`;
}

function counted(count, noun) {
  return `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
}

function scores({ scores: known }) {
  const rows = Object.entries(known ?? {});
  if (!rows.length) return [];
  const body = rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, Number(value.toPrecision(4)).toLocaleString(undefined, { maximumSignificantDigits: 4 }))));
  return [element("h3", {}, "Scores"), element("div", { className: "scroll" }, element("table", { className: "numbers" }, element("tbody", {}, ...body)))];
}

function deeds({ actions = {} }) {
  return element("ul", { className: "deeds" }, ...Object.entries(actions).map(([action, { description, parameters }]) =>
    element("li", {}, element("details", {}, element("summary", {}, element("code", {}, action), element("span", {}, description)), element("p", {}, taken(parameters))))));
}

/** What an action is given, in words. */
function taken({ properties = {}, required = [] }) {
  const optional = Object.keys(properties).filter((name) => !required.includes(name));
  return [required.length && `Needs ${required.join(", ")}.`, optional.length && `May be given ${optional.join(", ")}.`].filter(Boolean).join(" ") || "Needs nothing.";
}

function facts(card) {
  const { classes = [] } = card;
  const more = classes.length > CLASSES ? ` and ${classes.length - CLASSES} more` : "";
  const rows = [
    ["Sees", card.image_size ? `${card.channels === 1 ? "grey" : "colour"} pictures of ${card.image_size} × ${card.image_size} pixels` : "vectors"],
    ["Other sizes", card.multiple && `multiples of ${card.multiple}`], ["Steps", card.max_steps && `at most ${card.max_steps.toLocaleString()}`],
    ["Classes", classes.slice(0, CLASSES).join(", ") + more], ["Computes", `${counted(card.max_batch, "row")} at once`],
    ["Written", new Date(card.created * 1000).toLocaleString()], ["SHA-256", card.sha256],
  ].filter(([, value]) => value);
  return element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", { className: name === "SHA-256" ? "mono" : "" }, value)]));
}
