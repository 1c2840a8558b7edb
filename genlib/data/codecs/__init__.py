"""Bytes of a member to a value, and an image to the bytes that a shard holds."""
