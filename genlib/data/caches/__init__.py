"""Caches: of values in memory, of bytes on the node's disk, and of encoded samples."""
