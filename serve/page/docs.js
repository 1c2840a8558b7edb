// The API's description, drawn by Swagger UI; the key is the one that the page keeps.

import { Api } from "./api.js";

const api = new Api(async () => window.prompt("This server asks for a key"));
const spec = await (await api.request("openapi.json")).json();
const base = new URL("./", window.location.href).href.replace(/\/$/, "");

window.SwaggerUIBundle({
  spec: { ...spec, servers: [{ url: base }] },
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    if (api.key) request.headers.Authorization = `Bearer ${api.key}`;
    return request;
  },
});
