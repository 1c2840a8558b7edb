"""Which sample stands at a position: shuffled orders, mixtures, aspect-ratio buckets, partners."""
