"""Decoded samples to batches of tensors."""
