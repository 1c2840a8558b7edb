"""What to search for in a StyleGAN3 of configuration R: what `tune_spaces/stylegan3_t.py` has; its layers differ, not its game."""

from tune_spaces.stylegan3_t import space

__all__ = ["space"]
