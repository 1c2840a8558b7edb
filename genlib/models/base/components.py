"""Networks of diffusers and transformers as folders in the field's format: config.json beside safetensors.

A folder is a stranger's data: it is read as JSON and as safetensors alone, never as a pickle, and its weights are taken only where
every setting that changes what the network computes, every name and every shape is the same.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genlib.json_text import json_text

IDLE = {
    *("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std"),  # of diffusers' autoencoders and U-Nets
    *("force_upcast", "upcast_attention"),  # where fp16 would overflow
    *("dtype", "torch_dtype", "architectures", "transformers_version", "model_type", "use_cache", "projection_dim", "n_positions"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "is_encoder_decoder", "tie_word_embeddings", "output_past"),
    *("attention_dropout", "dropout", "dropout_rate", "initializer_factor", "initializer_range", "task_specific_params", "gradient_checkpointing"),
}
"""Settings that change nothing of what a trained network of the same shapes computes."""
_PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
_FILES = ("diffusion_pytorch_model", "model")
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # of diffusers' first attention blocks
_PREFIX = "text_model."  # around CLIP's text tower in published folders; transformers 5 left it out
_MOST_JSON_BYTES = 1 << 26


@torch.no_grad()
def save_component(module: nn.Module, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Writes a diffusers or transformers network, so that its class's `from_pretrained(folder)` loads it; `settings` replace entries of config.json.

    Weights must be whole (see `Strategy.whole_weights`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours = _from_diffusers(module)
    config: Any = module.config
    values = json.loads(module.to_json_string()) if ours else json.loads(config.to_json_string())  # type: ignore[operator]
    values = {key: value for key, value in values.items() if key != "_name_or_path"}
    if not ours:
        values["architectures"] = [type(module).__name__]
    (folder / "config.json").write_text(json_text({**values, **(settings or {})}, indent=2, sort_keys=True) + "\n")
    path = folder / f"{_FILES[0] if ours else _FILES[1]}.safetensors"
    prefix = _PREFIX if type(module).__name__ == "CLIPTextModel" else ""  # without it only transformers 5 finds them
    state = {name if name.startswith(prefix) else prefix + name: value.contiguous().cpu() for name, value in _once(module).items()}
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes for the owner alone


@torch.no_grad()
def adopt_component(module: nn.Module, folder: Path) -> dict[str, Any]:
    """Fills the network with the weights of such a folder and returns the folder's config.json.

    ValueError in one sentence, with nothing changed, where a file is missing, broken or a pickle, or where the network there is
    another: the first setting, name or shape that differs is named.
    """
    values = read_config(folder)
    _check_same_network(module, values, folder)
    wanted = _once(module)
    found = dict(_matched(wanted, folder))
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{folder}: its weights lack {missing[0]}, which {type(module).__name__} has; name a whole component")
    for path in sorted({path for path, _ in found.values()}):
        with _opened(path) as file:
            for name, (where, theirs) in found.items():
                if where == path:
                    wanted[name].copy_(file.get_tensor(theirs))
    return values


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. ValueError where there is none, or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        inner = sorted(child for child in folder.glob("*/config.json")) if folder.is_dir() else []
        hint = f", such as {inner[0].parent}" if inner else ""
        raise ValueError(f"{folder} has no config.json; name the folder of one component in diffusers' or transformers' format{hint}")
    return read_json(path)


def read_weights(folder: Path, stem: str) -> dict[str, Tensor]:
    """All tensors of `stem`.safetensors, whole or in pieces, by the names there. ValueError where they are missing, broken or a pickle."""
    found: dict[str, Tensor] = {}
    for path in _weight_files(folder, (stem,)):
        with _opened(path) as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def _from_diffusers(module: nn.Module) -> bool:
    """Whether it is diffusers' and not transformers'."""
    return hasattr(module, "save_config")


def _once(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied weights under their first name alone."""
    seen: dict[tuple[int, torch.Size], str] = {}
    state = module.state_dict()
    return {name: value for name, value in state.items() if value.is_meta or seen.setdefault((value.data_ptr(), value.shape), name) == name}


