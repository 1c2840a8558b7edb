"""Configuration: frozen dataclasses with a docstring under each field, legal limits and search ranges beside the default.

They are read three ways: by Python, by the command line (tyro) and from a checkpoint's manifest (`to_json`, `from_json`).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from genlib.plurals import counted

if TYPE_CHECKING:
    from genlib.task import Task
    from genlib.types import DataSpec


@dataclass(frozen=True, slots=True)
class Search:
    """Where a hyperparameter search looks: the range [low, high], in log scale or not."""

    low: float
    high: float
    log: bool = False


def limited(
    default: Any, *, at_least: float | None = None, above: float | None = None, at_most: float | None = None, below: float | None = None
) -> Any:
    """A field whose values have legal limits, refused with a sentence when the config is made."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    return dataclasses.field(default=default, metadata={"limits": {k: v for k, v in limits.items() if v is not None}})


def tunable(
    default: Any,
    *,
    low: float,
    high: float,
    log: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A `limited` field that `jobs/tune.py` searches in [low, high]."""
    inner = limited(default, at_least=at_least, above=above, at_most=at_most, below=below)
    return dataclasses.field(default=default, metadata={**inner.metadata, "search": Search(low, high, log)})


def changeable(
    default: Any, *, at_least: float | None = None, above: float | None = None, at_most: float | None = None, below: float | None = None
) -> Any:
    """A `limited` field that a resumed run may change, as it says how something is computed and not what."""
    inner = limited(default, at_least=at_least, above=above, at_most=at_most, below=below)
    return dataclasses.field(default=default, metadata={**inner.metadata, "changeable": True})


_TESTS = {
    "at_least": ("at least", lambda value, limit: value >= limit),
    "above": ("above", lambda value, limit: value > limit),
    "at_most": ("at most", lambda value, limit: value <= limit),
    "below": ("below", lambda value, limit: value < limit),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Base of every configuration. Subclasses repeat `@dataclass(frozen=True, kw_only=True, slots=True)`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}.{f.name} is {value!r}; it must be a finite number")
            for name, limit in f.metadata.get("limits", {}).items():
                words, test = _TESTS[name]
                if not test(value, limit):
                    raise ValueError(f"{type(self).__name__}.{f.name} is {value!r}; it must be {words} {limit}")
        self.validate()

    def validate(self) -> None:
        """Refuses combinations of fields, in the user's words; called once when the config is made."""


C = TypeVar("C")


@functools.cache  # pydantic takes some 10 ms to make one
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def to_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return _adapter(type(config)).dump_python(config, mode="json")


def from_json(kind: type[C], values: Mapping[str, Any]) -> C:
    """The inverse of `to_json`. ValueError names the first unknown or ill-typed field."""
    try:
        return _adapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # one of our own sentences
            raise ValueError(str(first.get("ctx", {}).get("error"))) from None
        where = ".".join([kind.__name__, *(str(part) for part in first["loc"])])
        raise ValueError(f"{where}: {first['msg']}") from None


def replaced(config: C, name: str, value: Any) -> C:
    """The config with another value in the field of that dotted name, `optim.learning_rate` or `players.G.beta1`.

    ValueError where it has no such field, or none of that type or range.
    """
    values = to_json(config)
    inner, keys = values, name.split(".")
    for key in keys[:-1]:
        inner = inner.get(key)
        if not isinstance(inner, dict):
            break
    if not isinstance(inner, dict) or keys[-1] not in inner:
        raise ValueError(f"{type(config).__name__} has no field {name!r}")
    inner[keys[-1]] = value
    return from_json(type(config), values)


def nearest(word: str, words: list[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no word is near."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(Config):
    """How one player's weights move."""

    name: Literal["adamw", "adam", "sgd", "rmsprop", "lion", "muon", "adafactor", "schedule_free_adamw", "adamw_8bit"] = "adamw"
    """Optimizer; the fused form is used where PyTorch has it. lion keeps half the state of adamw, and wants a third to a tenth of its learning rate
    and three to ten times its decay (Chen et al. 2023, arXiv:2302.06675). muon turns each update of a matrix into an orthogonal one of adamw's size
    and leaves embeddings and all that is no matrix to adamw (Liu et al. 2025, arXiv:2502.16982). adafactor keeps sums of a matrix's rows and columns
    alone, and its learning rate is a share of each weight's own size (Shazeer and Stern 2018, arXiv:1804.04235). schedule_free_adamw averages the
    weights instead of lowering the learning rate, so that a run may be of any length, and what it learns is the average: it wants a constant rate,
    one to ten times adamw's (Defazio et al. 2024, arXiv:2405.15682). adamw_8bit is adamw with state of 8 bits for weights of 4,096 elements and more
    that are no embeddings (Dettmers et al. 2022, arXiv:2110.02861), and needs the extra genlib[8bit]."""
    learning_rate: float = tunable(1e-3, low=1e-6, high=1e-1, log=True, at_least=0)
    """Peak learning rate."""
    beta1: float = limited(0.9, at_least=0, below=1)
    """Adam's first decay, Muon's momentum, which its author has at 0.95, Lion's share of the momentum in an update, schedule-free AdamW's share of
    the average in the weights that are trained; SGD's and RMSprop's momentum is `momentum`."""
    beta2: float = limited(0.999, at_least=0, below=1)
    """Adam's second decay; RMSprop's smoothing constant; decay of Lion's momentum, which its paper has at 0.99."""
    eps: float = limited(1e-8, above=0)
    """Added to the denominator by Adam and RMSprop."""
    momentum: float = limited(0.0, at_least=0, below=1)
    """Momentum of SGD and RMSprop."""
    weight_decay: float = limited(0.0, at_least=0)
    """Decay, on weights of two or more dimensions only."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = limited(0, at_least=0)
    """Steps of linear rise from 0 to the peak."""
    final_fraction: float = limited(0.0, at_least=0, at_most=1)
    """Learning rate at the end as a share of the peak, for cosine and linear."""
    clip_norm: float = limited(0.0, at_least=0)
    """Largest global gradient norm of the player; 0 is off."""

    def validate(self) -> None:
        if self.name == "schedule_free_adamw" and self.schedule != "constant":
            raise ValueError(f"optim.schedule {self.schedule} does not go with {self.name}, which averages instead; use optim.schedule constant")
        if self.name == "schedule_free_adamw" and not self.beta1:
            raise ValueError(f"optim.beta1 0 does not go with {self.name}, whose trained weights would have nothing of the average; use 0.9")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Config):
    """How a stage is trained, whatever it learns."""

    steps: int = changeable(1000, at_least=0)
    """Optimizer steps. With 0, what `start_from` names is taken as it is."""
    start_from: str = ""
    """Run or checkpoint, in a folder or at an address in a store, or folder in the field's own format (safetensors) of a CLIP, autoencoder, text
    encoder or denoiser, whose weights training starts from; empty starts from nothing."""
    global_batch: int = limited(128, at_least=1)
    """Samples a step over all workers; the number of workers never changes what is learnt."""
    accumulation: int = limited(1, at_least=1)
    """Micro-batches a step; each is a `global_batch` / `accumulation` share over all workers. Loss and gradient stay those of the whole batch, a
    contrastive loss's too, whose features are then computed twice; batch normalisation sees one micro-batch at a time."""
    strategy: Literal["auto", "single", "ddp", "zero1", "zero2", "zero3"] = changeable("auto")
    """How gradients become weights: auto is single with one worker, else ddp."""
    offload: Literal["none", "optimizer", "all"] = changeable("none")
    """What ZeRO keeps in the host's memory: optimizer state (zero2, zero3), or weights and all (zero3). Slower, for what fits no other way."""
    deepspeed: str = changeable("")
    """A JSON file of DeepSpeed settings for zero1, zero2 and zero3: of messages, buffers and logs. What would change the weights is refused."""
    shard_group_size: int = changeable(0, at_least=0)
    """Workers that between them keep a second copy of all weights under zero3, from which the backward pass gathers: those of one node, so that less
    crosses between nodes (hierarchical partitioning of ZeRO++, Wang et al. 2023, arXiv:2306.10209). 0 is off; so it is while the workers do not
    fill several such groups."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the loss under autocast; weights, gradients and optimizer state stay fp32. ZeRO-3 then sends weights of layers as bf16."""
    reduction: Literal["bf16", "fp32"] = "bf16"
    """Type in which gradients of layers are sent and added up by ZeRO under precision bf16; in everything else it is fp32."""
    frozen_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of frozen networks: bf16 keeps and runs those in bf16 whose outputs allow it (text encoders, teachers, a refiner's base), and leaves image
    autoencoders in fp32; fp32 is for all. auto is `precision`."""
    compile: bool = changeable(False)
    """Compile the loss with torch.compile."""
    seed: int = limited(0, at_least=0)
    """Of initial weights, data order, augmentation and noise."""
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    """Optimizer of every player without one of its own."""
    players: dict[str, OptimConfig] = dataclasses.field(default_factory=dict)
    """Optimizers by player's name, where they differ."""
    ema_halflife_samples: int = limited(0, at_least=0)
    """Half-life of the fp32 moving average of the weights, in samples; 0 is off."""
    ema_rampup: float = limited(0.05, at_least=0)
    """Early in the run the half-life is at most this share of the samples seen (Karras et al. 2020); 0 is no ramp."""
    checkpoint_every_steps: int = changeable(1000, at_least=0)
    """Steps between checkpoints; 0 saves at the end alone."""
    keep_checkpoints: int = changeable(2, at_least=1)
    """Newest checkpoints kept; older ones are deleted once a newer one is whole."""
    evaluate_every_steps: int = changeable(0, at_least=0)
    """Steps between evaluations on the validation split; 0 is never."""
    pictures_every_steps: int = changeable(-1, at_least=-1)
    """Steps between pictures drawn while it trains, of the same seeds, prompts or samples each time; 0 is never. -1 draws at each twentieth of
    the run, as long as that takes no more than a twentieth of the time."""
    log_every_seconds: float = changeable(5.0, above=0)
    """Seconds between live lines."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = changeable(("tensorboard",))
    """Where metrics go beside metrics.jsonl; W&B and MLflow read their own environment variables."""
    encode: Literal["auto", "fly", "ahead"] = changeable("auto")
    """When frozen networks encode samples: on the fly in each step, or once, ahead of the first one, kept on disk; auto measures. The weights
    are the same."""
    encoded_dir: str = changeable("")
    """Where encoded samples are kept, by what they are of, so that other runs find them; one that all nodes see serves them all. Empty is
    GENLIB_CACHE/encoded."""
    max_skipped_in_a_row: int = changeable(10, at_least=1)
    """Steps in a row with a loss or gradient that is not finite after which the run stops."""

    @property
    def lowers_frozen(self) -> bool:
        """Whether frozen networks are in bf16, where their outputs allow it."""
        return (self.precision if self.frozen_precision == "auto" else self.frozen_precision) == "bf16"

    def validate(self) -> None:
        if self.global_batch % self.accumulation:
            fitting = max(1, self.global_batch // self.accumulation) * self.accumulation
            raise ValueError(f"global_batch {self.global_batch} is not divisible by accumulation {self.accumulation}; use {fitting}")
        allowed = {"none": (self.strategy,), "optimizer": ("zero2", "zero3"), "all": ("zero3",)}[self.offload]
        if self.strategy not in allowed:
            raise ValueError(f"train.offload {self.offload} needs train.strategy {' or '.join(allowed)}, not {self.strategy}; change one of them")
        whole = next((one.name for one in (self.optim, *self.players.values()) if one.name in ("muon", "adafactor", "adamw_8bit")), "")
        if whole and self.offload != "none":
            raise ValueError(f"train.offload {self.offload} does not go with {whole}, which looks at whole weights; use adamw, or train.offload none")
        if self.shard_group_size and self.strategy != "zero3":
            raise ValueError(f"train.shard_group_size {self.shard_group_size} needs train.strategy zero3, not {self.strategy}; change one of them")
        averaging = next((one.name for one in (self.optim, *self.players.values()) if one.name == "schedule_free_adamw"), "")
        if averaging and self.ema_halflife_samples:
            raise ValueError(
                f"train.ema_halflife_samples {self.ema_halflife_samples} does not go with {averaging}, which averages the weights itself; use 0"
            )
        if self.deepspeed and not self.strategy.startswith("zero"):
            raise ValueError(f"train.deepspeed {self.deepspeed} needs train.strategy zero1, zero2 or zero3, not {self.strategy}; change one of them")


_COMPARISON = re.compile(r"\s*([A-Za-z0-9_.]{1,64})\s*(>=|<=|==|!=|>|<)\s*(-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")


def comparison(text: str) -> tuple[str, str, float]:
    """Name, sign and number of one of `DataConfig.filters`. ValueError where the text is no comparison with a number."""
    found = _COMPARISON.fullmatch(text)
    if found is None:
        raise ValueError(f"data.filters {text!r} is no comparison with a number; write for example 'width>=256' or 'aesthetic>5'")
    return found[1], found[2], float(found[3])


Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
_COLORS: dict[str, Color] = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}


def color(text: str) -> Color:
    """The colour that `DataConfig.background` names. ValueError where it is none."""
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))
    if text not in _COLORS:
        raise ValueError(f"data.background {text!r} is no colour; give {', '.join(_COLORS)}, or red, green and blue like '#ff8000'")
    return _COLORS[text]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Config):
    """Which samples, and how they are read."""

    train: str = changeable("")
    """Shards: a folder, a pattern like 'dir/{00000..00099}.tar' or 's3://bucket/dir', several joined by '::', or a built-in set like icons."""
    validation: str = changeable("")
    """The same for held-out samples; empty takes the built-in set's own, else none."""
    hold_out: float = changeable(0.0, at_least=0, below=1)
    """Share of the training samples that are held out, drawn by their keys, where no others are: `train` has none beside it, `validation` is
    empty, and there are 50 at least. At most 5,000 are. 0 trains on all."""
    image_size: int = limited(0, at_least=0)
    """Pixels a side: a built-in set is drawn at this size, other images are cut to their middle square and scaled; 0 is as they are."""
    other: str = ""
    """A second set for tasks that see two without pairs, such as unpaired translation; written like `train`."""
    weights: tuple[float, ...] = ()
    """Share of each place joined by '::' in `train`, of any run of samples; a small one then repeats sooner. Empty takes all as one set."""
    filters: tuple[str, ...] = ()
    """What a training sample must be, like 'width>=256' 'aesthetic>5': width, height, pixels, aspect, caption_bytes, label, numbers of its JSON,
    and draw, a number in [0, 1) by its key."""
    caption_field: str = ""
    """Where captions lie, if not in the members .txt (.caption, .text): a field of the samples' JSON, like caption, or name in `KEY.name.txt`."""
    captions: Literal["auto", "all", "first", "random"] = "auto"
    """Of a picture's several captions, a list in JSON or the lines of a text: one drawn at each visit (random), the first, or all as one text.
    auto draws from lists and from `KEY.captions.txt`, which has one a line, and takes any other text as one caption."""
    bucket_step: int = limited(0, at_least=0)
    """Aspect-ratio buckets: each training batch is of one size, about image_size**2 pixels with sides in multiples of this; 0: all are squares."""
    bucket_max_aspect: float = limited(2.0, at_least=1)
    """Largest ratio of a bucket's sides; what is longer is cut."""
    background: str = "white"
    """Colour behind what is transparent in an image: white, black, grey, or like '#ff8000'. A served model lays what it is sent on the same."""
    readers: int = changeable(0, at_least=0)
    """Reader processes a worker; 0 reads in a thread of the worker."""
    reader_timeout_seconds: float = changeable(60.0, above=0)
    """Time for one sample after which a reader process counts as hung and is replaced."""
    cache_mb: int = changeable(256, at_least=0)
    """Memory a worker may use to keep decoded samples; reader processes share it."""
    disk_cache_gb: float = changeable(20.0, at_least=0)
    """Disk a node may use to keep what it read from URLs, under GENLIB_CACHE; the least recently used goes. 0 keeps nothing."""
    max_failed: float = changeable(0.01, at_least=0, at_most=1)
    """Largest share of the samples read by a worker that may fail to decode; more stop the run, once they are more than 20."""

    def validate(self) -> None:
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"data.weights {self.weights}: every weight must be above 0")
        places = sum(map(bool, self.train.split("::")))
        if self.weights and self.train and len(self.weights) != places:
            raise ValueError(
                f"data.weights has {counted(len(self.weights), 'number')}, but data.train={self.train!r} names "
                f"{counted(places, 'place')}; give one each"
            )
        for text in self.filters:
            comparison(text)
        color(self.background)
        self._check_buckets()

    def _check_buckets(self) -> None:
        step, side = self.bucket_step, self.image_size
        if step and not side:
            raise ValueError(f"data.bucket_step is {step}, but data.image_size is 0; give the side of the square that each bucket is as large as")
        if step and side % step:
            fitting = max(1, side // step) * step
            raise ValueError(f"data.image_size {side} is not divisible by data.bucket_step {step}; use {fitting}, or another step")
        if step and self.weights:
            raise ValueError("data.weights and data.bucket_step do not go together; mix the places by how many shards you name, or leave one out")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig(Config):
    """Base of every family's configuration."""

    fields: ClassVar[tuple[str, ...]] = ()
    """Fields of samples without which its task cannot learn from one, such as image and text; `image|array` is the first of these that most
    samples have. Empty are all that most have: of sets that are mixed, what one of them alone has drops the samples of the others."""
    roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the upstream tasks that its task needs; a stage names a stage for each in its `needs`."""
    zero3_refusal: ClassVar[str] = ""
    """Why ZeRO-3 cannot train its task, in a sentence; empty where it can."""

    def check_data(self, data: DataSpec) -> None:
        """ValueError saying which data would do, where the task cannot learn from such; asked of every stage before the first one trains."""

    def check_roles(self, given: Collection[str]) -> None:
        """ValueError where a role that the task needs is not among those."""
        for role in self.roles:
            if role not in given:
                raise ValueError(f"{type(self).__name__} needs a stage for the role {role!r}; it was given {', '.join(given) or 'none'}")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Task:
        """Makes the task for such data; `upstream` has the trained tasks of the stages it needs, by role."""
        raise NotImplementedError
