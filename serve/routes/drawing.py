"""What all endpoints that draw pictures take."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from genlib.actions import Action
from serve.inference.request import SEEDS
from serve.routes.bodies import WHOLE, Asked
from serve.routes.pictures import SIZE

Text = Annotated[str, Field(max_length=4000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Drawn(Asked):
    """What all have that draw pictures."""

    n: Annotated[int, Field(ge=1, le=64), WHOLE] | None = Field(None, description="How many pictures; picture i is that of seed + i alone.")
    size: Annotated[str, Field(pattern=SIZE)] | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto.")
    seed: Annotated[int, Field(ge=0, lt=SEEDS), WHOLE] | None = Field(None, description="Of the first picture; a random one, which is told, if none.")
    negative_prompt: Text | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    guidance_rescale: Share | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = None
    truncation: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="How far StyleGAN's styles are from their mean; 1 leaves them.")
    layer_noise: Literal["const", "random", "none"] | None = Field(None, description="Noise at StyleGAN's layers.")
    scheduler: Annotated[str, Field(max_length=100)] | None = Field(None, description="A sampler that the model knows.")
    # what OpenAI's clients may send and nothing here follows
    output_format: Literal["png"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100), WHOLE] | None = None
    background: Literal["auto", "opaque"] | None = None
    quality: Annotated[str, Field(max_length=50)] | None = None
    style: Annotated[str, Field(max_length=50)] | None = None
    moderation: Annotated[str, Field(max_length=50)] | None = None

    def sampling(self) -> dict[str, tuple[str, Any]]:
        """What drawing takes, by kind of port, with the fields they come from."""
        return {
            "negative_text": ("negative_prompt", self.negative_prompt or None),
            "guidance": ("guidance_scale", self.guidance_scale),
            "guidance_rescale": ("guidance_rescale", self.guidance_rescale),
            "steps": ("num_inference_steps", self.num_inference_steps),
            "truncation": ("truncation", self.truncation),
            "layer_noise": ("layer_noise", self.layer_noise),
            "sampler": ("scheduler", self.scheduler),
        }

    def shown(self) -> dict[str, Any]:
        """What was asked, as its job shows."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude={"image", "mask", "as_job", "stream", "user", "model"})


def sized(action: Action, sides: tuple[int, int]) -> dict[str, tuple[str, Any]]:
    """How large, of an action that can be told, by kind of port with its field."""
    return {kind: ("size", side) for kind, side in zip(("width", "height"), sides, strict=True) if action.named(kind)}


def words_of(body: Any, action: Action, count: int, source: str | None = None) -> dict[str, tuple[str, Any]]:
    """Prompts, as far as the action reads any, by kind of port with their fields."""
    words: dict[str, tuple[str, Any]] = {"source_texts": ("source_prompt", None if source is None else [source] * count)}
    if action.named("texts") or body.prompt:
        words["texts"] = ("prompt", [body.prompt or ""] * count)
    return words
