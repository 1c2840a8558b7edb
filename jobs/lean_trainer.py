"""Ray Train on a head of our own, without four processes that such a run has no use for, each of which takes seconds of a core to start."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train import Result, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, ScalingDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from jobs.watchdog import WorkerGuard


class LeanTrainer(TorchTrainer):
    """As TorchTrainer, on a head that ends with this process.

    The controller is in this process. Nobody hands out Ray's data sets, as ours come from elsewhere; nobody gives back what a lost
    controller held, as the head goes with it; and nobody asks an autoscaler, as there is none.
    """

    def __init__(self, *arguments: Any, guard: WorkerGuard, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.guard = guard

    def _create_default_callbacks(self) -> list[UserCallback]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, needless)]

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        if isinstance(settings["scaling_policy"], FixedScalingPolicy):
            settings["scaling_policy"] = _Unscaled(self.scaling_config, self.guard)
        controller = _Controller(**settings)
        asyncio.run(controller.run())
        return controller.get_result()


class _Unscaled(FixedScalingPolicy):
    """So many workers, without a word to an autoscaler."""

    def __init__(self, scaling_config: ScalingConfig, guard: WorkerGuard) -> None:
        super().__init__(scaling_config)
        self.guard = guard

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self.guard.begin()
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> ScalingDecision:
        if self.guard.ends(len(worker_group_state.workers)):
            return self.make_decision_for_non_running_worker_group()
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Nobody is asked for room."""

    def _maybe_send_resource_request(self) -> None:
        """Nobody is asked again."""

    def _cancel_resource_request(self) -> None:
        """There is none."""


class _Workers(WorkerGroup):
    """Workers that get no handle of a controller, which is no actor here: they would ask it for checkpoints that Ray Train knows, and ask nothing."""

    def _init_train_context_on_workers(self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]) -> None:
        told = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context, distributed_context=worker.distributed_context, synchronization_actor=sync_actor,
                storage_context=self._storage_context, worker_callbacks=self._worker_callbacks_to_propagate, controller_actor=None,
                **{name: values[number] for name, values in train_context_args.items()},
            )
            for number, worker in enumerate(workers)
        ]  # fmt: skip
        ray.get(told)
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    worker_group_cls = _Workers
