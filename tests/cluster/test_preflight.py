"""Whether a cluster can ever hold what is asked for."""

import pytest

from cluster import preflight
from cluster.preflight import check_cluster_fits, fit_on

SMALL = {"CPU": 2.0, "memory": 1e9}
LARGE = {"CPU": 8.0, "GPU": 4.0, "memory": 1e9}


def test_a_worker_lives_on_one_node() -> None:
    assert fit_on([SMALL, LARGE], {"CPU": 1}) == 10
    assert fit_on([SMALL, LARGE], {"CPU": 3}) == 2
    assert fit_on([SMALL, LARGE], {"CPU": 1, "GPU": 1}) == 4
    assert fit_on([SMALL, SMALL], {"CPU": 0.5}) == 8
    assert fit_on([SMALL], {"CPU": 0.1}) == 20
    assert fit_on([], {"CPU": 1}) == 0


@pytest.mark.parametrize(
    ("nodes", "limit", "workers", "each", "sentence"),
    [
        ([SMALL], None, 3, {"CPU": 1.0}, "3 workers of 1 CPU each can never run: the cluster has 2 CPU on 1 node; ask for fewer --workers"),
        ([SMALL, SMALL], None, 1, {"CPU": 1.0, "GPU": 1.0}, "1 worker of 1 CPU and 1 GPU each can never run: the cluster has 4 CPU on 2 nodes"),
        ([SMALL], {"CPU": 16, "GPU": 2}, 3, {"CPU": 1.0, "GPU": 1.0}, "on 1 node and may grow to 16 CPU and 2 GPU"),
    ],
)
def test_what_can_never_run_is_refused_with_what_there_is(monkeypatch, nodes, limit, workers, each, sentence) -> None:
    monkeypatch.setattr(preflight, "node_resources", lambda: nodes)
    monkeypatch.setattr(preflight, "autoscaling_limit", lambda: limit)
    with pytest.raises(ValueError, match=sentence):
        check_cluster_fits(workers, each)


def test_what_fits_now_or_after_scaling_up_is_not_refused(monkeypatch) -> None:
    monkeypatch.setattr(preflight, "node_resources", lambda: [SMALL])
    monkeypatch.setattr(preflight, "autoscaling_limit", lambda: None)
    check_cluster_fits(2, {"CPU": 1.0})
    monkeypatch.setattr(preflight, "autoscaling_limit", lambda: {"CPU": 64, "GPU": 8})
    check_cluster_fits(8, {"CPU": 1.0, "GPU": 1.0})
