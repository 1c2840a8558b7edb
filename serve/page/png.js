// How a picture was made, as its PNG says: the text chunk `parameters` that many tools write and read.

const SIGNATURE = 0x89504e47;
const NAMES = { Steps: "steps", Sampler: "sampler", "CFG scale": "guidance", "Denoising strength": "strength", Class: "label", Model: "model", Seed: "seed" };
const NUMBERS = new Set(["steps", "guidance", "strength", "seed"]);
const latin = new TextDecoder("latin1");

/** Settings of the form, or null where the file says nothing. */
export async function settingsOf(blob) {
  const text = (await texts(blob)).get("parameters");
  return text ? parsed(text) : null;
}

/** Prompt, `Negative prompt: ...`, then a line of `Name: value, ...`. */
export function parsed(text) {
  const lines = text.split("\n");
  const facts = Object.fromEntries(lines.pop().split(", ").map((fact) => fact.split(": ")));
  const negative = lines.findIndex((line) => line.startsWith("Negative prompt: "));
  const prompt = (negative < 0 ? lines : lines.slice(0, negative)).join("\n");
  const settings = { ...(prompt && { prompt }), ...(negative >= 0 && { negative: lines.slice(negative).join("\n").slice(17) }) };
  for (const [name, own] of Object.entries(NAMES)) if (facts[name] !== undefined) settings[own] = NUMBERS.has(own) ? Number(facts[name]) : facts[name];
  const [width, height] = (facts.Size ?? "").split("x").map(Number);
  return { ...settings, ...(height && { width, height }) };
}

/** Text chunks by keyword (PNG specification, section 11.3.3). */
async function texts(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const found = new Map();
  if (bytes.length < 8 || view.getUint32(0) !== SIGNATURE) return found;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin.decode(bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "tEXt") found.set(keyword(body), latin.decode(body.subarray(body.indexOf(0) + 1)));
    if (kind === "iTXt" && !body[body.indexOf(0) + 1]) found.set(keyword(body), international(body));
    at += length + 12;
  }
  return found;
}

function keyword(body) {
  return latin.decode(body.subarray(0, body.indexOf(0)));
}

/** keyword, 0, compressed?, method, language, 0, translated keyword, 0, text. */
function international(body) {
  const language = body.indexOf(0, body.indexOf(0) + 3);
  return new TextDecoder().decode(body.subarray(body.indexOf(0, language + 1) + 1));
}
