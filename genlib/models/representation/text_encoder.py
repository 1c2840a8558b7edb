"""Text encoders that are not trained here: CLIP's text tower and T5, taken from a folder in transformers' format.

A latent diffusion model reads texts by them. A CLIP trained here serves as well: `text_tower` gives the same view of both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from genlib.companions import Companions
from genlib.config import TaskConfig, limited
from genlib.data.transforms.plain import PlainTransform
from genlib.models.base.components import adopt_component
from genlib.models.representation.base.clip_towers import TextTransformer, attention
from genlib.nn.tokenizer import END, TextTokenizer, load_bpe
from genlib.task import Phase, Task
from genlib.types import DataSource, DataSpec
from genlib.upstream import as_kept

TOKENIZER_FOLDERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}
"""Where a pipeline folder keeps the tokenizer of each of its text encoders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderConfig(TaskConfig):
    """CLIP's text tower alone; the defaults are those of CLIP ViT-L/14, the first text encoder of SDXL."""

    text: TextTransformer = field(default_factory=lambda: TextTransformer(width=768, heads=12))
    """Size of the tower."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Between the two layers of each block: quick_gelu in OpenAI's towers, gelu in OpenCLIP's."""
    embed_dim: int = limited(0, at_least=0)
    """Size of the projected summary of a text; 0 has no projection."""

    fields: ClassVar[tuple[str, ...]] = ("text",)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> TextEncoder:
        return TextEncoder(self, data)


@dataclass(frozen=True, kw_only=True, slots=True)
class T5EncoderConfig(TaskConfig):
    """T5's encoder (Raffel et al. 2020, arXiv:1910.10683); the defaults are those of T5 v1.1 XXL, the third text encoder of SD3."""

    vocab_size: int = limited(32_128, at_least=2)
    """Tokens."""
    width: int = limited(4096, at_least=1)
    """Channels of a token."""
    feed_forward: int = limited(10_240, at_least=1)
    """Channels inside a block."""
    layers: int = limited(24, at_least=1)
    """Blocks."""
    heads: int = limited(64, at_least=1)
    """Attention heads of 64 channels, or fewer where the width is small."""
    head_dim: int = limited(64, at_least=1)
    """Channels of a head."""
    context_length: int = limited(256, at_least=3)
    """Longest text in tokens."""

    fields: ClassVar[tuple[str, ...]] = ("text",)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> T5Encoder:
        return T5Encoder(self, data)


class FixedTextEncoder(Task):
    """Base of both: nothing to train; weights come from `load_pretrained`, in a smoke run from chance.

    Texts are cleaned by the folder's tokenizer alone, as in the pipelines that the folders are of."""

    phases: tuple[Phase, ...] = ()
    frozen_precision = "bf16"  # as diffusers' own training scripts keep them; hidden states are rounded to float16 anyway
    companions = Companions(load_pretrained="genlib.models.representation.text_encoder:load_pretrained")
    tokenizer: TextTokenizer
    text_model: Any
    pad_token: Tensor

    def transform(self, train: bool) -> PlainTransform:
        return PlainTransform()

    def prepare(self, source: DataSource) -> None:
        """A tokenizer of the captions, for towers of random weights; `load_pretrained` replaces it."""
        self.tokenizer.learn(source.captions("train", 100_000), self.vocab_size)

    @property
    def vocab_size(self) -> int:
        """Tokens the tower knows."""
        return self.text_model.config.vocab_size


def load_pretrained(task: FixedTextEncoder, folder: Path) -> None:
    """The network and tokenizer of a transformers folder. ValueError where they do not fit."""
    adopt_component(task.text_model, folder)
    task.tokenizer.use(read_tokenizer(folder))
    if task.tokenizer.num_tokens > task.vocab_size:
        raise ValueError(f"{folder}: its tokenizer has {task.tokenizer.num_tokens} tokens, the tower {task.vocab_size}; get the folder again")
    task.pad_token.fill_(pad_token(folder, task.tokenizer))


class TextEncoder(FixedTextEncoder):
    """CLIP's text tower, frozen."""

    def __init__(self, config: TextEncoderConfig, data: DataSpec) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        super().__init__()
        self.config, self.data = config, data
        settings = CLIPTextConfig(
            vocab_size=config.text.vocab_size, max_position_embeddings=config.text.context_length, hidden_size=config.text.width,
            intermediate_size=4 * config.text.width, num_hidden_layers=config.text.layers, num_attention_heads=config.text.heads,
            projection_dim=config.embed_dim or config.text.width, hidden_act=config.activation, bos_token_id=None, eos_token_id=2,
        )  # fmt: skip
        self.text_model = CLIPTextModelWithProjection(settings) if config.embed_dim else CLIPTextModel(settings)
        self.text_model.set_attn_implementation(attention())
        self.tokenizer = TextTokenizer(config.text.context_length, cleans=False)
        self.register_buffer("pad_token", torch.tensor([1]))

    def prepare(self, source: DataSource) -> None:
        super().prepare(source)
        self.pad_token.fill_(self.tokenizer.id_of(END))


