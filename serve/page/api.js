// The server's public API, and nothing else of it: requests, errors, events. See /openapi.json.

import { ServerEvents } from "./events.js";
import { blobOf } from "./pictures.js";

const ROOT = new URL("../", import.meta.url);
const KEY = "genlib.key";
const TRIES = 4;
const WAIT_MS = 700;

/** What the server refused, in its own sentence. */
export class Refused extends Error {
  constructor(status, message, code, retryAfterSeconds) {
    super(message);
    this.name = "Refused";
    this.status = status;
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

export class Api {
  /** `askKey` is called when the server wants a key, and gives a promise of one, or of null. */
  constructor(askKey) {
    this.askKey = askKey;
    this.asking = null;
  }

  get key() {
    return localStorage.getItem(KEY) ?? "";
  }

  set key(value) {
    if (value) localStorage.setItem(KEY, value);
    else localStorage.removeItem(KEY);
  }

  /** A response that is fine. What is busy or away is tried again if that can do no harm: reading, and what has an Idempotency-Key. */
  async request(path, { method = "GET", body, headers = {}, signal } = {}) {
    const repeatable = method === "GET" || "Idempotency-Key" in headers;
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.once(path, { method, body, headers, signal });
      } catch (error) {
        const passing = error instanceof TypeError || [429, 502, 503, 504].includes(error.status);
        if (!passing || !repeatable || attempt === TRIES || signal?.aborted) throw readable(error);
        await pause(Math.max((error.retryAfterSeconds ?? 0) * 1000, WAIT_MS * attempt), signal);
      }
    }
  }

  async once(path, { method, body, headers, signal }) {
    const form = body instanceof FormData;
    const sent = { ...headers, ...(this.key && { Authorization: `Bearer ${this.key}` }), ...(body && !form && { "Content-Type": "application/json" }) };
    const response = await fetch(new URL(path, ROOT), { method, headers: sent, body: form || !body ? body : JSON.stringify(body), signal, cache: "no-store" });
    if (response.ok) return response;
    if (response.status === 401 && (await this.newKey())) return this.once(path, { method, body, headers, signal });
    throw await refusal(response);
  }

  /** Asks for a key, once however many requests wait for it; false where the user has none. */
  async newKey() {
    this.asking ??= this.askKey().finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) this.key = key;
    return Boolean(key);
  }

  async json(path, options) {
    return (await this.request(path, options)).json();
  }

  post(path, body, signal) {
    return this.json(path, { method: "POST", body, signal });
  }

  /** All that is served. */
  async models() {
    return (await this.json("v1/models")).data;
  }

  /** What the model's run kept of its held-out samples: {words, media_type, b64_json} each. */
  async heldOut(model) {
    return (await this.json(`v1/models/${encodeURIComponent(model)}/held-out`)).data;
  }

  /** The picture of what the model can do, a blob. */
  picture(model) {
    return this.file(`v1/models/${encodeURIComponent(model)}/picture`);
  }

  /** Runs an action with the arguments of its schema: gives PNG blobs where it makes pictures, else nested lists of numbers. */
  async action(model, action, parameters, signal) {
    const answer = await this.post(`v1/models/${encodeURIComponent(model)}/actions/${encodeURIComponent(action)}`, parameters, signal);
    return answer.numbers ?? answer.data.map((row) => blobOf(row.b64_json));
  }

  /** For each image (a data URI) [{label, score}], the likeliest first; labels null are the model's own. */
  async classify(model, input, labels, signal) {
    const { data } = await this.post("v1/classifications", { model, image: input, ...(labels && { labels }) }, signal);
    return data.sort((a, b) => a.index - b.index).map((row) => row.labels);
  }

  /** Directions of texts or of images (data URIs): Float32Array each. */
  async embeddings(model, input, signal) {
    const { data } = await this.post("v1/embeddings", { model, input, encoding_format: "float" }, signal);
    return data.sort((a, b) => a.index - b.index).map((row) => Float32Array.from(row.embedding));
  }

  /** Starts work that goes on when this page is closed, and gives its job. `key` makes a repeated start the same job. */
  start(path, body, key) {
    return this.json(path, { method: "POST", body, headers: { "Idempotency-Key": key } });
  }

  job(id) {
    return this.json(`v1/jobs/${encodeURIComponent(id)}`);
  }

  /** All jobs that the server keeps, newest first. */
  async jobs() {
    const found = [];
    for (let page = { has_more: true }; page.has_more; ) {
      const after = found.length ? `&after=${found.at(-1).id}` : "";
      page = await this.json(`v1/jobs?limit=1000${after}`);
      found.push(...page.data);
      if (!page.data.length) break;
    }
    return found;
  }

  cancel(id) {
    return this.request(`v1/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  /** News of a job until it ends, whatever happens to the connection. */
  events(id, signal) {
    return new ServerEvents((headers) => this.request(`v1/jobs/${encodeURIComponent(id)}/events`, { headers, signal }), signal);
  }

  async file(url, signal) {
    return (await this.request(url.replace(/^\//, ""), { signal })).blob();
  }
}

async function refusal(response) {
  const { error = {} } = await response.json().catch(() => ({}));
  const message = error.message ?? `The server answered ${response.status} ${response.statusText}.`;
  return new Refused(response.status, message, error.code, Number(response.headers.get("Retry-After")) || undefined);
}

function readable(error) {
  return error instanceof TypeError ? new Error("The server cannot be reached. Is it running?") : error;
}

/** Waits, or throws as soon as `signal` says so. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
