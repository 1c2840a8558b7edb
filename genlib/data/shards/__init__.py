"""Shards as one numbered set of samples: found, opened, written."""