class T5Encoder(FixedTextEncoder):
    """T5's encoder, frozen."""

    def __init__(self, config: T5EncoderConfig, data: DataSpec) -> None:
        from transformers import T5Config, T5EncoderModel

        super().__init__()
        self.config, self.data = config, data
        self.text_model = T5EncoderModel(
            T5Config(
                vocab_size=config.vocab_size, d_model=config.width, d_ff=config.feed_forward, num_layers=config.layers, num_heads=config.heads,
                d_kv=config.head_dim, feed_forward_proj="gated-gelu", tie_word_embeddings=False,  # type: ignore[call-arg]
            )
        )  # fmt: skip
        self.tokenizer = TextTokenizer(config.context_length, cleans=False)
        self.register_buffer("pad_token", torch.tensor([0]))


@dataclass(frozen=True, slots=True)
class FrozenTextTower:
    """A text encoder as diffusion uses it: of a task of this module, or of a CLIP trained here."""

    task: Task
    model: Any
    """transformers' CLIPTextModel, CLIPTextModelWithProjection or T5EncoderModel."""

    @property
    def pad_token(self) -> int:
        """What texts are filled up with."""
        return int(self.task.pad_token) if isinstance(self.task, FixedTextEncoder) else self.tokenizer.id_of(END)

    @property
    def width(self) -> int:
        """Channels of a hidden state."""
        return self.model.config.hidden_size

    @property
    def length(self) -> int:
        """Tokens of a text, padding included."""
        return self.tokenizer.context_length

    @property
    def pooled_width(self) -> int:
        """Channels of the projected summary; 0 where there is none."""
        return self.model.config.projection_dim if hasattr(self.model, "text_projection") else 0

    @property
    def tokenizer(self) -> TextTokenizer:
        """The vocabulary."""
        tokenizer = self.task.tokenizer
        assert isinstance(tokenizer, TextTokenizer)
        return tokenizer

    def states(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, N) -> hidden states before the last block, and after it normalised, (B, N, width) each, and the projected summary (B, P) or None."""
        with as_kept(self.task, tokens.device):
            out = self.model(tokens, output_hidden_states=True)
        return out.hidden_states[-2], out.last_hidden_state, getattr(out, "text_embeds", None)


def text_tower(task: Task) -> FrozenTextTower:
    """The text encoder in a CLIP or a task of this module. ValueError where the task has none."""
    if isinstance(task, FixedTextEncoder):
        return FrozenTextTower(task, task.text_model)
    from genlib.models.representation.clip import CLIP

    if not isinstance(task, CLIP):
        raise ValueError(f"{type(task).__name__} has no text encoder; the stage must be a CLIP or a text encoder")
    model: Any = task.net.text.model
    return FrozenTextTower(task, model)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a text encoder's folder, or beside it as a pipeline keeps it. ValueError where there is none, or it is damaged."""
    places = [folder, folder.parent / TOKENIZER_FOLDERS.get(folder.name, "tokenizer")]
    for place in places:
        if (place / "tokenizer.json").is_file() or ((place / "vocab.json").is_file() and (place / "merges.txt").is_file()):
            return load_bpe(place)
    raise ValueError(f"{folder} has no tokenizer.json, or vocab.json and merges.txt, nor has {places[1]}; name a text encoder in a pipeline's folder")


def pad_token(folder: Path, tokenizer: Tokenizer | TextTokenizer) -> int:
    """The number of the padding token that the tokenizer's settings name; 0 where they name none."""
    for place in (folder, folder.parent / TOKENIZER_FOLDERS.get(folder.name, "tokenizer")):
        if (place / "tokenizer_config.json").is_file():
            settings = _json_object(place / "tokenizer_config.json")
            # transformers heeds the older file where the newer has no list of marks: Stable Diffusion 2 says "!" there alone
            marks = {} if "added_tokens_decoder" in settings else _json_object(place / "special_tokens_map.json")
            named = marks.get("pad_token") or settings.get("pad_token")
            text = named.get("content") if isinstance(named, dict) else named
            inner = tokenizer.tokenizer if isinstance(tokenizer, TextTokenizer) else tokenizer
            return (inner.token_to_id(text) if inner and isinstance(text, str) else None) or 0
    return 0


def _json_object(path: Path) -> dict[str, Any]:
    """What the file says; {} where there is none. ValueError where it is no JSON object."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
        if isinstance(values, dict):
            return values
    except (ValueError, RecursionError):
        pass
    raise ValueError(f"{path} is no JSON object; get it again")
