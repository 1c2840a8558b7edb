"""ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) by DeepSpeed: optimizer state (1), gradients (2) and weights (3) are sharded.

DeepSpeed runs in fp32 with the loss under autocast inside the LossModule; its checkpoint format, which is pickles, is not used: the
live shards are read and written by name and offset, so that a run goes on under any strategy and any number of workers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genlib import distributed
from genlib.checkpoint import Shard
from genlib.config import TrainConfig
from genlib.engine.ddp import average_batch_statistics
from genlib.engine.deepspeed_settings import check_players, merged, read_settings
from genlib.engine.frozen import whole_value
from genlib.engine.host_memory import give_back_large_blocks
from genlib.engine.micro_batches import passes
from genlib.engine.optim import learning_rate, parameter_groups
from genlib.engine.partition_optimizer import PartitionOptimizer, PlacedWeight, WeightPiece, leaves
from genlib.engine.sharded_init import ShardedInit
from genlib.engine.single import mean_metrics, task_shards, whole_share
from genlib.engine.stopwatch import Stopwatch
from genlib.engine.strategy import LossModule, Players, Update, averaging_players, optim_of, state_shards
from genlib.inference import is_low
from genlib.plurals import counted
from genlib.task import Phase, Task
from genlib.types import Batch, Step

REDUCE_ELEMENTS = 50_000_000
"""Most gradients that are sent at once; DeepSpeed's own 500 million would take 2 GB, and as much again while they are sent."""
PREFETCH_ELEMENTS = 50_000_000
"""Weights that ZeRO-3 asks for ahead of each layer."""
LIVE_ELEMENTS = 200_000_000
"""ZeRO-3 asks for no more ahead while so many weights are whole, and keeps those that are used again so soon."""


LEAST_ELEMENTS = 1_000_000
"""Buffers of ZeRO-3 that are smaller save nothing that counts."""
SINGLE_ELEMENTS = 1_000_000
"""From this mean size on, weights are gathered one by one on CPUs, each where it is used: several at once are copied apart afterwards."""


def shard_group(size: int, world: int) -> int:
    """How many of so many workers have a second copy of ZeRO-3's weights between them, asked for `size`; 0 where there is none."""
    return size if 0 < size < world and world % size == 0 else 0


