// An example request to a model, as a command for a shell and as a Python program.

import { actionOf, can, takes } from "./models.js";

const PICTURE = "\0picture"; // stands for a picture of one's own
const has = (card, use) => card.capabilities.includes(use);

/** {about, path, body, makesPicture} of what the model is best asked for; `words` are ideas for texts. Null where nothing can be asked in a line. */
export function exampleOf(card, words) {
  const model = card.id;
  const word = words[0] ?? "a red arrow";
  if (has(card, "images.generations")) {
    const known = takes(card, "generate");
    const prompt = "texts" in known ? { prompt: word } : "label" in known && card.classes?.length ? { prompt: card.classes[0] } : {};
    return { about: "A picture", path: "/v1/images/generations", body: { model, ...prompt, ...("seeds" in known && { seed: 1 }) }, makesPicture: true };
  }
  if (can.search(card)) return { about: "Vectors of texts, to be compared with those of pictures", path: "/v1/embeddings", body: { model, input: words.length ? words.slice(0, 3) : [word] } };
  if (has(card, "classifications")) return { about: "What picture.png shows", path: "/v1/classifications", body: { model, image: PICTURE } };
  if (has(card, "images.reconstructions")) return { about: "picture.png through the model", path: "/v1/images/reconstructions", body: { model, image: PICTURE }, makesPicture: true };
  if (has(card, "embeddings.images")) return { about: "The vector of picture.png", path: "/v1/embeddings", body: { model, input: PICTURE } };
  const action = Object.keys(card.actions ?? {}).find((name) => argumentsOf(card, name, word));
  return action ? { about: action, path: `/v1/models/${model}/actions/${action}`, body: argumentsOf(card, action, word) } : null;
}

/** Values for what an action must be given; null where one of them is no picture, word or number. */
function argumentsOf(card, action, word) {
  const { properties, required } = card.actions[action].parameters;
  const values = required.map((name) => [name, valueOf(properties[name], word)]);
  return values.every(([, value]) => value !== null) ? Object.fromEntries(values) : null;
}

function valueOf(schema, word) {
  if (schema["x-picture"]) return PICTURE;
  const one = schema.type === "array" ? schema.items : schema;
  const value = one.enum?.[0] ?? { string: word, integer: Math.max(1, one.minimum ?? 1), number: one.minimum ?? 0.5 }[one.type] ?? null;
  return value !== null && schema.type === "array" ? [value] : value;
}

const json = (body) => JSON.stringify(body);

/** For bash, with the server's address. */
export function asCurl({ path, body, makesPicture }, server, key) {
  const lines = [`curl -sS --fail-with-body ${server}${path}`];
  if (key) lines.push(`-H "Authorization: Bearer $GENLIB_API_KEY"`);
  lines.push("-H 'Content-Type: application/json'");
  if (makesPicture) lines.push("-H 'Accept: image/png' -o made.png");
  const text = json(body);
  const inside = () => text.replace(/[\\$`]/g, "\\$&").replaceAll(json(PICTURE).replace("\\", "\\\\"), '"$(base64 -w0 picture.png)"');
  lines.push(text.includes(json(PICTURE)) ? `-d @- <<END\n${inside()}\nEND` : `-d '${text.replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

/** For Python, with the server's address. */
export function asPython({ path, body, makesPicture }, server, key) {
  const picture = json(body).includes(json(PICTURE));
  const lines = [];
  if (picture || makesPicture) lines.push("import base64");
  if (key) lines.push("import os");
  lines.push(...(lines.length ? [""] : []), "import requests", "");
  if (picture) lines.push('with open("picture.png", "rb") as file:', "    picture = base64.b64encode(file.read()).decode()");
  const headers = key ? `, headers={"Authorization": "Bearer " + os.environ["GENLIB_API_KEY"]}` : "";
  lines.push(`answer = requests.post("${server}${path}", json=${literal(body)}${headers}, timeout=600)`, "answer.raise_for_status()");
  if (makesPicture) lines.push('with open("made.png", "wb") as file:', '    file.write(base64.b64decode(answer.json()["data"][0]["b64_json"]))');
  else lines.push("print(answer.json())");
  return lines.join("\n");
}

/** A value as Python writes it: JSON, as there is no null, true or false in what is asked. */
function literal(body) {
  return JSON.stringify(body, null, 1).replace(/\n\s*/g, " ").replaceAll(json(PICTURE), "picture");
}
