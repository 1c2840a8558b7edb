"""The model card of every export: README.md with the front matter that model hubs read."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlib.sharing.formats import INPUT, Format
from genlib.types import DataSpec

CARD, SAMPLE = "README.md", "sample.png"
CARD_FOLDER = "card"
"""Of a run: what its cards show beside scores and pictures."""
_TELLING = (
    "contact_sheet.png", "prompts.png", "samples.png", "translations.png", "filled.png", "reconstructions.png", "guesses.png", "neighbours.png",
    "map.png",
)  # fmt: skip
"""Pictures of a run's end, those first that show most of what it can do."""

_COSTS = {"steps", "samples_seen", "samples_per_second", "seconds", "skipped", "workers", "strategy"}
"""In metrics.json, what the run was and took, not what it reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a run when its card is written; plain values."""

    recipe: str
    stage: str
    parameters: int
    data: DataSpec
    data_name: str
    """Of the training data, without the path to it."""
    scores: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    """Name and value: steps, batch, optimizer, ..."""
    versions: Mapping[str, str] = field(default_factory=dict)
    license: str = ""
    """The hub's identifier of the licence; empty is not set."""
    captions: Sequence[str] = ()
    """Of some held-out samples, the first of them that of the image `input.png`; classes where there are no captions."""


def write_card(facts: Facts, form: Format, export: Path, *, picture: Path | None, image: Path | None) -> None:
    """README.md of one folder, with `sample.png` beside it, and `input.png` where its code opens one.

    picture: what the run drew at its end; image: a held-out image. None is none.
    """
    folder = export / form.folder
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in ((picture, SAMPLE), (image if INPUT in form.code else None, INPUT)):
        if source is not None:
            shutil.copyfile(source, folder / name)
    (folder / CARD).write_text(card(facts, [form], has_picture=(folder / SAMPLE).exists()))


def telling_picture(*folders: Path) -> Path | None:
    """The picture of a run that shows most of what it can do, in the first folder that has one; None where there is none."""
    for folder in folders:
        there = {path.name: path for path in sorted(folder.glob("*.png"))}
        if there:
            return next((there[name] for name in _TELLING if name in there), next(iter(there.values())))
    return None


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of metrics.json, what the model reached."""
    return {name: value for name, value in metrics.items() if name not in _COSTS and isinstance(value, int | float)}


def public_name(data: str) -> str:
    """The name of data for strangers: of a path its last part, which has a name; a set of the hub and one of ours as they are."""
    names = []
    for part in data.split("::"):
        if part.startswith("hf://"):
            names.append(part)
            continue
        pieces = [piece for piece in re.sub(r"\{[^}]*\}|[*?]", "", part).split("/") if piece and not piece.endswith(":")]
        named = [piece for piece in pieces if not piece.endswith(".tar")]
        names.append((named or pieces or ["unnamed"])[-1])
    return " and ".join(dict.fromkeys(names)) or "unnamed"


def card(facts: Facts, formats: Sequence[Format], *, has_picture: bool, repository: str = "") -> str:
    """README.md for folders that lie in one place: by itself, or as a repository `owner/name` of a hub."""
    first = formats[0]
    parts = [
        f"---\n{front_matter(facts, formats)}---",
        f"# {first.title}",
        *([f"![What it makes]({SAMPLE})"] if has_picture else []),
        *usage(facts, formats, repository),
        scores(facts),
        data(facts),
        training(facts),
        licence(facts),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def front_matter(facts: Facts, formats: Sequence[Format]) -> str:
    """YAML, by the hub's own library."""
    from huggingface_hub import EvalResult, ModelCardData

    first = formats[0]
    hub_set = facts.data_name.removeprefix("hf://datasets/") if facts.data_name.startswith("hf://datasets/") else None
    results = [
        EvalResult(
            task_type=first.task or "other", dataset_type=data_set or facts.data.validation_name, dataset_name=data_set or facts.data.validation_name,
            metric_type=metric, metric_value=value, metric_name=name,
        )
        for name, value in facts.scores.items() if math.isfinite(value)
        for data_set, _, metric in [name.rpartition("/")]
    ]  # fmt: skip
    values = ModelCardData(
        license=facts.license or "unknown", library_name=first.library, pipeline_tag=first.task or None, datasets=[hub_set] if hub_set else None,
        tags=list(dict.fromkeys(tag for form in formats for tag in (*form.tags, "genlib"))),
        model_name=facts.recipe, eval_results=results or None,
    )  # fmt: skip
    return values.to_yaml() + "\n"


