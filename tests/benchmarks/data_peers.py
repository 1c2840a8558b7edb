"""The sides of data.py, each the normal user pipeline of one reader, run in a process of its own.

Every side ends in the same thing: shuffled batches with the images as a float32 tensor (B, 3, S, S) in [0, 1], captions and JSON
decoded. Images are stored at the size that is trained on. What each one does:

* `ours`, `ours_readers`: `open_source(DataConfig(train=..., image_size=S, cache_mb=0)).batches(...)`, read in the one process, or by
  two reader processes; `ours_cached` keeps what it decoded in the pass before.
* `webdataset`: shuffled shards, a buffer of 1,000, `.decode("rgb8")` (Pillow), batches stacked as uint8 and turned to float in the
  worker; DataLoader with two workers.
* `mds`: StreamingDataset over the same bytes in MDS form, shuffled, Pillow in `__getitem__`, the same stacking; two workers.
* `huggingface`: `load_dataset("webdataset", streaming=True)`, a buffer of 1,000, its own image feature (Pillow), the same stacking;
  two workers.
* `ray_data`: `ray.data.read_webdataset` with its own decoder (Pillow), local shuffle buffer of 1,000, `iter_batches`, the same stacking;
  a local Ray of two CPUs.

    python -m tests.benchmarks.data_peers SIDE FOLDER S     prints {"samples": .., "cpu_seconds": .., "wall_seconds": ..}

CPU seconds are those of the process and all its descendants for one pass over the set, after another that warmed it up: over the
shard in FOLDER/warm, or for ours over the set, as its batches go on for ever. No import and no start of Ray is counted.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

BATCH, BUFFER, WORKERS = 64, 1000, 2


def tree_cpu_seconds() -> float:
    """CPU seconds so far of this process and its descendants, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        ticks[int(folder.name)] = sum(int(field) for field in fields[11:15])  # own and awaited children's, user and system
    tree = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(ticks[pid] for pid in tree) / os.sysconf("SC_CLK_TCK")


def measure(batches: Iterable[torch.Tensor], side: int) -> dict[str, float]:
    """What it takes to read all batches of images."""
    samples, start, wall = 0, tree_cpu_seconds(), time.monotonic()
    for images in batches:
        assert images.dtype == torch.float32
        assert images.shape[1:] == (3, side, side)
        samples += len(images)
    return {"samples": samples, "cpu_seconds": tree_cpu_seconds() - start, "wall_seconds": time.monotonic() - wall}


