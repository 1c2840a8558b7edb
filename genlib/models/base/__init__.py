"""What families of several groups share: networks of diffusers and transformers as folders of files."""
