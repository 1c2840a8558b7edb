// Parts of forms that several views use: sliders with a number beside them, and radio buttons that look like one.

import { element } from "./dom.js";

let made = 0;

/**
 * A slider and a number that say the same, in `root`. With `auto`, an empty number means that the server decides: `value` is then null.
 * Fires "input" on `root`. Signed ones fill from the middle.
 */
export class Slider {
  constructor(root, { label, low, high, step, value, auto = false, signed = false }) {
    const id = `slider-${(made += 1)}`;
    this.root = root;
    this.auto = auto;
    this.range = element("input", { type: "range", id, className: signed ? "signed" : "" });
    this.number = element("input", { type: "number", aria: { label }, placeholder: auto ? "auto" : "" });
    root.classList.add("field", "slider");
    root.replaceChildren(element("label", { htmlFor: id }, label), this.range, this.number);
    this.bounds(low, high, step);
    this.range.addEventListener("input", () => this.show(this.range.value));
    this.number.addEventListener("input", (event) => this.number.value === "" && !auto ? event.stopPropagation() : this.draw());
    this.number.addEventListener("change", () => (this.value = this.value));
    this.value = value;
  }

  bounds(low, high, step) {
    Object.assign(this, { low, high });
    for (const input of [this.range, this.number]) Object.assign(input, { min: low, max: high, step });
    this.number.step = "any";
  }

  get value() {
    if (this.number.value === "") return this.auto ? null : this.low;
    return Math.min(this.high, Math.max(this.low, Number(this.number.value)));
  }

  set value(value) {
    const none = value === null || value === undefined;
    this.show(none ? "" : String(Math.min(this.high, Math.max(this.low, value))));
  }

  show(text) {
    this.number.value = text === "" ? "" : String(Math.round(Number(text) * 1000) / 1000);
    this.draw();
  }

  draw() {
    const share = (value) => `${(100 * (value - this.low)) / (this.high - this.low || 1)}%`;
    const value = this.value;
    this.range.value = value ?? this.low;
    this.range.style.setProperty("--share", value === null ? "0%" : share(value));
    this.range.style.setProperty("--low", share(Math.min(0, value ?? 0)));
    this.range.style.setProperty("--high", share(Math.max(0, value ?? 0)));
  }
}

/** Buttons of which one is chosen, arrow keys included; `choose` hears of it. */
export class Segments {
  constructor(root, choose) {
    this.root = root;
    this.choose = choose;
    root.addEventListener("keydown", (event) => this.key(event));
  }

  /** `options` are [value, label]; the value before stays where it can. */
  offer(options) {
    if ([...this.root.children].map((one) => one.dataset.value).join() === options.map(([value]) => value).join()) return; // focus stays
    const kept = options.some(([value]) => value === this.value) ? this.value : options[0]?.[0];
    this.root.replaceChildren(
      ...options.map(([value, label]) =>
        element("button", { type: "button", role: "radio", data: { value }, on: { click: () => this.set(value) } }, label),
      ),
    );
    this.set(kept, false);
  }

  set(value, tell = true) {
    this.value = value;
    for (const one of this.root.children) {
      const chosen = one.dataset.value === value;
      one.setAttribute("aria-checked", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
    }
    if (tell) this.choose(value);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...this.root.children];
    const next = all[(all.findIndex((one) => one.dataset.value === this.value) + step + all.length) % all.length];
    this.set(next.dataset.value);
    next.focus();
  }
}
