"""What to search for in a StyleGAN2 of 256 pixels, on GPUs: what `tune_spaces/stylegan2.py` has, whose range of gamma holds all published sizes."""

from tune_spaces.stylegan2 import space

__all__ = ["space"]
