"""Draws by diffusers alone from exported folders: `python -S clean_pipeline.py REQUESTS.json PICTURES.safetensors`, in a process without genlib.

A request names a pipeline's class, its folder, prompts, seeds and options of the call; `after` is the number of an earlier one whose
latents it takes.
"""

import gc
import importlib.util
import json
import sys
from pathlib import Path


def main(requests: Path, out: Path) -> None:
    if importlib.util.find_spec("genlib"):
        raise SystemExit("genlib is there, so that this proves nothing")
    gc.disable()  # a fifth of the imports' time would go into looking for garbage among them
    import diffusers
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    pipelines, pictures = {}, []
    for request in json.loads(requests.read_text()):
        name = request["pipeline"], request["folder"]
        if name not in pipelines:
            pipelines[name] = getattr(diffusers, name[0]).from_pretrained(name[1])
            pipelines[name].set_progress_bar_config(disable=True)
        options = dict(request["options"])
        if "after" in request:
            options["image"] = pictures[request["after"]]
        generators = [torch.Generator().manual_seed(seed) for seed in request["seeds"]]
        made = pipelines[name](request["prompt"], generator=generators, **{"output_type": "pt", **options})
        pictures.append(made.images)
    save_file({str(number): picture.contiguous() for number, picture in enumerate(pictures)}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