def to_float(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 images (S, S, 3) -> float32 (B, 3, S, S) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().div_(255)


def rgb(image: Any) -> np.ndarray:
    """A Pillow image as uint8 (S, S, 3)."""
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def loaded(dataset: Any, **options: Any) -> Iterator[torch.Tensor]:
    """Images of the batches that two workers make."""
    loader = torch.utils.data.DataLoader(dataset, num_workers=WORKERS, worker_init_fn=one_thread, **options)
    return (batch["image"] for batch in loader)


def one_thread(worker: int) -> None:
    """Keeps a worker to its own core."""
    torch.set_num_threads(1)


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples with `jpg`, `txt` and `json` -> a batch."""
    images = [image if isinstance(image, np.ndarray) else rgb(image) for image in (sample["jpg"] for sample in samples)]
    return {"image": to_float(images), "text": [sample["txt"] for sample in samples], "json": [sample["json"] for sample in samples]}


def shards(folder: Path) -> list[str]:
    """Paths of the tars."""
    return [str(path) for path in sorted(folder.glob("*.tar"))]


@cache
def endless(folder: Path, side: int, cache_mb: int, readers: int) -> tuple[int, Iterator[torch.Tensor]]:
    """Batches of an epoch, and our reader as a user gets it."""
    from genlib.config import DataConfig
    from genlib.data.source import open_source

    source = open_source(DataConfig(train=str(folder), image_size=side, cache_mb=cache_mb, readers=readers))
    return source.num_samples("train") // BATCH, (batch["image"] for batch in source.batches("train", BATCH))


def ours(folder: Path, side: int, cache_mb: int = 0, readers: int = 0) -> Iterator[torch.Tensor]:
    """The next epoch."""
    batches, images = endless(folder, side, cache_mb, readers)
    return islice(images, batches)


def ours_cached(folder: Path, side: int) -> Iterator[torch.Tensor]:
    """The same with all decoded samples in memory after the first epoch."""
    return ours(folder, side, cache_mb=4096)


def ours_readers(folder: Path, side: int) -> Iterator[torch.Tensor]:
    """The same with two reader processes."""
    return ours(folder, side, readers=WORKERS)


def webdataset(folder: Path, side: int) -> Iterator[torch.Tensor]:
    """webdataset's pipeline and PyTorch's loader."""
    import webdataset as wds

    dataset = wds.WebDataset(shards(folder), shardshuffle=100, seed=0).shuffle(BUFFER).decode("rgb8")
    return loaded(dataset.batched(BATCH, collation_fn=collate), batch_size=None)


def write_mds(folder: Path) -> Path:
    """The samples of the tars once more in MDS form, beside them; byte by byte the same images and captions."""
    from streaming import MDSWriter

    out = folder / "mds"
    if out.is_dir():
        return out
    with MDSWriter(out=str(out), columns={"jpg": "bytes", "txt": "str", "json": "json"}) as writer:
        for path in shards(folder):
            with tarfile.open(path) as tar:
                sample: dict[str, Any] = {}
                for member in tar:
                    content, kind = tar.extractfile(member).read(), member.name.rpartition(".")[2]
                    sample[kind] = {"jpg": bytes, "txt": bytes.decode, "json": json.loads}[kind](content)
                    if len(sample) == 3:
                        writer.write(sample)
                        sample = {}
    return out


def mds(folder: Path, side: int) -> Iterator[torch.Tensor]:
    """mosaicml-streaming over local MDS shards; it asks for torchvision on import alone, which is given as an empty module."""
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    sys.modules["torchvision.datasets"].VisionDataset = object
    sys.modules["torchvision.transforms.functional"].to_tensor = None
    from PIL import Image
    from streaming import StreamingDataset

    class Pictures(StreamingDataset):
        def __getitem__(self, at: int) -> Any:
            sample = super().__getitem__(at)
            return {**sample, "jpg": rgb(Image.open(io.BytesIO(sample["jpg"])))}

    dataset = Pictures(local=str(write_mds(folder)), shuffle=True, batch_size=BATCH)
    return loaded(dataset, batch_size=BATCH, collate_fn=collate)


def huggingface(folder: Path, side: int) -> Iterator[torch.Tensor]:
    """Hugging Face's streaming reader of webdatasets and PyTorch's loader."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(folder.parent / "huggingface"))
    from datasets import load_dataset

    dataset = load_dataset("webdataset", data_files={"train": shards(folder)}, split="train", streaming=True)
    return loaded(dataset.shuffle(seed=0, buffer_size=BUFFER), batch_size=BATCH, collate_fn=collate)


def started_ray() -> ModuleType:
    """Ray Data; a Ray of its own is started at the first call and ends with this process."""
    if "ray" not in sys.modules:
        temporary = tempfile.mkdtemp(prefix="ray")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)  # after Ray's own, which is registered later
        import ray

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1", _temp_dir=temporary)
        ray.data.DataContext.get_current().enable_progress_bars = False
    return sys.modules["ray.data"]


def ray_data(folder: Path, side: int) -> Iterator[torch.Tensor]:
    """Ray Data's reader of webdatasets."""
    dataset = started_ray().read_webdataset(shards(folder), shuffle="files")
    for batch in dataset.iter_batches(batch_size=BATCH, local_shuffle_buffer_size=BUFFER):
        yield to_float(list(batch["jpg"]))


OURS = (ours, ours_cached, ours_readers)
SIDES: dict[str, Callable[[Path, int], Iterator[torch.Tensor]]] = {side.__name__: side for side in (*OURS, webdataset, mds, huggingface, ray_data)}


def main(name: str, folder: str, side: str) -> None:
    """Prints what one side takes."""
    torch.set_num_threads(1)
    run, place = SIDES[name], Path(folder)
    measure(run(place if run in OURS else place / "warm", int(side)), int(side))
    print(json.dumps(measure(run(place, int(side)), int(side))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
