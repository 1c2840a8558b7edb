"""What clients send, read within limits before anything believes it."""
