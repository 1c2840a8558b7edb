"""The ports that actions are annotated with: images and other arrays, texts, seeds, and the settings of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from genlib.ports.port import BATCH, MAX_SEED, Port
from genlib.ports.port_classes import MaskPort, NumbersPort, SamplePort, WordsPort, choice, register

_PIXELS = ("channel", "height", "width")
Image = Annotated[Tensor, register(Port(kind="image", axes=(BATCH, *_PIXELS), low=0, high=1, picture=True))]
"""Images (B, C, H, W) in [0, 1]."""
Frames = Annotated[Tensor, register(Port(kind="frames", axes=(BATCH, "frame", *_PIXELS), low=0, high=1, picture=True))]
"""Several images of each row, (B, K, C, H, W) in [0, 1]."""
Strip = Annotated[Tensor, register(Port(kind="strip", axes=("frame", *_PIXELS), low=0, high=1, picture=True))]
"""Images (K, C, H, W) in [0, 1] that belong to the call as a whole."""
Gallery = Annotated[Tensor, register(Port(kind="gallery", axes=("item", *_PIXELS), low=0, high=1))]
"""Images (M, C, H, W) in [0, 1] that all rows are compared with."""
Mask = Annotated[Tensor, register(MaskPort(kind="mask", axes=(BATCH, "single", "height", "width"), low=0, high=1, picture=True))]
"""Masks (B, 1, H, W): 1 where an image is to change."""
MaskLogits = Annotated[Tensor, register(Port(kind="mask_logits", axes=(BATCH, "mask", "height", "width")))]
"""Log-odds (B, K, H, W) that a pixel belongs to each of K masks."""
Latent = Annotated[Tensor, register(Port(kind="latent", axes=(BATCH, "latent", "row", "column")))]
"""Latents (B, c, h, w) of an autoencoder."""
Codes = Annotated[Tensor, register(Port(kind="codes", axes=(BATCH, "row", "column"), low=0, whole=True))]
"""Entries (B, h, w) int64 of a codebook."""
Code = Annotated[Tensor, register(Port(kind="code", axes=(BATCH, "code")))]
"""Codes (B, D) that the task decodes."""
Place = Annotated[Tensor, register(Port(kind="place", axes=(BATCH, "coordinate")))]
"""Places (B, 2) on a map, x and y."""
Direction = Annotated[Tensor, register(Port(kind="direction", axes=("code",)))]
"""A change (D,) of codes."""
Vector = Annotated[Tensor, register(Port(kind="vector", axes=(BATCH, "feature")))]
"""Vectors (B, D), where samples are vectors."""
Features = Annotated[Tensor, register(Port(kind="features", axes=(BATCH, "embedding")))]
"""Embeddings (B, D), to be compared with each other."""
Sample = Annotated[Tensor, register(SamplePort(kind="sample", axes=(BATCH,)))]
"""Images (B, C, H, W) in [0, 1] or vectors (B, D), whichever the task was trained on."""
SampleFrames = Annotated[Tensor, register(SamplePort(kind="sample_frames", axes=(BATCH, "frame")))]
"""Several samples of each row, (B, K, C, H, W) or (B, K, D)."""
SampleStrip = Annotated[Tensor, register(SamplePort(kind="sample_strip", axes=("frame",)))]
"""Samples (K, C, H, W) or (K, D) that belong to the call as a whole."""
SampleGallery = Annotated[Tensor, register(SamplePort(kind="sample_gallery", axes=("item",)))]
"""Samples (M, C, H, W) or (M, D) that all rows are compared with."""
VectorFrames = Annotated[Tensor, register(Port(kind="vector_frames", axes=(BATCH, "frame", "feature")))]
"""Several vectors of each row, (B, K, D)."""
VectorStrip = Annotated[Tensor, register(Port(kind="vector_strip", axes=("frame", "feature")))]
"""Vectors (K, D) that belong to the call as a whole."""
VectorGallery = Annotated[Tensor, register(Port(kind="vector_gallery", axes=("item", "feature")))]
"""Vectors (M, D) that all rows are compared with."""
Probabilities = Annotated[Tensor, register(Port(kind="probabilities", axes=(BATCH, "option"), low=0, high=1))]
"""Probabilities (B, K) of K labels."""
Scores = Annotated[Tensor, register(Port(kind="scores", axes=(BATCH,)))]
"""A number (B,) for each row."""
Numbers = Annotated[Tensor, register(Port(kind="numbers", axes=(BATCH,), low=0, whole=True))]
"""The number (B,) int64 of what each row belongs to, from 0."""
Ranking = Annotated[Tensor, register(Port(kind="ranking", axes=(BATCH, "rank"), low=0, whole=True))]
"""Numbers (B, K) int64 of items of a gallery, the best first."""

Text = Annotated[str, register(WordsPort(kind="text"))]
"""A text for all rows."""
Texts = Annotated[list[str], register(WordsPort(kind="texts", axes=(BATCH,)))]
"""A text a row."""
NegativeText = Annotated[str, register(WordsPort(kind="negative_text"))]
"""What guidance pushes away from."""
SourceTexts = Annotated[list[str], register(WordsPort(kind="source_texts", axes=(BATCH,)))]
"""A description of each given image, a text a row."""
Names = Annotated[list[str], register(WordsPort(kind="names", axes=("option",)))]
"""Labels in words, for all rows."""
Templates = Annotated[Sequence[str], register(WordsPort(kind="templates", axes=("template",)))]
"""Sentences with {} for a label."""
Labels = Annotated[list[int], register(NumbersPort(kind="label", axes=(BATCH,), low=0, whole=True))]
"""A class a row, by its number."""
Seeds = Annotated[list[int], register(NumbersPort(kind="seeds", axes=(BATCH,), low=0, high=MAX_SEED, whole=True, limit="pictures"))]
"""A seed a row."""
StyleSeeds = Annotated[list[int], register(NumbersPort(kind="style_seeds", axes=(BATCH,), low=0, high=MAX_SEED, whole=True, limit="pictures"))]
"""A second seed a row, whose style is mixed in."""
Seed = Annotated[int, register(Port(kind="seed", low=0, high=MAX_SEED, whole=True))]
"""A seed for the call as a whole."""
Amounts = Annotated[list[float], register(NumbersPort(kind="amounts", axes=("amount",)))]
"""Numbers for all rows, each of which is tried on every row."""
Values = Annotated[list[float], register(NumbersPort(kind="values", axes=(BATCH,)))]
"""A number a row."""
Steps = Annotated[int, register(Port(kind="steps", low=1, whole=True, limit="steps", repeats=True, few=2))]
"""Steps of a sampler or a chain."""
Passes = Annotated[int, register(Port(kind="passes", low=1, whole=True, limit="steps", repeats=True, few=2))]
"""How often resampling runs each stretch of the grid."""
Jump = Annotated[int, register(Port(kind="jump", low=1, whole=True, limit="steps", few=1))]
"""Steps of a stretch that resampling repeats."""
FrameCount = Annotated[int, register(Port(kind="frame_count", low=1, whole=True, limit="steps", repeats=True, few=2))]
"""Images of a series."""
Count = Annotated[int, register(Port(kind="count", low=1, whole=True, limit="steps", few=1))]
"""How many results a row gets."""
Guidance = Annotated[float, register(Port(kind="guidance"))]
"""Scale of classifier-free guidance; 1 is none."""
GuidanceRescale = Annotated[float, register(Port(kind="guidance_rescale", low=0, high=1))]
"""Share of the guided estimate whose spread is put back."""
Strength = Annotated[float, register(Port(kind="strength", low=0, high=1))]
"""How far from a given image: 0 keeps it, 1 forgets it."""
NoiseLevel = Annotated[float, register(Port(kind="noise_level", low=0))]
"""Strength of the noise in given samples."""
Depth = Annotated[float, register(Port(kind="depth", low=0))]
"""Depth from which on two valleys of a map count as two."""
Left = Annotated[float, register(Port(kind="left", low=0, high=1))]
"""Share of the new room to the left."""
Top = Annotated[float, register(Port(kind="top", low=0, high=1))]
"""Share of the new room above."""
Width = Annotated[int, register(Port(kind="width", low=0, whole=True, limit="side", few=0))]
"""Pixels; 0 is the size of training."""
Height = Annotated[int, register(Port(kind="height", low=0, whole=True, limit="side", few=0))]
"""Pixels; 0 is the size of training."""
Truncation = Annotated[float, register(Port(kind="truncation", low=-2, high=2, few=1))]
"""How far styles are from their mean: 1 leaves them, 0 draws the mean alone, less than 0 what is opposite."""
LayerNoise = Annotated[str, register(choice("layer_noise", ("const", "random", "none")))]
"""Noise at a generator's layers: that which it keeps, of each seed's own, or none."""
StyleLayer = Annotated[int, register(Port(kind="style_layer", low=0, whole=True, few=1))]
"""The first layer that takes another style."""
