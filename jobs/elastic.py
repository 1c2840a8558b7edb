"""A run's workers follow the nodes of a cluster: at once away from a node that is lost, after a checkpoint away from one that is about to be
taken away, and after a checkpoint onto nodes that join, up to the most workers that were asked for.

None of it is a failure: the budget of retries is for what breaks. The order of samples and the weights do not depend on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, Result, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy, NoopDecision, ScalingDecision

from cluster.leaving import elsewhere, leaving_nodes, silent_nodes
from genlib.plurals import counted
from jobs.links import Link
from jobs.run_metrics import RunMetrics
from jobs.watchdog import WorkerGuard
from jobs.worker import Moved, original

LOOK_SECONDS = 2.0
"""Between looks at the nodes while a run goes on."""
GROWTH_SECONDS = 10.0
"""For so long there must have been room for more workers before a run stops for them: a restart costs as much and more."""


class ElasticTrainer(TorchTrainer):
    """As TorchTrainer, on a cluster whose nodes come and go."""

    def __init__(self, *arguments: Any, watch: Watch, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.watch = watch

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        policy = Elastic if isinstance(settings["scaling_policy"], ElasticScalingPolicy) else Fixed
        settings["scaling_policy"] = policy(self.scaling_config, self.watch)
        settings["failure_policy"] = Patient(self.run_config.failure_config or FailureConfig())
        return super()._initialize_and_run_controller(**settings)


class Patient(DefaultFailurePolicy):
    """Workers that moved have not failed."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        failures = getattr(training_failed_error, "worker_failures", None) or {}
        if any(isinstance(original(error), Moved) for error in failures.values()):
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class Watch:
    """Which nodes are not to be used, and what the workers are asked for that; pickled with the policy that has it."""

    def __init__(self, run: Path, link: Link, guard: WorkerGuard) -> None:
        self.run, self.link, self.guard = run, link, guard
        self.unfit: tuple[str, ...] = ()
        """Ids of nodes that answer no more or leave."""
        self.asked = False
        """Whether the workers that run are asked to move."""
        self.looked, self.more_since, self.waits_since = float("-inf"), float("inf"), float("inf")

    def due(self) -> bool:
        """Whether it is time to look at the nodes, while workers run that are not asked to move."""
        if self.asked or time.monotonic() - self.looked < LOOK_SECONDS:
            return False
        self.looked = time.monotonic()
        return True

    def begin(self) -> None:
        """Before workers start."""
        self.unfit = tuple({*leaving_nodes(), *silent_nodes()})
        self.asked, self.more_since = False, float("inf")
        self.guard.begin()

    def selector(self) -> dict[str, str] | None:
        """Where the workers may be that are started now."""
        self.waits_since = float("inf")
        return elsewhere(self.unfit)

    def look(self, workers: Sequence[Any], room: int, most: int) -> None:
        """Asks workers to move where a node of theirs leaves, or where there has been room for more of them for a while; `room` counts those."""
        leaving = leaving_nodes()
        nodes = {worker.metadata.node_id: worker.metadata.node_ip for worker in workers}
        if lost := sorted(leaving.keys() & nodes.keys()):
            seconds = min((leaving[node] for node in lost if leaving[node]), default=0.0) - time.time()
            within = f" in {seconds:.0f} s" if seconds > 0 else ""
            RunMetrics(self.run).add("genlib_train_preemptions_total", 1)
            names = ", ".join(nodes[node] for node in lost)
            self.move("leaving", f"{counted(len(lost), 'node')} ({names}) will be taken away{within}: the run saves and goes on without")
        elif min(room, most) <= len(workers):
            self.more_since = float("inf")
        elif time.monotonic() - (since := min(self.more_since, time.monotonic())) >= GROWTH_SECONDS:
            self.move("joined", f"there is room for {min(room, most)} workers: the run saves and goes on with them instead of {len(workers)}")
        else:
            self.more_since = since

    def move(self, cause: str, said: str) -> None:
        """Asks for it, and says why."""
        self.asked = True
        self.link.ask_to_move()
        self.link.tell(cause, said)

    def wait(self, said: str) -> None:
        """Says once that the run waits."""
        if self.waits_since == float("inf"):
            self.waits_since = time.monotonic()
            self.link.tell("waits", said)


class Elastic(ElasticScalingPolicy):
    """As many workers as nodes hold that answer and stay, between the least and the most."""

    def __init__(self, scaling_config: ScalingConfig, watch: Watch) -> None:
        super().__init__(scaling_config)
        self.watch = watch

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self.watch.begin()
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            self.watch.wait(f"the run waits for nodes that hold {counted(self.scaling_config.min_workers, 'worker')}")
            time.sleep(0.5)  # it is asked again at once
        return decision

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> ScalingDecision:
        self._maybe_send_resource_request()
        if self.watch.guard.ends(len(worker_group_state.workers)):
            return self.make_decision_for_non_running_worker_group()
        if self.watch.due() and (nodes := self._get_reserved_resources()) is not None:
            self.watch.look(worker_group_state.workers, self._count_possible_workers(nodes), self.scaling_config.max_workers)
        return NoopDecision()

    def _get_reserved_resources(self) -> Any:
        nodes = super()._get_reserved_resources()
        return nodes and {node: has for node, has in nodes.items() if node not in self.watch.unfit}

    def on_controller_start_worker_group(self, *, scaling_config: ScalingConfig, num_workers: int) -> dict[str, str] | None:
        return self.watch.selector()


class Fixed(FixedScalingPolicy):
    """So many workers, on nodes that answer and stay; where there are too few of those, the run waits for others."""

    def __init__(self, scaling_config: ScalingConfig, watch: Watch) -> None:
        super().__init__(scaling_config)
        self.watch = watch

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self.watch.begin()
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> ScalingDecision:
        if self.watch.guard.ends(len(worker_group_state.workers)):
            return self.make_decision_for_non_running_worker_group()
        if self.watch.due():
            count = len(worker_group_state.workers)
            self.watch.look(worker_group_state.workers, count, count)
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def on_controller_start_worker_group(self, *, scaling_config: ScalingConfig, num_workers: int) -> dict[str, str] | None:
        return self.watch.selector()
