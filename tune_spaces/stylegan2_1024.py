"""What to search for in a StyleGAN2 of 1,024 pixels, on GPUs: what `tune_spaces/stylegan2.py` has, whose range of gamma holds all published sizes."""

from tune_spaces.stylegan2 import space

__all__ = ["space"]
