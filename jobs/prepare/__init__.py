"""What the verbs of prepare_data.py do."""
