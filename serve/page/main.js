// Starts the page: views by the address's hash, theme, key, and what the views share.

import { Api } from "./api.js";
import { Act } from "./act.js";
import { Classify } from "./classify.js";
import { Create } from "./create.js";
import { byId, element, guarded, icon, notify } from "./dom.js";
import { Gallery } from "./gallery.js";
import { HeldOut } from "./held_out.js";
import { Latent } from "./latent.js";
import { MapView } from "./map.js";
import { can } from "./models.js";
import { ModelList } from "./model_list.js";
import { Runs } from "./runs.js";
import { Search } from "./search.js";
import { Store } from "./store.js";
import { Viewer } from "./viewer.js";

const THEME = "genlib.theme";
const VIEWS = [
  ["create", "Create", can.create], ["gallery", "Gallery", null], ["search", "Search", can.search], ["classify", "Classify", can.classify],
  ["latent", "Latent space", can.latent], ["map", "Map", can.map], ["act", "Actions", can.act], ["models", "Models", null],
];

const dark = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const theme = localStorage.getItem(THEME) ?? (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  const other = theme === "dark" ? "light" : "dark";
  byId("theme").replaceChildren(icon(other === "dark" ? "moon" : "sun"), element("span", {}, `${other === "dark" ? "Dark" : "Light"} theme`));
  byId("theme").title = `To the ${other} theme`;
  byId("theme").onclick = () => {
    localStorage.setItem(THEME, other);
    applyTheme();
  };
}

/** Asks for the key; null where the user has none. */
function askKey() {
  const dialog = byId("key-dialog");
  byId("key-value").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? byId("key-value").value.trim() : null), { once: true });
  });
}

function showKey(api) {
  byId("key").replaceChildren(icon("key"), element("span", {}, "API key"));
  byId("key").title = "API key";
  byId("key").onclick = guarded(async () => {
    const key = await askKey();
    if (key !== null) {
      api.key = key;
      location.reload();
    }
  });
}

function drawViews(models) {
  const offered = VIEWS.filter(([, , needed]) => !needed || models.some(needed));
  byId("views").replaceChildren(
    ...offered.map(([name, label]) => element("a", { href: `#${name}`, title: label }, icon(name), element("span", {}, label))),
  );
  return offered.map(([name]) => name);
}

function mark(link, current) {
  if (current) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

class App {
  async start() {
    applyTheme();
    dark.addEventListener("change", applyTheme);
    this.api = new Api(askKey);
    showKey(this.api);
    this.store = await Store.open();
    this.models = [];
    this.heldOut = new HeldOut(this.api);
    this.viewer = new Viewer(this);
    this.runs = new Runs(this, byId("runs"));
    this.create = new Create(this);
    this.gallery = new Gallery(this);
    this.search = new Search(this);
    this.classify = new Classify(this);
    this.latent = new Latent(this);
    this.map = new MapView(this);
    this.act = new Act(this);
    this.list = new ModelList(this);
    this.shown = drawViews([]);
    addEventListener("hashchange", () => this.show());
    await this.gallery.refresh();
    this.show();
    this.models = await this.api.models();
    this.shown = drawViews(this.models);
    for (const view of [this.create, this.search, this.classify, this.latent, this.map, this.act, this.list]) await view.ready();
    this.show();
    await this.runs.resume();
    await this.gallery.fetch();
    document.documentElement.dataset.ready = "yes";
  }

  go(view) {
    location.hash = view;
    this.show();
  }

  /** Shows the view of the hash; the first one where it is none. */
  show() {
    const wanted = location.hash.slice(1);
    const first = this.shown.find((view) => view !== "gallery") ?? "gallery";
    const name = (this.models.length ? this.shown.includes(wanted) : document.querySelector(`.view[id="${CSS.escape(wanted)}"]`)) ? wanted : this.models.length ? first : "create";
    if (name === this.current && this.models.length === this.opened) return;
    [this.current, this.opened] = [name, this.models.length];
    for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== name;
    for (const link of byId("views").children) mark(link, link.hash === `#${name}`);
    document.title = `${VIEWS.find(([view]) => view === name)[1]} · genlib`;
    const view = { create: this.create, gallery: this.gallery, search: this.search, classify: this.classify, latent: this.latent, map: this.map, act: this.act, models: this.list }[name];
    if (this.models.length) view.open?.();
  }

  /** Shows one picture large. */
  view(id, among) {
    return guarded(() => this.viewer.open(id, among ?? this.gallery.all))();
  }
}

const app = new App();
app.start().catch((error) => notify(error.message, { bad: true, seconds: 3600, action: ["Try again", () => location.reload()] }));
