#!/bin/sh
# webdataset 1.0.2 and datasets 5.2.0, on two shards joined by `cat a.tar b.tar > ab.tar`.
#
# Guess: WebDataset shards are read as a stream, so joined ones give the samples of both, or an error says that something is wrong.
# Seen: both read the first archive alone and end without a word: 2 of 5 samples. Python's tarfile counts 4 of 10 members without
# `ignore_zeros=True` and 10 with it. A set that was put together with cat loses all but the first shard of each file.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet webdataset==1.0.2 datasets==5.2.0
cd "$folder"
HF_HOME="$folder/hf" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import io
import tarfile
from importlib.metadata import version

import datasets
import webdataset

datasets.disable_progress_bars()


def shard(path, keys):
    with tarfile.open(path, "w") as archive:
        for key in keys:
            for extension, data in (("txt", key.encode()), ("cls", b"1")):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


shard("a.tar", ["a1", "a2"])
shard("b.tar", ["b1", "b2", "b3"])
with open("ab.tar", "wb") as joined:
    for name in ("a.tar", "b.tar"):
        with open(name, "rb") as one:
            joined.write(one.read())

with tarfile.open("ab.tar") as one, tarfile.open("ab.tar", ignore_zeros=True) as all_of_it:
    members = len(one.getmembers()), len(all_of_it.getmembers())
by_webdataset = [sample["__key__"] for sample in webdataset.WebDataset("ab.tar", shardshuffle=False)]
by_datasets = datasets.load_dataset("webdataset", data_files="ab.tar", split="train")["__key__"][:]
print(f"tarfile: {members[0]} members, {members[1]} with ignore_zeros")
print(f"webdataset {version('webdataset')}: {by_webdataset}")
print(f"datasets {version('datasets')}: {by_datasets}")
assert members == (4, 10)
assert by_webdataset == by_datasets == ["a1", "a2"]
PY
