"""What autoencoders share: codes of samples, latents of images, and their scores, pictures and files."""