def usage(facts: Facts, formats: Sequence[Format], repository: str) -> list[str]:
    """What each folder is, what to install, and code that runs as it stands."""
    found = []
    for form in formats:
        heading = [f"## With {form.library}"] if len(formats) > 1 else []
        where = f"The files are in `{form.hub_folder}/`." if repository and form.hub_folder else ""
        found += [*heading, form.about, where, f"```sh\npip install {form.install}\n```", f"```python\n{code(facts, form, repository)}```"]
    return [part for part in found if part]


def code(facts: Facts, form: Format, repository: str = "") -> str:
    """The code of one folder's card: it runs in the folder, or anywhere with a repository's name."""
    imports, _, rest = form.code.strip("\n").partition("\n\n")
    if repository:
        imports = in_order(f"{imports}\nfrom huggingface_hub import snapshot_download")
        place = f'folder = snapshot_download("{repository}")' + (f' + "/{form.hub_folder}"' if form.hub_folder else "")
    else:
        place = 'folder = "."  # where this file lies'
    words = list(facts.captions) or ["a picture"]
    rest = re.sub(r"CAPTIONS?", lambda found: repr(words if found[0] == "CAPTIONS" else words[0]), rest)
    return f"{imports}\n\n{place}\n{rest}\n"


def in_order(imports: str) -> str:
    """Import lines as they are sorted by custom."""
    lines = imports.splitlines()
    return "\n".join(sorted(lines, key=lambda line: (line.startswith("from "), line)))


def scores(facts: Facts) -> str:
    """A table of the held-out scores."""
    if not facts.scores:
        return "## Scores\n\nNone were taken."
    rows = [f"| {name} | {shown(value)} |" for name, value in facts.scores.items()]
    return "\n".join(
        ["## Scores", "", "Of samples that training did not see, unless a name says otherwise.", "", "| score | value |", "|---|---|", *rows]
    )


def shown(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def data(facts: Facts) -> str:
    """What it was trained on."""
    spec = facts.data
    kind = "image-text pairs" if spec.has_captions else "labelled samples" if spec.class_names else "samples"
    lines = [f"## Data\n\n{spec.num_samples:,} {kind} of `{facts.data_name}`; held out: `{spec.validation_name}`."]
    if spec.image_size:
        lines.append(f"Images of {spec.image_size} x {spec.image_size} pixels, {'grey' if spec.channels == 1 else 'RGB'}.")
    if spec.class_names:
        names = [f"{number} {name}" if name != str(number) else name for number, name in enumerate(spec.class_names)]
        lines.append(f"{len(names):,} classes: {', '.join(names[:100])}{', ...' if len(names) > 100 else ''}.")
    if spec.digest:
        lines.append(f"Identity of the training samples: `{spec.digest[:16]}`.")
    return "\n".join(lines)


def training(facts: Facts) -> str:
    """How it was trained, and with what."""
    rows = {"recipe": f"`{facts.recipe}`", **({"stage": facts.stage} if facts.stage not in ("", "train") else {}), **facts.training}
    rows |= {"parameters": f"{facts.parameters:,}", "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items())}
    return "\n".join(["## Training", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)])


def licence(facts: Facts) -> str:
    """What may be done with the weights."""
    if facts.license:
        return f"## Licence\n\n`{facts.license}`"
    return (
        "## Licence\n\nNot set: nobody has said yet what may be done with these weights. Who shares them says so "
        "(`python jobs/export.py RUN --license mit`), and heeds the licence of the data."
    )
