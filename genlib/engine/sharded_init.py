"""Weights that are sharded from the moment they are made: no process ever holds all of them, however the networks are built.

Every rank runs the same code with the same random numbers, so the weights are those of one process, bit for bit. A weight is whole where it is
made; once many others have been made since, each rank keeps its share of it alone. Code that touches it again, to initialise, scale, copy or use
it, finds it whole: the ranks, which all run that code, send each other their shares. So what constructors, initialisers of libraries and
`Task.prepare` do needs no change (the idea of DeepSpeed's `zero.Init`, which takes a weight apart where its module's constructor ends, and does
not see what comes after).
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from genlib import distributed

SMALL_ELEMENTS = 16_384
"""Weights of fewer elements stay whole: a message for each would take longer than its memory is worth."""
WHOLE_ELEMENTS = 4_194_304
"""Elements of larger weights that may be whole at a time; more where one alone has more."""
_T: Any = torch.Tensor  # to type checkers its attributes are plain values
_GET = ("shape", "dtype", "device", "layout", "ndim", "requires_grad", "grad", "is_leaf", "is_meta", "is_sparse")
_CALL = ("size", "dim", "numel", "nelement", "element_size", "requires_grad_", "is_floating_point", "is_complex", "__hash__")
_ASKS = {
    *(getattr(_T, name).__get__ for name in _GET), _T.requires_grad.__set__, _T.grad.__set__, *(getattr(_T, name) for name in _CALL),
    torch.is_floating_point, torch.is_complex, torch.numel,
}  # fmt: skip
"""What tells or sets something beside the values."""


@dataclass(slots=True, eq=False)
class _Record:
    """A weight that is, or may be, taken apart."""

    weight: nn.Parameter
    shard: Tensor | None = None
    """This rank's share (n,) while the weight is apart."""
    sum: float = 0.0
    """Of its values when it was last taken apart, as this rank had them."""
    aliases: list[weakref.ref[Tensor]] = field(default_factory=list)
    """Views of its values that somebody may hold and write to."""
    viewed: Tensor | None = None
    """Its whole values where such a view is alive; they count, and not the share."""