def read_json(path: Path) -> dict[str, Any]:
    """A stranger's JSON object. ValueError where it is none, or too large to be settings."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ValueError("too large")
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON object ({error}); get it again") from None
    return values


def _check_same_network(module: nn.Module, values: Mapping[str, Any], folder: Path) -> None:
    """ValueError that names the first difference between the network and what config.json describes."""
    theirs = values.get("_class_name") or next(iter(values.get("architectures") or []), None)
    if theirs != type(module).__name__:
        raise ValueError(
            f"{folder} holds a {theirs or 'network without a class'}, but this stage is a {type(module).__name__}; name a folder of that"
        )
    here, there = _settings(module, values)
    for key, value in here.items():
        if key not in IDLE and not key.startswith("_") and there.get(key) != value:
            raise ValueError(f"{folder} has another architecture: {key} is {there.get(key)} there and {value} here; give the task that value")


def _settings(module: nn.Module, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network's settings and the folder's, as JSON values with the defaults filled in."""
    config: Any = module.config
    if _from_diffusers(module):
        arguments = inspect.signature(type(module).__init__).parameters.values()
        here, there = dict(config), {p.name: p.default for p in arguments if p.default is not p.empty} | dict(values)
    else:
        here, there = config.to_dict(), type(config).from_dict(dict(values)).to_dict()
    return json.loads(json.dumps(here, default=str)), json.loads(json.dumps(there, default=str))


def _matched(wanted: Mapping[str, Tensor], folder: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Our name, file and name there of each weight in the folder. ValueError for one that we lack or whose shape differs."""
    for path in _weight_files(folder):
        with _opened(path) as file:
            for theirs in file.keys():  # noqa: SIM118
                name = _our_name(theirs, wanted)
                if name is None:
                    if theirs.endswith(("position_ids", "embed_tokens.weight")):  # a counter, or a second name of a tied weight
                        continue
                    raise ValueError(f"{folder}: its weights have {theirs}, which the network here has not; name a folder of the same architecture")
                shape = tuple(file.get_slice(theirs).get_shape())
                if shape != tuple(wanted[name].shape):
                    raise ValueError(
                        f"{folder} has another architecture: {name} is {shape} there and {tuple(wanted[name].shape)} here; give the task its sizes"
                    )
                yield name, (path, theirs)


def _our_name(theirs: str, wanted: Mapping[str, Tensor]) -> str | None:
    """What a published weight is called here, None where it is nothing."""
    name = theirs
    for old, new in _OLD_NAMES.items():
        if theirs not in wanted:
            name = name.replace(old, new)
    if name not in wanted:
        name = name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else _PREFIX + name
    return name if name in wanted else None


def _weight_files(folder: Path, stems: Sequence[str] = _FILES) -> list[Path]:
    """The safetensors files of the folder, whole or in pieces. ValueError where there are none, or only pickles."""
    for stem in stems:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            pieces = read_json(index).get("weight_map")
            names = sorted(set(pieces.values())) if isinstance(pieces, dict) and all(isinstance(v, str) for v in pieces.values()) else []
            if not names or any(Path(name).name != name or not (folder / name).is_file() for name in names):
                raise ValueError(f"{index} names files that are not in its folder; get the folder again")
            return [folder / name for name in names]
        for path in (folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"):
            if path.is_file():
                return [path]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ValueError(f"{folder} has its weights as a pickle alone ({pickles[0]}), which can run code when it is read; get them as safetensors")
    raise ValueError(f"{folder} has no weights: {' or '.join(f'{stem}.safetensors' for stem in stems)}; get the folder again")


def _opened(path: Path) -> Any:
    """The safetensors file, to be used in a `with`. ValueError where it is none or cut off."""
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); get it again") from None
