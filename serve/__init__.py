"""What a trained task offers over HTTP."""
