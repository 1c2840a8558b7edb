"""What to search for in a dense GAN of the minimax game: what `tune_spaces/gan.py` has, as the loss changes no setting's meaning."""

from tune_spaces.gan import space

__all__ = ["space"]
