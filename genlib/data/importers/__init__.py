"""Conversion to shards: of folders of images, tables of paths, and Hugging Face data sets; see `genlib.data.importers.convert`."""
