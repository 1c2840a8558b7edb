"""The tokenizer: CLIP's own output from CLIP's file, the same vocabulary from the same captions, a state that travels."""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genlib.nn.tokenizer import END, START, TextTokenizer, load_bpe, train_bpe
from tests.open_clip_stub import open_clip

CAPTIONS = ["heart outline", "arrow left circle", "account heart", "home account", "left arrow", "cloud rain", "rain cloud heart"] * 3


def clip_file() -> Path:
    """The list of merges that open_clip carries."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        pytest.skip("open_clip is not installed")
    return Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


def texts() -> list[str]:
    words = [
        "a photo of a cat",
        "Zebra's 12 STRIPES!",
        "naïve café — ünïcode",
        "日本語 emoji 🙂",
        "don't we'll they've",
        "  spaces   and\ttabs ",
        "x" * 300,
        "<html> & co.",
    ]
    return [f"{word} {i} {words[i % 7]}" for i in range(13) for word in words][:100]


def test_published_vocabulary_gives_open_clips_numbers() -> None:

    theirs = open_clip().tokenizer.SimpleTokenizer()(texts(), 77)
    ours = TextTokenizer(77, load_bpe(clip_file())).encode(texts())
    assert torch.equal(ours, theirs[:, : ours.shape[1]])
    assert not theirs[:, ours.shape[1] :].any()


def test_folder_and_json_of_a_vocabulary_load_the_same(tmp_path: Path) -> None:
    trained = train_bpe(CAPTIONS, 600)
    trained.save(str(tmp_path / "tokenizer.json"))
    model = json.loads(trained.to_str())["model"]
    folder = tmp_path / "folder"
    folder.mkdir()
    vocabulary = {**model["vocab"], START: trained.token_to_id(START), END: trained.token_to_id(END)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    expected = TextTokenizer(16, trained).encode(CAPTIONS)
    for path in (tmp_path / "tokenizer.json", tmp_path, folder):
        assert torch.equal(TextTokenizer(16, load_bpe(path)).encode(CAPTIONS), expected)
    with pytest.raises(ValueError, match="there is no tokenizer at"):
        load_bpe(tmp_path / "none.txt")


def test_training_is_deterministic_across_processes() -> None:
    code = f"from genlib.nn.tokenizer import train_bpe; print(train_bpe({CAPTIONS!r}, 560).to_str())"
    outputs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    models = [json.loads(output)["model"] for output in outputs]
    assert models[0]["merges"] == models[1]["merges"]
    assert models[0]["vocab"] == models[1]["vocab"]
    assert len(models[0]["merges"]) > 20


def test_end_mark_has_the_highest_number_and_is_never_cut() -> None:
    one = TextTokenizer(8, train_bpe(CAPTIONS, 560))
    tokens = one.encode(["heart", "never seen wörds, many of them 123", ""])
    assert tokens.max() == one.num_tokens - 1
    assert (tokens == one.num_tokens - 1).sum(1).tolist() == [1, 1, 1]
    assert tokens.shape == (3, 8)
    assert one.encode(["heart"]).shape == (1, 4)


def test_trained_pieces_learn_words() -> None:
    one = train_bpe(CAPTIONS, 600)
    assert one.encode("heart arrow").tokens == [START, "heart</w>", "arrow</w>", END]


def test_state_travels_in_a_state_dict_and_through_pickle() -> None:
    one, other = TextTokenizer(12, train_bpe(CAPTIONS, 560)), TextTokenizer(12)
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    assert torch.equal(other.encode(CAPTIONS), one.encode(CAPTIONS))
    assert torch.equal(pickle.loads(pickle.dumps(one)).encode(CAPTIONS), one.encode(CAPTIONS))
    assert all(isinstance(value, torch.Tensor) for value in one.state_dict().values())


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 500 is too small"):
        train_bpe(CAPTIONS, 500)
