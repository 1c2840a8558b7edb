"""Faults on purpose, each in a run of its own: what happens, how long until the run goes on, what is done again, whether the weights are the same."""
