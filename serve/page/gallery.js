// Everything that this browser and this server made.

import { byId, debounced, guarded } from "./dom.js";
import { picturesOf } from "./jobs.js";
import { Tiles } from "./tiles.js";

const RECENT = 24;

export class Gallery {
  constructor(app) {
    this.app = app;
    this.all = [];
    this.tiles = new Tiles(byId("gallery-grid"), { open: (id) => app.view(id, this.shown), caption: (one) => one.settings.prompt || one.settings.label || one.model, empty: "What you make appears here, and stays." });
    this.recent = new Tiles(byId("recent"), { open: (id) => app.view(id, this.all) });
    this.find = byId("gallery-find");
    this.stars = byId("gallery-stars");
    this.find.addEventListener("input", debounced(() => this.draw(), 120));
    this.stars.addEventListener("click", () => {
      this.stars.setAttribute("aria-pressed", String(this.stars.getAttribute("aria-pressed") !== "true"));
      this.draw();
    });
    app.store.addEventListener("change", guarded(() => this.refresh()));
  }

  open() {
    this.fetch();
  }

  async refresh() {
    this.all = await this.app.store.pictures();
    this.recent.show(this.all.slice(0, RECENT));
    this.draw();
  }

  draw() {
    const words = this.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const starred = this.stars.getAttribute("aria-pressed") === "true";
    const text = ({ model, settings }) => `${model} ${settings.prompt ?? ""} ${settings.label ?? ""}`.toLowerCase();
    this.shown = this.all.filter((one) => (!starred || one.favourite) && words.every((word) => text(one).includes(word)));
    this.tiles.show(this.shown);
    const filtered = words.length || starred;
    byId("gallery-count").textContent = `${filtered ? `${this.shown.length} of ` : ""}${this.all.length} ${this.all.length === 1 ? "picture" : "pictures"}`;
  }

  /** Takes over what the server has and this browser has never seen. */
  fetch = guarded(async () => {
    const [jobs, known, running] = await Promise.all([this.app.api.jobs(), this.app.store.known(), this.app.store.jobs()]);
    const mine = new Set(running.map((one) => one.id));
    for (const job of jobs) {
      const pictures = job.status === "completed" && job.result.data?.[0]?.url;
      if (pictures && !mine.has(job.id) && !known.has(`${job.id}-0`)) await this.app.store.keep(...(await picturesOf(this.app.api, job)));
    }
  });
}
