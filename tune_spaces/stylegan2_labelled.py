"""What to search for in a StyleGAN2 of classes: what `tune_spaces/stylegan2.py` has, as a label changes no setting's meaning."""

from tune_spaces.stylegan2 import space

__all__ = ["space"]
