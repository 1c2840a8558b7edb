"""StyleGAN: a generator that is told at every resolution in which style to draw, and its discriminator."""
