"""What image-to-image translation shares: pictures in and out, networks, the image pool, scores and sheets."""
