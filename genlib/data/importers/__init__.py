"""What users have that is no shard yet: folders of images, tables of paths, Hugging Face data sets; see `genlib.data.importers.convert`."""
