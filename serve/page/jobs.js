// The server's jobs in the page's words: what an event tells, which pictures a job made and how.

import { decoded } from "./pictures.js";

/** What an event of a job tells: {step, steps, partials: [[index of the picture, base64]]}. */
export function news({ data }) {
  const partial = data.type?.endsWith(".partial_image") && data.b64_json;
  return { step: data.step ?? 0, steps: data.steps ?? 0, partials: partial ? [[data.index, data.b64_json]] : [] };
}

/** The job as it ended, if this event says so. */
export function ending({ data }) {
  return data.job ?? null;
}

/** The pictures of a completed job as the store keeps them; `settings` are those of the form, if this browser started it. */
export async function picturesOf(api, job, settings = asked(job)) {
  return Promise.all(job.result.data.map(async ({ url, seed = null }, index) => {
    const blob = await api.file(url);
    const { width, height } = await decoded(blob);
    return {
      id: `${job.id}-${index}`, created: job.created_at * 1000 + index, blob, width, height, job: job.id, index, model: job.model, seed,
      settings: { ...settings, seed, count: 1, width, height }, favourite: false,
    };
  }));
}

/** What the request of a job that someone else started asked for, as the form says it. */
function asked({ model, request }) {
  const { prompt, label, negative_prompt: negative, num_inference_steps: steps, guidance_scale: guidance, scheduler: sampler, strength, mode } = request;
  const known = { model, prompt, label, negative, steps, guidance, sampler, strength, mode };
  return Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined));
}
