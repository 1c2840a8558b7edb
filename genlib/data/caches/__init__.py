"""What is kept between uses: in memory, on the node's disk, and as encoded samples."""
