"""What self-organising maps are made of: learning rules, what a trained map does, and the labels of its units."""
