"""What to search for in a colouriser of grey pictures: what `tune_spaces/pix2pix.py` has, whose loss, networks and ranking it shares."""

from tune_spaces.pix2pix import space

__all__ = ["space"]