def bucket_elements(trained: int, own: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Elements of the bucket in which stages 1 and 2 send a player's gradients; own: ZeRO's settings in `train.deepspeed`."""
    return min(own.get("reduce_bucket_size", REDUCE_ELEMENTS), trained)


@dataclass(frozen=True, slots=True)
class Zero3Buffers:
    """Elements of the buffers with which ZeRO-3 trains a player: of a network that is small, small ones, or they would hold all that is sharded."""

    bucket: int
    """Of gradients that are sent at once; as many of a rank's share are updated at once."""
    prefetch: int
    """Of weights that are asked for ahead."""
    live: int
    """See `LIVE_ELEMENTS`."""

    @classmethod
    def of(cls, trained: int, largest: int, own: Mapping[str, Any] = MappingProxyType({})) -> Zero3Buffers:
        """For a player of so many trained elements, the largest of whose weights has so many; own: as of `bucket_elements`."""
        layer = max(largest, trained // 16, LEAST_ELEMENTS)
        return cls(
            own.get("reduce_bucket_size", min(REDUCE_ELEMENTS, layer, trained)),
            own.get("stage3_prefetch_bucket_size", min(PREFETCH_ELEMENTS, layer)),
            own.get("stage3_max_live_parameters", min(LIVE_ELEMENTS, 2 * layer)),
        )


def import_deepspeed(device: torch.device):
    """DeepSpeed, told the device before its import, and quiet."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("LOCAL_SIZE", "1")  # else ZeRO-3 runs `numactl` at every bucket of gradients to count processors
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # Else it probes compilers at its import and builds an all-reduce for inference: a minute, and a lock that outlives a kill.
    setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010
    return deepspeed


class Zero:
    """Strategy of ZeRO stage 1, 2 or 3."""

    def __init__(self, stage: int, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.deepspeed = import_deepspeed(device)
        if not dist.is_initialized():  # DeepSpeed wants a process group even for one
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        self.updates: dict[str, int] = {}
        self.watch = Stopwatch(device)
        if stage == 3:
            give_back_large_blocks()
        self.sharded_init = ShardedInit(device) if stage == 3 and distributed.world_size() > 1 else None

    def setup(self, task: Task, config: TrainConfig) -> None:
        self.task, self.config = task, config
        self._begin_group()
        self.engines, self.optimizers = {}, {}
        self.players = Players(task)
        if scalar := next((name for name, p in self.players.by_state_name if not p.dim()), ""):
            raise ValueError(
                f"{scalar} is a weight without an axis, which DeepSpeed cannot send; give it the shape (1,), or use --train.strategy ddp"
            )
        optims = {player: optim_of(config, player) for player in task.players()}
        # Noted before DeepSpeed has the weights: a partition has lost its shape, by which decay is chosen.
        self.elements = {player: sum(p.numel() for p in weights.values()) for player, weights in self.players.weights.items()}
        self.largest = max((p.numel() for weights in self.players.weights.values() for p in weights.values()), default=0)
        shapes = {id(p): tuple(p.shape) for weights in self.players.weights.values() for p in weights.values()}
        groups = {player: parameter_groups(task, self.players.weights[player], optim) for player, optim in optims.items()}
        self.place_weights()
        for player, optim in optims.items():
            self.players.select(player)
            number_of = {id(weight): number for number, group in enumerate(groups[player]) for weight in group["params"]}
            optimizer = PartitionOptimizer(groups[player], optim)
            loss_module = LossModule(task, config.precision, self.device, compile=config.compile)
            settings = self.settings(player)
            self.engines[player] = self.deepspeed.initialize(model=loss_module, optimizer=optimizer, config=settings, dist_init_required=False)[0]
            if self.config.offload == "none":
                self._keep_one_copy(player)
            optimizer.divide(list(self._pieces(player)), self._flats(player), self._placed(player, number_of, shapes), self.device)
            self.optimizers[player], self.updates[player] = optimizer, 0
        if config.precision == "bf16" and config.reduction == "fp32":
            self._gather_low()

    def _begin_group(self) -> None:
        """Says where there will be none, and lets DeepSpeed make one also where a task before this one in the same process had it."""
        size, world = self.config.shard_group_size, distributed.world_size()
        if size and not shard_group(size, world) and not distributed.rank():
            print(f"{counted(world, 'worker')} do not fill groups of {size} (train.shard_group_size), so weights have no second copy", flush=True)
        setattr(self.deepspeed.utils.groups, "_ZERO_PARAM_INTRA_PARALLEL_GROUP", None)  # noqa: B010

    def _keep_one_copy(self, player: str) -> None:
        """DeepSpeed 0.19.8 has the optimizer's weights beside those that layers use, though both are fp32 and on one device: here they are one."""
        zero, rank = self.engines[player].optimizer, distributed.rank()
        used = zero.fp16_partitioned_groups_flat if self.stage == 3 else [shares[rank] for shares in zero.parallel_partitioned_bit16_groups]
        for weights, optimized in zip(used, self._flats(player), strict=True):
            optimized.data = weights.data
        weight: Any  # DeepSpeed has added attributes
        for weight in self.players.weights[player].values() if self.stage < 3 else ():
            if (mapping := weight._hp_mapping) is not None:  # else it would hold what is not needed any more
                mapping.hp_fragment = mapping.lp_fragment

    def _gather_low(self) -> None:
        """Layers' weights are sent in bf16 though their gradients are not; DeepSpeed's own settings have one type for both."""
        for engine in self.engines.values():
            engine.optimizer.get_param_comm_dtype = lambda weight: torch.float32
        for weight in (weight for module in filter(is_low, self.task.modules()) for weight in module.parameters(recurse=False)):
            weight.comm_dtype = torch.bfloat16  # type: ignore[attr-defined]

    def place_weights(self) -> None:
        """Moves the task to the device; what is sharded goes over to DeepSpeed weight by weight, so that no more than one is whole there."""
        first: Any = None
        trains = self.stage == 3 and bool(self.players.weights)
        for weight in self.task.parameters() if trains else ():
            if self.sharded_init:
                self.sharded_init.hand_over(weight)
            if first is None:
                first, settings = weight, self.settings(next(iter(self.players.weights)))
                self.deepspeed.zero.Init(nn.ParameterList([weight]), config_dict_or_path=settings, dtype=weight.dtype)
            else:
                first.convert_to_zero_parameters(param_list=[weight])
        if self.sharded_init:
            self.sharded_init.hand_over_rest()
        nn.Module.to(self.task, self.device)

    def settings(self, player: str) -> dict:
        """DeepSpeed's configuration; what it would choose by itself and differs from the other strategies is written out."""
        file = read_settings(self.config.deepspeed)
        check_players(file, len(self.task.players()), self.config.deepspeed)
        return merged(self.settings_without_file(player), file)

    def settings_without_file(self, player: str) -> dict:
        """Those that are there unless `train.deepspeed` has others."""
        several = len(self.task.players()) > 1  # several engines over one task disturb each other's trace
        buffers = Zero3Buffers.of(self.elements[player], self.largest)
        layers = {*map(type, filter(is_low, self.task.modules()))} if self.config.reduction == "bf16" else ()
        return {
            "train_micro_batch_size_per_gpu": 1,  # used for its own throughput figures alone
            "gradient_accumulation_steps": self.config.accumulation,
            "gradient_clipping": optim_of(self.config, player).clip_norm,  # silent, it clips at 1.0
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": buffers.bucket if self.stage == 3 else bucket_elements(self.elements[player]),
                "stage3_param_persistence_threshold": 0,
                "stage3_prefetch_bucket_size": 0 if several else buffers.prefetch,
                "stage3_max_live_parameters": buffers.live,
                "stage3_allgather_sequential": not several and self._gathers_singly(player),
                "stage3_max_reuse_distance": buffers.live,
                "sub_group_size": buffers.bucket,
                "zero_hpz_partition_size": shard_group(self.config.shard_group_size, distributed.world_size()) or 1,
                **self.offload(),
            },
            "torch_autocast": {
                "enabled": self.config.precision == "bf16",
                "dtype": "bfloat16",
                # whose weights and gradients are sent in it
                "lower_precision_safe_modules": [f"{kind.__module__}.{kind.__name__}" for kind in layers],
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # it would be compiled at the first use
            "steps_per_print": 2**62,
        }

    def _gathers_singly(self, player: str) -> bool:
        return self.device.type == "cpu" and self.elements[player] >= SINGLE_ELEMENTS * len(self.players.weights[player])

    def offload(self) -> dict:
        """What lies in the host's memory, for DeepSpeed's configuration (Ren et al. 2021, arXiv:2101.06840)."""
        host = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        parts = {"none": (), "optimizer": ("offload_optimizer",), "all": ("offload_optimizer", "offload_param")}[self.config.offload]
        return dict.fromkeys(parts, host)

    def run_phase(self, phase: Phase, micro_batches: Sequence[Batch], step: Step) -> Update:
        self.players.select(phase.player)
        engine, optim, optimizer = self.engines[phase.player], optim_of(self.config, phase.player), self.optimizers[phase.player]
        optimizer.weight_limit = phase.weight_limit
        optimizer.set_learning_rate(learning_rate(optim, step.index, step.total))
        metrics = []
        self.watch.start()
        for number, one in enumerate(passes(engine, engine.module, phase, micro_batches, step)):
            loss, values = one()
            self._note_used(phase.player, loss, first=number == 0)
            self.watch.lap("forward")
            engine.backward(loss)
            self.watch.lap("backward")
            engine.step()
            self.watch.lap("optimizer")
            metrics.append(values)
        applied = not engine.optimizer.overflow  # set for any gradient that is not finite; weights and state are untouched then
        self.updates[phase.player] += applied
        return Update(mean_metrics(metrics), float(engine.get_global_grad_norm()), applied)

    def _note_used(self, player: str, loss: Tensor, first: bool) -> None:
        """Notes which weights get a gradient from this micro-batch, before DeepSpeed puts zeros, or what it has from the last step, for the others.

        ValueError where the ranks differ, as they would then wait for each other in DeepSpeed. Under ZeRO-3 they do so where they call
        other modules, and are not heard of any more.
        """
        optimizer, weights, reached = self.optimizers[player], self.players.weights[player], leaves(loss)
        used = torch.tensor([float(id(weight) in reached) for weight in weights.values()], device=self.device)
        shares = dict(zip(weights, distributed.mean_over_ranks(used).tolist(), strict=True))
        if name := next((name for name, share in shares.items() if 0 < share < 1), ""):
            raise ValueError(f"{player}.{name} has a gradient on some workers alone, which zero{self.stage} cannot add up; use --train.strategy ddp")
        now = {name for name, share in shares.items() if share}
        if not first and self.config.offload != "none" and (odd := sorted(now ^ optimizer.used)):
            raise ValueError(
                f"{player}.{odd[0]} has a gradient in some micro-batches of a step alone, which --train.offload {self.config.offload} loses; "
                "use --train.offload none, or --train.accumulation 1"
            )
        if first and self.stage == 3 and len(now) < len(weights):
            self.engines[player].optimizer.grad_partitions_flat_buffer.zero_()
        optimizer.used = now if first else optimizer.used | now

    def after_step(self, step: Step) -> None:
        average_batch_statistics(self.task)
        if type(self.task).after_step is Task.after_step:
            return
        parameters = list(self.task.parameters()) if self.stage == 3 else []
        with torch.no_grad(), self._gathered(parameters, modified=True):
            self.task.after_step(step)

    def whole_weights(self) -> AbstractContextManager[None]:
        return self._gathered(list(self.task.parameters()))

    def _gathered(self, parameters: list, modified: bool = False) -> AbstractContextManager[None]:
        if self.stage < 3 or not parameters or not self.engines:
            return nullcontext()
        return self.deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if modified else None)

    def whole_state(self) -> dict[str, Tensor]:
        state = {}
        keep = distributed.rank() == 0
        parameters = dict(self.task.named_parameters(remove_duplicate=False))
        for name, value in self.task.state_dict(keep_vars=True).items():
            with self._gathered([parameters[name]] if name in parameters else []):
                whole = whole_value(value, self.device)
                if keep:
                    state[name] = whole.detach().to("cpu", copy=True).contiguous()
        return state

    def whole_tensors(self) -> dict[str, Tensor]:
        return {
            name: torch.empty(getattr(value, "ds_shape", value.shape), dtype=value.dtype, device="meta")
            for name, value in self.task.state_dict(keep_vars=True).items()
        }

    def task_shards(self) -> Iterator[Shard]:
        yield from task_shards(self.task, self._share)

    def weight_shards(self) -> list[Shard]:
        return [self._share(name, p) for name, p in self.players.by_state_name]

    @staticmethod
    def _share(name: str, parameter) -> Shard:
        """This rank's part of a weight: of a ZeRO-3 partition, that is live, all but the padding at its end."""
        if not hasattr(parameter, "ds_tensor"):
            return whole_share(name, parameter, distributed.rank(), distributed.world_size())
        values = parameter.ds_tensor.detach()
        offset = min(distributed.rank() * values.numel(), parameter.ds_numel)
        return Shard(name, offset, values[: parameter.ds_numel - offset])

    def optimizer_shards(self) -> Iterator[Shard]:
        for player, optimizer in self.optimizers.items():
            for name, state, offset in optimizer.states():
                yield from state_shards(f"{player}/{name}", state, offset)

    def averaged_shards(self) -> Iterator[Shard]:
        for player in averaging_players(self.task, self.config):
            for name, offset, values in self.optimizers[player].averages():
                yield Shard(self.players.first_names[f"{player}.{name}"], offset, values)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        players = averaging_players(self.task, self.config)
        self._forget_second_copies(players)
        undo: list[Callable[[], Any]] = []
        for player in players:
            pieces = {name: (offset, values) for name, offset, values in self.optimizers[player].averages()}
            for name, weight in self.players.weights[player].items():
                undo.append(self._exchanged(weight, *pieces.get(name, (0, torch.empty(0)))))
        try:
            yield
        finally:
            for one in undo:
                one()
            self._forget_second_copies(players)

    def _forget_second_copies(self, players: Sequence[str]) -> None:
        """Of these players' weights, which `train.shard_group_size` keeps from the first time that they are gathered to the next update."""
        for player in players if self.stage == 3 else ():
            self.engines[player].optimizer.invalidate_secondary_tensor()

    def _exchanged(self, weight: Any, offset: int, values: Tensor) -> Callable[[], Any]:
        """Gives a weight other values, of which this rank has a piece; returns what takes them back."""
        if self.stage == 3:
            held = weight.ds_tensor.data
            before = held.clone()
            held[: values.numel()].copy_(values)
            return partial(held.copy_, before)
        before, whole = weight.data, torch.zeros(weight.numel(), device=self.device)
        whole[offset : offset + values.numel()].copy_(values)
        dist.all_reduce(whole)  # of the other ranks' pieces, where this one has zeros
        weight.data = whole.view(weight.shape)
        return partial(setattr, weight, "data", before)

    def _flats(self, player: str) -> list[Tensor]:
        """DeepSpeed's flat tensors of this rank's share, of which it updates one after the other."""
        zero = self.engines[player].optimizer
        return list(zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups)

    def _placed(self, player: str, number_of: Mapping[int, int], shapes: Mapping[int, tuple[int, ...]]) -> dict[str, PlacedWeight]:
        """In which of them each weight of the player lies: stages 1 and 2 have one for each parameter group."""
        zero, placed = self.engines[player].optimizer, {}
        for name, weight in self.players.weights[player].items():
            number = zero.grad_position[zero.get_param_id(weight)][0] if self.stage == 3 else number_of[id(weight)]
            placed[name] = PlacedWeight(weight, shapes[id(weight)], number)
        return placed

    def _pieces(self, player: str) -> Iterator[WeightPiece]:
        """What this rank holds of the player's weights."""
        zero, weights = self.engines[player].optimizer, self.players.weights[player]
        weight: Any  # DeepSpeed has added attributes
        for name, weight in weights.items():
            if self.stage == 3:
                group, start, numel = zero.grad_position[zero.get_param_id(weight)]
                flat = zero.fp32_partitioned_groups_flat[group]
                offset = distributed.rank() * numel  # partitions are equal; the last is padded
                numel = min(numel, weight.ds_numel - offset)
            elif (mapping := weight._hp_mapping) is None:  # none of this weight is here
                continue
            else:
                flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
                start, numel = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
                offset = mapping.lp_fragment_address.start
            if numel > 0:
                yield WeightPiece(name, weight, offset, flat, start, nn.Parameter(flat.detach().narrow(0, start, numel)))

    def restore_optimizers(self, updates: Mapping[str, int], keys: Mapping[str, Collection[str]]) -> None:
        for player, optimizer in self.optimizers.items():
            self.updates[player] = updates[player]
            optimizer.restore(
                updates[player], {name.removeprefix(f"{player}/"): found for name, found in keys.items() if name.startswith(f"{player}/")}
            )
