"""The endpoints, a file a kind. Each turns a body into `serve.work.Work`; what happens then is the same for all."""
