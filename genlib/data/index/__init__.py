"""Indices of shards: the strict tar reader, the index in a sidecar file, and filters over it."""
