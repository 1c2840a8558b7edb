"""The library: plain PyTorch. It trains every family in one process or many, and never imports ray."""
