"""Orders: the sample at each position, shuffled, mixed from several sets, or in aspect-ratio buckets; and partners beside it."""
