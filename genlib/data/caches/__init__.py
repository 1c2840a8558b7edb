"""Caches of bytes on the node's disk."""
