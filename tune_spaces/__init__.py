"""Where a search looks for hyperparameters."""
