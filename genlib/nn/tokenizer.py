"""Byte-pair encoding as CLIP has it (Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2021, arXiv:2103.00020): lower case,
words and their last piece marked, start and end of text, the end being the highest number in use.

Trained on captions, or loaded from the file that a published model came with. The vocabulary is part of the task's state, so
that it travels with the weights.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from genlib.json_text import json_text
from genlib.nn.text_cleaning import cleaned, cleaning, rules

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

# CLIP's split into words: contractions, runs of letters, single digits, runs of anything else
_WORDS = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")


def _pipeline(model: models.BPE) -> Tokenizer:
    """CLIP's text processing around a vocabulary."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    split = pre_tokenizers.Split(_WORDS, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _with_ends(tokenizer: Tokenizer) -> Tokenizer:
    """Adds start and end of text, numbered last where they are new, around every text."""
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return tokenizer


def train_bpe(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A vocabulary of at most `vocab_size` pieces from captions: all bytes, inside and at the end of a word, then merges by frequency."""
    if vocab_size < 514:
        raise ValueError(f"vocab_size {vocab_size} is too small: 256 bytes, inside and at the end of a word, and two marks make 514")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    last = {letter: chr(0xE000 + number) for number, letter in enumerate(alphabet)}  # private letters stand for a word's last one
    pipeline = _pipeline(models.BPE())
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Letters with the mark would be numbered at random by the trainer, and so equally frequent pairs be merged in random order.
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 2, initial_alphabet=[*alphabet, *last.values()], show_progress=False)
    learner.train_from_iterator((" ".join(word[:-1] + last[word[-1]] for word in _split(pipeline, caption)) for caption in captions), trainer)
    marked = {ord(mark): letter + WORD_END for letter, mark in last.items()}
    merges = [[part.translate(marked) for part in pair] for pair in json.loads(learner.to_str())["model"]["merges"]]
    return _with_ends(_pipeline(_bpe(_numbered(alphabet, merges), merges)))


def _split(pipeline: Tokenizer, text: str) -> list[str]:
    """A text's words as letters that stand for bytes."""
    assert pipeline.normalizer is not None
    assert pipeline.pre_tokenizer is not None
    return [word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(text))]


