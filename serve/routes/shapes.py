"""What the endpoints answer, as OpenAPI describes it. Answers are written without these, which would cost more than they say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Nothing else stands in an answer."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Error(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Problem(Shape):
    """Every answer that is no success."""

    error: Error


class PictureRow(Shape):
    """One picture."""

    index: int
    b64_json: str = ""
    url: str = ""
    seed: int = 0


class Pictures(Shape):
    """Pictures that were made."""

    created: int
    model: str
    output_format: Literal["png"]
    background: Literal["opaque"]
    size: str = ""
    data: list[PictureRow]


class ReconstructionRow(PictureRow):
    """A picture, and how far it is from the one that was given."""

    error: float
    anomaly_score: float


class Reconstructions(Pictures):
    """Pictures that went through an autoencoder."""

    data: list[ReconstructionRow]  # type: ignore[assignment]


class EmbeddingRow(Shape):
    """A vector: numbers, or float32 little-endian as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(Shape):
    """Tokens of the texts, marks included; pictures count for none."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Shape):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingRow]
    usage: Usage


class Label(Shape):
    """A label and its probability."""

    label: str
    score: float


class ClassificationRow(Shape):
    """Labels of a picture, the likeliest first."""

    object: Literal["classification"]
    index: int
    labels: list[Label]


class Classifications(Shape):
    """In the order of the pictures."""

    object: Literal["list"]
    model: str
    data: list[ClassificationRow]


class ActionResult(Shape):
    """Pictures, or numbers and their shape."""

    object: Literal["action.result"]
    model: str
    action: str
    created: int = 0
    output_format: Literal["png"] = "png"
    background: Literal["opaque"] = "opaque"
    size: str = ""
    per_row: int = 1
    data: list[PictureRow] = []
    shape: list[int] = []
    numbers: Any = None


class Progress(Shape):
    """Steps done, and of how many."""

    step: int
    steps: int


class Job(Shape):
    """Work that goes on without its client."""

    id: str
    object: Literal["job"]
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    created_at: int
    completed_at: int | None
    endpoint: str
    model: str
    progress: Progress
    request: dict[str, Any]
    error: Error | None
    result: dict[str, Any] | None
    deleted: bool = False


class JobList(Shape):
    """Newest first."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool


class Model(Shape):
    """What a served model is and can do."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    recipe: str
    step: int
    sha256: str
    capabilities: list[str]
    actions: dict[str, dict[str, Any]]
    image_size: int
    channels: int
    multiple: int
    classes: list[str]
    max_batch: int
    max_steps: int
    data: str
    scores: dict[str, float]
    has_picture: bool
    has_held_out: bool


class HeldOutRow(Shape):
    """One of a run's held-out samples: its caption or class, and its image."""

    index: int
    words: str
    media_type: Literal["image/png", "image/jpeg"]
    b64_json: str


class HeldOut(Shape):
    """Some of the samples that the model's training did not see."""

    object: Literal["list"]
    model: str
    data: list[HeldOutRow]


class ModelList(Shape):
    """All that is served, and what one request may ask for."""

    object: Literal["list"]
    data: list[Model]
    limits: dict[str, int]


class Status(Shape):
    """Whether it lives, or can answer."""

    status: str
    models: int = 0
    problems: dict[str, str] = {}
