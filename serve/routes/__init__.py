"""The endpoints, a file a kind. Each turns a body into `serve.inference.request.Work`; what happens then is the same for all."""
