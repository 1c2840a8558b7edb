"""What a request asks of a model, run to an answer: whatever it came by."""
