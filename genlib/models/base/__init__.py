"""What families of several groups share: the collapse monitor, labels, and networks of diffusers and transformers as folders of files."""
