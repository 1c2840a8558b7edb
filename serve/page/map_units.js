// Where a map's units lie, found out by its actions alone: one gives the prototype nearest to a place, one the place of a prototype.

import { SAMPLE, actionOf, asArguments } from "./models.js";
import { dataUri } from "./pictures.js";

const FAR = 1000; // farther than any map reaches
const AT_ONCE = 128;

/** {hexagonal, ring, units: [{x, y, blob}]} */
export async function units(api, card) {
  const [first, last] = await nearestTo(api, card, [[-FAR, -FAR], [FAR, FAR]]);
  const ring = first[0] < -0.3 || first[1] < -0.3;
  const hexagonal = !ring && !whole(last[1]);
  const places = ring ? circle(await radius(api, card)) : lattice(last, hexagonal);
  const blobs = [];
  for (let at = 0; at < places.length; at += AT_ONCE) blobs.push(...(await drawn(api, card, places.slice(at, at + AT_ONCE))));
  return { hexagonal, ring, units: places.map(([x, y], at) => ({ x, y, blob: blobs[at] })) };
}

/** Numbers of the units next to one. */
export function neighbours({ units: all, hexagonal, ring }, at) {
  const reach = hexagonal || ring ? 1.1 : 1.5;
  return all.flatMap((one, other) => (other !== at && Math.hypot(one.x - all[at].x, one.y - all[at].y) < reach ? [other] : []));
}

/** The prototypes nearest to places. */
function drawn(api, card, places) {
  const action = actionOf(card, "image", "place");
  return api.action(card.id, action, asArguments(card, action, [["place", places]]));
}

/** The places of images (data URIs). */
export function placesOf(api, card, images) {
  const action = actionOf(card, "place", SAMPLE);
  return api.action(card.id, action, asArguments(card, action, [[SAMPLE, images]]));
}

/** The places of the units that are nearest to these. */
async function nearestTo(api, card, near) {
  return placesOf(api, card, await Promise.all((await drawn(api, card, near)).map(dataUri)));
}

async function radius(api, card) {
  const [[x, y]] = await nearestTo(api, card, [[FAR, 0]]);
  return Math.hypot(x, y);
}

/** A square grid's places are whole numbers; of a hexagonal one every other row is half a step to the right. */
function lattice([right, bottom], hexagonal) {
  const pitch = hexagonal ? Math.sqrt(3) / 2 : 1;
  const [columns, rows] = [Math.floor(right + 0.01) + 1, Math.round(bottom / pitch) + 1];
  return Array.from({ length: rows * columns }, (_, unit) => {
    const row = Math.floor(unit / columns);
    return [(unit % columns) + (hexagonal && row % 2 ? 0.5 : 0), row * pitch];
  });
}

function circle(radius) {
  const count = Math.round(2 * Math.PI * radius);
  return Array.from({ length: count }, (_, unit) => [radius * Math.cos((2 * Math.PI * unit) / count), radius * Math.sin((2 * Math.PI * unit) / count)]);
}

const whole = (value) => Math.abs(value - Math.round(value)) < 0.001; // 15 rows of hexagons end at 12.990
