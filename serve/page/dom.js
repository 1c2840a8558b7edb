// Small helpers around the document: elements, icons, short notices, files.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id; an id that is missing is a mistake in index.html. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found;
}

/** A new element. Keys of `properties` are properties (`className`), `data` and `aria` are maps, `on` maps events to handlers. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { data = {}, aria = {}, on = {}, ...rest } = properties;
  for (const [name, value] of Object.entries(rest)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(`aria-${name}`, value);
  for (const [name, handler] of Object.entries(on)) made.addEventListener(name, handler);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An icon of icons.svg, which says nothing to screen readers: the control around it has a name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${new URL("icons.svg", import.meta.url).pathname}#${name}`);
  svg.append(use);
  return svg;
}

/** A button with an icon; `label` is seen beside it, or only said where `quiet`. */
export function button(label, iconName, onClick, { quiet = false, className = "" } = {}) {
  return element(
    "button",
    { type: "button", className, title: quiet ? label : "", aria: quiet ? { label } : {}, on: { click: onClick } },
    icon(iconName),
    quiet ? null : element("span", {}, label),
  );
}

/** Buttons with words to try in `root`; `take` hears of the chosen ones. */
export function offerIdeas(root, words, take) {
  root.hidden = !words.length;
  root.replaceChildren(...words.map((word) => element("button", { type: "button", on: { click: () => take(word) } }, word)));
}

/** Shows a sentence for a few seconds; screen readers say it. With `action` = [label, handler] it has a button. */
export function notify(sentence, { bad = false, action = null, seconds = bad ? 10 : 6 } = {}) {
  const notice = element("div", { className: bad ? "notice bad" : "notice", role: bad ? "alert" : "status" }, element("span", {}, sentence));
  const close = () => notice.remove();
  if (action) notice.append(element("button", { type: "button", on: { click: () => (close(), action[1]()) } }, action[0]));
  notice.append(button("Dismiss", "close", close, { quiet: true }));
  const notices = byId("notices");
  const dialog = document.querySelector("dialog[open]"); // what lies outside an open one cannot be pressed
  if (dialog && notices.parentElement !== dialog) {
    dialog.append(notices);
    dialog.addEventListener("close", () => document.body.append(notices), { once: true });
  }
  notices.append(notice);
  setTimeout(close, seconds * 1000);
}

/** Runs an asynchronous handler and shows what goes wrong; a user's own cancelling is nothing wrong. */
export function guarded(handler) {
  return async (...values) => {
    try {
      return await handler(...values);
    } catch (error) {
      if (error.name !== "AbortError") notify(error.message || String(error), { bad: true });
      return undefined;
    }
  };
}

/** Calls `handler` when nothing has happened for so many milliseconds. */
export function debounced(handler, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => handler(...values), milliseconds);
  };
}

/** Makes an element take pictures that are dropped on it or pasted while the pointer or focus is in it. */
export function takesPictures(target, take) {
  const pictures = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  target.addEventListener("dragover", (event) => {
    event.preventDefault();
    target.classList.add("dragging");
  });
  target.addEventListener("dragleave", () => target.classList.remove("dragging"));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("dragging");
    const found = pictures(event.dataTransfer);
    if (found.length) take(found);
  });
  target.addEventListener("paste", (event) => {
    const found = pictures(event.clipboardData);
    if (found.length) take(found);
  });
}

/** Asks the user for picture files. */
export function pickPictures(many = false) {
  return new Promise((resolve) => {
    const input = element("input", { type: "file", accept: "image/*", multiple: many });
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}

/** Hands a file to the user. */
export function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
