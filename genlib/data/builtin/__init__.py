"""Data sets that a new user has without a download."""
