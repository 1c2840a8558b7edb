"""The engine: turns any task into trained weights on one device or many. It knows no family."""
