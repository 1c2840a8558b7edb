"""The models of one process: where they come from, which are in memory, and whether they compute as they did before."""
