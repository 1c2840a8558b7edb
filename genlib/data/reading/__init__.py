"""Reading: from sample numbers to batches of tensors."""
