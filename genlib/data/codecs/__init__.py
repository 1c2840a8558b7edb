"""Codecs: a member's bytes to a value, and an image to the bytes that a shard holds."""
