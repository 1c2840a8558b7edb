#!/bin/sh
# transformers 5.23.0 with tokenizers: `CLIPTokenizer.from_pretrained` of a folder with a tokenizer.json.
#
# Guess: a folder's tokenizer.json is the tokenizer, so `AutoTokenizer` and `CLIPTokenizer` read the same numbers for a text.
# Seen: `CLIPTokenizer` takes the vocabulary and the merges alone. The file's normalizer is replaced by one that the class brings along, and
# nothing says so: a caption that the file cleans gets other numbers than by `AutoTokenizer` and by `tokenizers` itself.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, CLIPTokenizer

begin, end = "<|startoftext|>", "<|endoftext|>"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
words = {token: number for number, token in enumerate([*letters, *(letter + "</w>" for letter in letters), begin, end])}
made = Tokenizer(models.BPE(vocab=words, merges=[], end_of_word_suffix="</w>", unk_token=end))
made.normalizer = normalizers.Sequence([normalizers.Replace(Regex("&amp;"), "&"), normalizers.Lowercase()])  # captions from web pages
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
made.add_special_tokens([begin, end])
made.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=[(begin, words[begin]), (end, words[end])])
made.save("tokenizer.json")
marks = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end}
Path("tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **marks}))

text = "salt &amp; pepper"
file = made.encode(text).ids
auto = AutoTokenizer.from_pretrained(".")(text)["input_ids"]
named = CLIPTokenizer.from_pretrained(".")
clip = named(text)["input_ids"]
print(f"transformers {version('transformers')}, tokenizers {version('tokenizers')}: {text!r}")
print(f"  tokenizers     {len(file)} numbers")
print(f"  AutoTokenizer  {len(auto)} numbers, the same: {auto == file}")
print(f"  CLIPTokenizer  {len(clip)} numbers, the same: {clip == file}; normalizer {named.backend_tokenizer.normalizer}")
assert auto == file
assert clip != file
assert len(clip) > len(file)
assert named.get_vocab() == made.get_vocab()
PY
echo "seen as described"
