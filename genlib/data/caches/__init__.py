"""Caches: of values in memory, and of bytes on the node's disk."""