def _numbered(alphabet: Sequence[str], merges: Sequence[Sequence[str]]) -> dict[str, int]:
    """CLIP's numbering: bytes, bytes at the end of a word, then merges in their order."""
    pieces = [*alphabet, *(letter + WORD_END for letter in alphabet), *("".join(pair) for pair in merges)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _bpe(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> models.BPE:
    return models.BPE(vocab=vocabulary, merges=[(a, b) for a, b in merges], end_of_word_suffix=WORD_END, continuing_subword_prefix="", fuse_unk=False)


def load_bpe(path: Path) -> Tokenizer:
    """A published vocabulary: a `tokenizer.json`, a folder with one or with `vocab.json` and `merges.txt`, or OpenAI's merges (.txt, .txt.gz).

    ValueError where there is none, or where it is damaged.
    """
    if path.is_dir():
        path = path / ("tokenizer.json" if (path / "tokenizer.json").exists() else "merges.txt")
    if not path.exists():
        raise ValueError(f"there is no tokenizer at {path}; give a tokenizer.json, a folder with vocab.json and merges.txt, or a list of merges")
    try:
        return _read_bpe(path)
    except Exception as error:  # tokenizers raises no other class, and gzip, json and decoding one each
        raise ValueError(f"{path} cannot be read as a tokenizer ({' '.join(str(error).split())}); get it again") from None


def _read_bpe(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        return Tokenizer.from_file(str(path))
    lines = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode().split("\n")
    merges = [line.split() for line in lines[1:] if len(line.split()) == 2]
    if (path.parent / "vocab.json").exists():
        return _with_ends(_pipeline(_bpe(json.loads((path.parent / "vocab.json").read_text()), merges)))
    merges = merges[: 49_152 - 256 - 2]  # the published list is longer than what the models use
    byte_order = list(_bytes_in_clip_order())
    return _with_ends(_pipeline(_bpe(_numbered(byte_order, merges), merges)))


def _take_rules(tokenizer: Tokenizer) -> None:
    """Takes out of a tokenizer.json of ours the rules that `TextTokenizer.to_json` put before its own normalizer: texts are clean when they come."""
    steps, ours = _steps(tokenizer.normalizer), _steps(rules())
    if steps[: len(ours)] == ours:
        own = {"type": "Sequence", "normalizers": steps[len(ours) :]}
        settings = json.loads(Tokenizer(models.BPE()).to_str())
        tokenizer.normalizer = Tokenizer.from_str(json_text({**settings, "normalizer": own})).normalizer


def _steps(normalizer: normalizers.Normalizer | None) -> list[dict[str, Any]]:
    """What tokenizer.json says of it, step by step."""
    empty = Tokenizer(models.BPE())
    empty.normalizer = normalizer
    settings = json.loads(empty.to_str())["normalizer"] or {}
    return settings.get("normalizers", [settings])


def _bytes_in_clip_order() -> Iterable[str]:
    """Letters that stand for the 256 bytes in the order in which GPT-2 and CLIP number them: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    yield from map(chr, printable)
    yield from (chr(256 + i) for i in range(256 - len(printable)))


class TextTokenizer(nn.Module):
    """Texts to numbers (B, N): start, pieces, end, then zeros up to the longest text of the batch, a multiple of 4.

    Padding is never seen: the text tower is causal and reads at the end mark. The vocabulary lives in the state dict. With `cleans` texts
    are cleaned as open_clip does it, whatever the vocabulary; without, they go through the vocabulary's own normalizer alone, as in transformers.
    """

    def __init__(self, context_length: int, tokenizer: Tokenizer | None = None, *, cleans: bool = True) -> None:
        super().__init__()
        self.context_length, self.cleans = context_length, cleans
        self.use(tokenizer)

    @property
    def beyond_state(self) -> str:
        """What texts go through that the state does not say, see `genlib.engine.encoding.identity`."""
        return cleaning() if self.cleans else ""

    def use(self, tokenizer: Tokenizer | None) -> None:
        """Takes a vocabulary."""
        self.tokenizer = tokenizer
        self.words: dict[str, list[int]] = {}
        self.fixed: dict[int, FixedLengthTokenizer] = {}
        if tokenizer:
            tokenizer.no_truncation()
            tokenizer.no_padding()
            if self.cleans:
                _take_rules(tokenizer)

    def learn(self, captions: Iterable[str], vocab_size: int) -> None:
        """Takes a vocabulary of at most so many pieces that is trained on captions."""
        self.use(train_bpe(map(self.clean, captions), vocab_size))

    def clean(self, text: str) -> str:
        """The text as it is cut into pieces."""
        return cleaned(text) if self.cleans else text

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary with the marks."""
        return self.tokenizer.get_vocab_size() if self.tokenizer else 0

    def id_of(self, mark: str) -> int:
        """The number of a piece of the vocabulary; 0 where it has no such piece."""
        return (self.tokenizer.token_to_id(mark) if self.tokenizer else None) or 0

    def to_json(self) -> str:
        """The vocabulary as the field's tokenizer.json, which cleans texts by itself, but for what rules cannot do (`text_cleaning`)."""
        assert self.tokenizer is not None, "the tokenizer was neither trained nor loaded"
        if not self.cleans:
            return self.tokenizer.to_str()
        whole = Tokenizer.from_str(self.tokenizer.to_str())
        whole.normalizer = normalizers.Sequence([rules(), whole.normalizer or normalizers.NFC()])
        return whole.to_str()

    def fixed_length(self, pad_token: int) -> FixedLengthTokenizer:
        """The same vocabulary as what makes texts of one length."""
        assert self.tokenizer is not None, "the tokenizer was neither trained nor loaded"
        if pad_token not in self.fixed:  # copying a published vocabulary takes longer than encoding a batch
            self.fixed[pad_token] = FixedLengthTokenizer(self.tokenizer, self.context_length, pad_token, cleans=self.cleans)
        return self.fixed[pad_token]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(B,) texts -> (B, N) int64, N at most the context length; of a longer text the end is cut, never the end mark."""
        assert self.tokenizer is not None, "the tokenizer was neither trained nor loaded"
        start, end = self.tokenizer.token_to_id(START), self.tokenizer.token_to_id(END)
        rows = [[start, *self._read(text), end] for text in texts]
        width = min(-(-max(map(len, rows)) // 4) * 4, self.context_length)
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    def count(self, texts: Sequence[str]) -> int:
        """Numbers of all texts together without what fills them up: pieces that fit into the context, and two marks each."""
        return sum(len(self._read(text)) + 2 for text in texts)

    def _read(self, text: str) -> list[int]:
        """The pieces that fit between the marks."""
        return self._pieces(text)[: self.context_length - 2]

    def _pieces(self, text: str) -> list[int]:
        """At least those that fit. No piece spans a space, so that words can be remembered: cutting them anew took 200 microseconds a caption,
        remembered 2."""
        assert self.tokenizer is not None
        if len(self.words) > 200_000:
            self.words.clear()
        pieces = []
        for word in self.clean(text).split():
            if word not in self.words:
                self.words[word] = self.tokenizer.encode(word, add_special_tokens=False).ids
            pieces += self.words[word]
            if len(pieces) >= self.context_length:
                break
        return pieces

    def get_extra_state(self) -> Tensor:
        """The vocabulary as bytes (n,) uint8."""
        text = self.tokenizer.to_str() if self.tokenizer else ""
        return torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        text = bytes(state.cpu().numpy()).decode()
        self.use(Tokenizer.from_str(text) if text != "\0" else None)


class FixedLengthTokenizer:
    """Texts to numbers (B, length) as transformers' tokenizers fill them up, with the vocabulary's own marks: for networks that see the padding."""

    def __init__(self, tokenizer: Tokenizer, length: int, pad_token: int, *, cleans: bool) -> None:
        self.tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.cleans = cleans
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=pad_token, pad_token=self.tokenizer.id_to_token(pad_token) or "")

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B,) texts -> (B, length) int64; of a longer text the end is cut, never the mark after it."""
        texts = list(map(cleaned, texts)) if self.cleans else list(texts)
        return torch.tensor([text.ids for text in self.tokenizer.encode_batch(texts)], dtype=torch.int64).view(len(texts), -1)