class ShardedInit(TorchFunctionMode):
    """Inside, weights of modules that are made, and those made inside before, are as the module's text says.

    Outside, one that is apart has its shape and type, and NaN for values. All ranks run the same code inside.
    device: through which ranks send. whole_elements, small_elements: as the constants of these names.
    """

    def __init__(self, device: torch.device, whole_elements: int = WHOLE_ELEMENTS, small_elements: int = SMALL_ELEMENTS) -> None:
        super().__init__()
        self.device, self.limit, self.small = device, whole_elements, small_elements
        self.records: dict[int, _Record] = {}
        self.whole: OrderedDict[int, _Record] = OrderedDict()
        """Those that are whole, the one touched longest ago first."""
        self.viewed: dict[int, _Record] = {}
        """Those that are apart while a view of them is held."""
        self.working = False
        self.block: Tensor | None = None
        """What is left of the newest block of shares."""
        self.never: dict[int, Tensor] = {}

    def __enter__(self) -> ShardedInit:
        self.hook = register_module_parameter_registration_hook(lambda module, name, weight: self._made(weight))
        parameter: Any = nn.Parameter
        self.deepcopy = deepcopy = parameter.__deepcopy__

        def noticed(weight: nn.Parameter, memo: dict) -> nn.Parameter:
            copied = deepcopy(weight, memo)
            self._made(copied)
            return copied

        parameter.__deepcopy__ = noticed  # a copied module registers nothing
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hook.remove()
        parameter: Any = nn.Parameter
        parameter.__deepcopy__ = self.deepcopy
        super().__exit__(*error)
        with self._at_work():
            self._put_away(0)

    def __torch_function__(self, func: Callable, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.working or func in _ASKS:
            return func(*args, **kwargs)
        with self._at_work():
            touched = [self._touch(record) for leaf in _leaves((args, kwargs)) if (record := self._record_of(leaf))]
        result = func(*args, **kwargs)
        if touched:
            with self._at_work():
                self._note_aliases(touched, result)
                self._put_away(self.limit, touched)
        return result

    def keep_whole(self, weights: Iterable[Tensor]) -> None:
        """Leaves these weights, which are there already, as they are."""
        self.never |= {id(weight): weight for weight in weights}

    def is_apart(self, value: Tensor) -> bool:
        """Whether it is a weight that is not whole now."""
        return (record := self.records.get(id(value))) is not None and record.shard is not None

    def shard_of(self, weight: nn.Parameter) -> Tensor | None:
        """This rank's share (n,) of a weight, to be filled, see `genlib.distributed.share`; None where it is whole, or a view of it is held."""
        record = self.records.get(id(weight))
        return None if record is None or record.viewed is not None else record.shard

    def sums(self) -> list[float]:
        """Sums of the weights that are apart, each as this rank had its values: ranks that did the same have the same."""
        return [record.sum for record in self.records.values()]

    def hand_over(self, weight: nn.Parameter) -> None:
        """Makes a weight whole, which others take care of from now on. All ranks call it for the same weights in the same order."""
        if record := self.records.pop(id(weight), None):
            with self._at_work():
                self._gather(record)
            self.whole.pop(id(weight), None)

    def hand_over_rest(self) -> None:
        """Makes whole what is not handed over yet: networks outside of the task's modules."""
        for record in list(self.records.values()):
            self.hand_over(record.weight)
        self.block = None  # no share lies in it any more

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.working = True
        try:
            with torch.no_grad():
                yield
        finally:
            self.working = False

    def _made(self, weight: nn.Parameter | None) -> None:
        if weight is None or self.working:
            return
        with self._at_work():
            if record := self._record_of(weight):
                self._put_away(self.limit, [self._touch(record)])

    def _record_of(self, value: Any) -> _Record | None:
        """The record of what is a large weight, made where it is new."""
        if not isinstance(value, nn.Parameter) or id(value) in self.never:
            return None
        if (record := self.records.get(id(value))) is None and value.numel() >= self.small and not value.is_meta:
            record = self.records[id(value)] = _Record(value)
            self.whole[id(value)] = record
        return record

    def _touch(self, record: _Record) -> _Record:
        self._gather(record)
        self.whole[id(record.weight)] = record
        self.whole.move_to_end(id(record.weight))
        return record

    def _gather(self, record: _Record) -> None:
        """Makes the weight whole. Whether there is a message must not depend on views, which may end at other times on other ranks."""
        if record.shard is None:
            return
        weight = record.weight
        if record.viewed is not None:
            record.shard.copy_(self._share(record.viewed))
        whole = distributed.gather_shard(record.shard.to(self.device), weight.numel()).to(record.shard.device).view(weight.shape)
        weight.data = whole if record.viewed is None else record.viewed.copy_(whole)
        record.shard = record.viewed = None
        self.viewed.pop(id(weight), None)

    def _put_away(self, limit: int, but: Sequence[_Record] = ()) -> None:
        """Takes weights apart, the one touched longest ago first, until at most `limit` elements are whole."""
        self._drop_views()
        elements = sum(record.weight.numel() for record in self.whole.values())
        for key, record in list(self.whole.items()):
            if elements <= limit:
                return
            if record not in but:
                elements -= record.weight.numel()
                del self.whole[key]
                self._take_apart(record)

    def _drop_views(self) -> None:
        """Where a view was held and is not any more, the share holds what was written to it."""
        for record in [record for record in self.viewed.values() if all(alias() is None for alias in record.aliases)]:
            del self.viewed[id(record.weight)]
            assert record.viewed is not None
            assert record.shard is not None
            record.shard.copy_(self._share(record.viewed))
            record.sum, record.viewed = _sum(record.viewed), None

    def _take_apart(self, record: _Record) -> None:
        weight = record.weight
        whole = weight.detach()
        record.sum = _sum(whole)
        record.shard = self._kept(self._share(whole))
        record.aliases = [alias for alias in record.aliases if alias() is not None]
        if record.aliases:
            record.viewed, self.viewed[id(weight)] = whole, record
        weight.data = torch.full((1,), torch.nan, device=whole.device).to(whole.dtype).expand(whole.shape)

    def _kept(self, shard: Tensor) -> Tensor:
        """A copy that lies beside others in a large block: of many small ones between large ones that come and go, the heap would keep the gaps."""
        if self.block is None or self.block.dtype != shard.dtype or self.block.numel() < shard.numel():
            self.block = torch.empty(max(self.limit // 4, shard.numel()), dtype=shard.dtype, device=shard.device)
        kept, self.block = self.block.split([shard.numel(), self.block.numel() - shard.numel()])
        return kept.copy_(shard)

    def _share(self, whole: Tensor) -> Tensor:
        low, high = distributed.share(whole.numel(), distributed.rank(), distributed.world_size())
        return whole.reshape(-1)[low:high]

    def _note_aliases(self, touched: Sequence[_Record], result: Any) -> None:
        places = {record.weight.untyped_storage().data_ptr(): record for record in touched}
        for value in _leaves(result):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and (record := places.get(value.untyped_storage().data_ptr())):
                record.aliases = [alias for alias in record.aliases if alias() is not None] + [weakref.ref(value)]


def _leaves(value: Any) -> Iterator[Any]:
    """What lies in lists, tuples and mappings, however deep."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, Mapping):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _sum(values: Tensor) -> float:
    return values.sum(dtype=torch.float64).item()
