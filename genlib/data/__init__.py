"""Data: plain WebDataset tars, read in an order that is a pure function of (seed, position)."""
