"""Reader processes: a pool that survives the death of any of them."""
