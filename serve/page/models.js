// What the served models can do, read from the ports of their actions; no family is known by name.

/** What an action takes, {kind of port: {name, ...schema}}, the first of each kind; null where the model has no such action. */
export function takes(card, action) {
  const known = card.actions?.[action]?.parameters?.properties;
  if (!known) return null;
  return Object.fromEntries(Object.entries(known).reverse().map(([name, schema]) => [schema["x-port"], { name, ...schema }]));
}

/** The action that gives such a port for these kinds alone, in this order; null where the model has none. */
export function actionOf(card, gives, ...kinds) {
  const fits = ({ result, parameters }) => result.port === gives && parameters.required.length === kinds.length
    && parameters.required.every((name, at) => kinds[at].split("|").includes(parameters.properties[name]["x-port"]));
  return Object.entries(card.actions ?? {}).find(([, action]) => fits(action))?.[0] ?? null;
}

/** The arguments of an action, told by kind of port. */
export function asArguments(card, action, values) {
  const known = card.actions[action].parameters;
  const left = Object.entries(known.properties);
  return Object.fromEntries(values.map(([kinds, value]) => {
    const at = left.findIndex(([, schema]) => kinds.split("|").includes(schema["x-port"]));
    return [left.splice(at, 1)[0][0], value];
  }));
}

const has = (card, use) => card.capabilities.includes(use);
export const SAMPLE = "image|sample";

/** Actions that start from a picture, with what the page calls them. */
export const MODES = [
  ["image_to_image", "Restyle"],
  ["inpaint", "Fill in"],
  ["outpaint", "Extend"],
];

export const can = {
  create: (card) => has(card, "images.generations") || modesOf(card).length > 0,
  search: (card) => has(card, "embeddings.texts") && has(card, "embeddings.images"),
  classify: (card) => has(card, "classifications"),
  latent: (card) => Boolean(actionOf(card, "image", "code") && actionOf(card, "code", SAMPLE)) || Boolean(actionOf(card, "strip", "seed", "seed")),
  map: (card) => Boolean(actionOf(card, "image", "place") && actionOf(card, "place", SAMPLE)),
  act: (card) => Object.keys(card.actions ?? {}).length > 0,
};

/** Models that make pictures: those that draw after words first, then those that draw, then those that only change what is given. */
export function creators(cards) {
  const rank = (card) => (has(card, "images.generations") ? ("texts" in takes(card, "generate") ? 0 : 1) : 2);
  return cards.filter(can.create).sort((one, other) => rank(one) - rank(other));
}

export function modesOf(card) {
  return MODES.filter(([action]) => has(card, `images.edits.${action}`));
}

/** Which inputs of the form an action has use for. */
export function needs(card, action) {
  const known = takes(card, action) ?? {};
  const kinds = new Set(Object.keys(known));
  if (card.multiple > 0 && (kinds.has("width") || kinds.has("image"))) kinds.add("size");
  if (modesOf(card).length) kinds.add("source");
  return kinds;
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
