// What the served models can do, read from the schemas of their actions; no family is known by name.

/** The arguments of an action, {name: schema}; null where the model has no such action. */
export function takes(card, action) {
  return card.actions?.[action]?.parameters?.properties ?? null;
}

const has = (card, ...actions) => actions.every((action) => takes(card, action));
const seesImages = (card) => card.image_size > 0;

/** Actions that start from a picture, with what the page calls them. */
export const MODES = [
  ["image_to_image", "Restyle"],
  ["inpaint", "Fill in"],
  ["outpaint", "Extend"],
];

export const can = {
  create: (card) => seesImages(card) && (has(card, "generate") || modesOf(card).length > 0),
  search: (card) => has(card, "embed_text", "embed_image"),
  classify: (card) => has(card, "classify") && seesImages(card),
  latent: (card) => seesImages(card) && !can.map(card) && (has(card, "decode", "embed") || (has(card, "interpolate") && "last" in takes(card, "interpolate"))),
  map: (card) => has(card, "assign", "decode", "embed") && seesImages(card),
};

/** Models that make pictures: those that draw after words first, then those that draw, then those that only change what is given. */
export function creators(cards) {
  const rank = (card) => (takes(card, "generate") ? ("prompt" in takes(card, "generate") ? 0 : 1) : 2);
  return cards.filter(can.create).sort((one, other) => rank(one) - rank(other));
}

export function modesOf(card) {
  return MODES.filter(([action]) => has(card, action));
}

/** Which inputs of the form an action has use for. */
export function needs(card, action) {
  const known = takes(card, action) ?? {};
  const names = new Set(Object.keys(known));
  if (card.multiple > 0 && (names.has("width") || names.has("image"))) names.add("size");
  if (modesOf(card).length) names.add("source");
  return names;
}

/** The values that an argument may have, of its schema's enumeration. */
export function choices(schema) {
  return schema?.enum ?? schema?.anyOf?.flatMap((one) => one.enum ?? []) ?? [];
}

/** Sides in pixels to choose from: multiples of what the model wants, from half to twice of what it was trained on. */
export function sides(card) {
  const { image_size: trained, multiple } = card;
  if (!multiple) return [trained];
  const pitch = Math.max(multiple, Math.round(trained / 8 / multiple) * multiple);
  const found = new Set([trained]);
  for (let side = pitch; side <= 2 * trained; side += pitch) if (side >= trained / 2) found.add(side);
  return [...found].sort((a, b) => a - b);
}

/** Fills a <select> with models, keeping what was chosen. */
export function offer(select, cards) {
  const before = select.value;
  select.replaceChildren(...cards.map((card) => new Option(card.id, card.id)));
  if (cards.some((card) => card.id === before)) select.value = before;
}
