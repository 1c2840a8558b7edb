"""From sample numbers to batches of tensors."""
