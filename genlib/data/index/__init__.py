"""What is in a shard: the tar read strictly, the index beside it, and which samples pass a filter."""
