"""The library: plain PyTorch. It trains every family in one process or many, and never imports ray."""

import os

# PyTorch then asks for pages of 2 MB where tensors are as large, which spares hundreds of page faults for each. It reads this at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
