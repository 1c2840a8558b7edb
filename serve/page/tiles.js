// Grids of pictures: a page at a time as one scrolls, arrow keys between them.

import { element, icon } from "./dom.js";
import { addressOf, isSmall } from "./pictures.js";

const PAGE = 60;

/** What a screen reader says of a picture. */
export function described({ settings = {}, model = "", seed, name }) {
  const what = settings.prompt || settings.label || name || "";
  return [what, model && `by ${model}`, seed !== undefined && seed !== null && `seed ${seed}`].filter(Boolean).join(", ") || "A picture";
}

/** An <img> of a kept picture. */
export function image(picture, properties = {}) {
  const shown = element("img", { src: addressOf(picture), alt: described(picture), loading: "lazy", decoding: "async", ...properties });
  shown.classList.toggle("pixels", isSmall(picture));
  return shown;
}

/** A list of pictures in `root`; `open` hears of the chosen one, `caption` gives what stands below it, `empty` is said where there is none. */
export class Tiles {
  constructor(root, { open, caption = () => null, empty = "" }) {
    Object.assign(this, { root, open, caption });
    this.none = element("p", { className: "empty", hidden: true }, empty);
    this.list = element("ul", { className: "tiles", on: { keydown: (event) => this.key(event) } });
    this.end = element("div");
    root.replaceChildren(this.none, this.list, this.end);
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.more(), { rootMargin: "600px" }).observe(this.end);
  }

  /** Shows these; tiles that are there stay the same elements, so that focus and scrolling do. */
  show(pictures) {
    this.pictures = pictures;
    this.none.hidden = Boolean(pictures.length || !this.none.textContent);
    const before = new Map([...this.list.children].map((tile) => [tile.dataset.id, tile]));
    const shown = Math.max(PAGE, this.list.childElementCount);
    this.list.replaceChildren(...pictures.slice(0, shown).map((one) => this.tile(one, before.get(one.id))));
  }

  more() {
    const at = this.list.childElementCount;
    this.list.append(...(this.pictures ?? []).slice(at, at + PAGE).map((one) => this.tile(one)));
  }

  tile(picture, before) {
    const tile = before ?? element("li", { data: { id: picture.id } }, element("button", { type: "button", on: { click: () => this.open(picture.id) } }, image(picture)));
    const caption = this.caption(picture);
    tile.querySelector("button").replaceChildren(
      tile.querySelector("img"),
      ...(picture.favourite ? [element("span", { className: "badge" }, icon("star"), element("span", { className: "hidden" }, "favourite"))] : []),
      ...(caption ? [element("span", { className: "caption" }, caption)] : []),
    );
    return tile;
  }

  key(event) {
    const tiles = [...this.list.querySelectorAll("button")];
    const at = tiles.indexOf(document.activeElement);
    if (at < 0) return;
    const top = tiles[0].getBoundingClientRect().top;
    const columns = Math.max(1, tiles.filter((one) => one.getBoundingClientRect().top === top).length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: tiles.length - 1 - at }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    tiles[Math.min(tiles.length - 1, Math.max(0, at + step))].focus();
  }
}
