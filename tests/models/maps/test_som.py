"""The self-organising map: what it learns, what it can do, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlib import checkpoint, companions, distributed
from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.engine.strategies import strategy_of
from genlib.functional import tours
from genlib.functional.topology import HexagonalGrid, RingGrid
from genlib.models.maps.base.unit_labels import UnitLabels
from genlib.models.maps.som import SOM, SOMConfig, som
from genlib.types import DataSpec, Step
from tests.models.maps.maps import EXACT, VectorSource, batch_of, blobs, digits, errors, factors, trained
from tests.models.stages import train_stage
from tests.processes import run_ranks

SPEC = DataSpec(vector_size=3, num_samples=164, class_names=("a", "b"))


@pytest.mark.parametrize("grid", ["square", "hexagonal"])
def test_the_auto_grid_of_164_samples(grid: str) -> None:
    task = SOMConfig(grid=grid).build(SPEC, {})  # type: ignore[arg-type]
    assert abs(task.grid.units - 64) <= 1
    assert task.prototypes.shape == (task.grid.units, 3)


def test_the_radius_falls_exponentially() -> None:
    task = SOMConfig(sides=(10, 10), start_radius=0.5, final_radius=0.4).build(SPEC, {})
    progress = torch.arange(50, dtype=torch.float64) / 50
    logged = [task.loss("train", batch_of(torch.rand(9, 3)), Step(i, 50))[1]["radius"].item() for i in range(50)]
    correlation = torch.corrcoef(torch.stack([progress, torch.tensor(logged, dtype=torch.float64).log()]))[0, 1]
    assert correlation < -0.9995
    assert logged[0] == pytest.approx(0.5 * task.grid.extent)
    assert logged[-1] == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_orders_itself(seed: int) -> None:
    x, config = factors(600, seed), SOMConfig(sides=(10, 10))
    before, after = errors(trained(config, x, steps=0, seed=seed), x), errors(trained(config, x, steps=30, seed=seed), x)
    assert after["topographic"] < min(0.2, before["topographic"] / 2)
    assert after["distortion"] < before["distortion"] / 2


def sample_error_of_kmeans(x: Tensor, clusters: int, seed: int) -> float:
    from sklearn.cluster import KMeans

    found = KMeans(clusters, n_init=3, random_state=seed).fit(x.numpy())
    return np.linalg.norm(x.numpy() - found.cluster_centers_[found.labels_], axis=1).mean()


@pytest.mark.parametrize("seed", [21, 22])
def test_prototypes_are_nearly_as_near_as_those_of_k_means(seed: int) -> None:
    x, _ = digits()
    task = trained(SOMConfig(sides=(10, 10)), x, steps=40, seed=seed)
    assert errors(task, x)["quantisation"] <= 1.3 * sample_error_of_kmeans(x, 100, seed)


@pytest.mark.parametrize(
    "config",
    [
        SOMConfig(grid="square"),
        SOMConfig(neighbourhood="bubble", final_radius=1.0),
        SOMConfig(start="plane"),
        SOMConfig(start="random"),
        SOMConfig(rule="online"),
    ],
    ids=["square", "bubble", "plane", "random", "online"],
)
def test_every_variant_orders_itself(config: SOMConfig) -> None:
    x = factors(500, seed=31)
    task = trained(replace(config, units=64), x, steps=40 if config.rule == "batch" else 200, batch=0 if config.rule == "batch" else 50, seed=5)
    found = errors(task, x)
    assert found["topographic"] < 0.2
    assert found["quantisation"] < 0.35 * (x - x.mean(0)).norm(dim=1).mean()


@pytest.mark.parametrize("seed", [41, 42, 43])
def test_clusters_and_classes_of_digits(seed: int) -> None:
    x, label = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    (train, held), (classes, asked) = x[order].split([1400, len(x) - 1400]), label[order].split([1400, len(x) - 1400])
    task = trained(SOMConfig(), train, classes, steps=40, seed=seed)
    unit = task.assign(image=train)
    majority = torch.zeros(task.grid.units, 10).index_put_((unit, classes), torch.ones(1400), accumulate=True)
    assert majority.amax(1).sum() / 1400 > 0.9, "purity"
    chances = task.classify(image=held)
    torch.testing.assert_close(chances.sum(1), torch.ones(len(held)))
    assert (chances.argmax(1) == asked).float().mean() > 0.9
    assert len(task.cluster(image=train, depth=0.2).unique()) > 5


@pytest.mark.parametrize("seed", range(51, 57))
@pytest.mark.parametrize("dims", [2, 5])
def test_the_u_matrix_splits_three_blobs_into_three(seed: int, dims: int) -> None:
    x, label = blobs(3, dims, 300, seed, apart=9.0)
    task = trained(SOMConfig(), x, steps=40, seed=seed)
    found = task.cluster(image=x)
    assert sorted(found.unique().tolist()) == [0, 1, 2]
    together = torch.zeros(3, 3).index_put_((found, label), torch.ones(300), accumulate=True)
    assert together.amax(1).sum() >= 297


def test_features_that_go_together_have_planes_that_look_alike() -> None:
    draw = torch.Generator().manual_seed(61)
    first, other = torch.rand(400, generator=draw), torch.rand(400, generator=draw)
    x = torch.stack([first, 2 - 3 * first + 0.2 * torch.randn(400, generator=draw), other], 1)
    planes = trained(SOMConfig(), x, steps=40).prototypes.detach()
    correlation = torch.corrcoef(planes.T)
    assert correlation[0, 1] < -0.8
    assert correlation[0, 2].abs() < 0.5


@pytest.mark.parametrize("seed", range(71, 81))
@pytest.mark.parametrize("rule", ["batch", "online"])
def test_a_ring_is_a_short_tour_of_thirty_cities(seed: int, rule: str) -> None:
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(seed))
    config = SOMConfig(grid="ring", start="plane", start_radius=0.2, final_radius=0.3, rule=rule, final_rate=0.2)  # type: ignore[arg-type]
    task = trained(config, x, steps=150, seed=seed)
    assert task.grid == RingGrid(75)
    order = task.tour(image=x)
    assert sorted(order.tolist()) == list(range(30))
    assert tours.length(x, order) <= 1.25 * tours.length(x, tours.nearest_neighbour(x))


@pytest.mark.parametrize("seed", [91, 92])
def test_what_was_never_seen_is_far_from_every_prototype(seed: int) -> None:
    x, _ = digits()
    task = trained(SOMConfig(), x[:1400], steps=30, seed=seed)
    shuffled = x[1400:][:, torch.randperm(64, generator=torch.Generator().manual_seed(seed))]
    seen, strange = task.anomaly(image=x[1400:]), task.anomaly(image=shuffled)
    assert (strange[:, None] > seen).float().mean() > 0.95, "area under the ROC curve"


def test_few_labels_go_further_on_a_map_of_all_samples() -> None:
    x, label = digits()
    gains = []
    for seed in (101, 102, 103):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        train, held = order[:1300], order[1300:]
        few = torch.cat([train[label[train] == digit][:20] for digit in range(10)])
        whole, small = (trained(SOMConfig(units=100), x[rows], label[rows], steps=40, seed=seed) for rows in (train, few))
        whole.label(x[few], label[few])
        right = [(task.classify(image=x[held]).argmax(1) == label[held]).float().mean().item() for task in (whole, small)]
        gains.append(right[0] - right[1])
    assert sum(gains) / 3 > 0.05


def map_of_digits(tmp_path: Path) -> SOM:
    (stage,) = som().smoke
    task = checkpoint.load_task(train_stage("som", stage, tmp_path / "run", {})).eval()
    assert isinstance(task, SOM)
    return task


def test_a_checkpoint_clusters_classifies_and_draws(tmp_path: Path) -> None:
    task, source = map_of_digits(tmp_path), open_source(DataConfig(train="digits"))
    batch = next(source.batches("validation", 40, transform=None))
    image = batch["image"]
    unit, places = task.assign(image=image), task.embed(image=image)
    assert torch.equal(places, task.grid.places(unit))
    assert torch.equal(task.decode(code=places), task.prototypes[unit].clamp(0, 1).view(-1, 1, 8, 8))
    assert torch.equal(task.reconstruct(image=image), task.decode(code=places))
    assert task.assign(image=torch.rand(2, 1, 20, 12)).shape == (2,)
    assert (task.classify(image=image).argmax(1) == batch["label"]).float().mean() > 0.5
    scores = companions.assess(task, source, tmp_path)
    assert set(scores) == {f"validation/{name}" for name in ("quantisation", "topographic", "distortion", "accuracy")}
    for name in ("map", "planes", "prototypes"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert len(set(picture.convert("RGB").resize((64, 64)).getdata())) > 50
    companions.export(task, tmp_path)
    assert np.array_equal(np.load(tmp_path / "prototypes.npy").reshape(task.grid.units, -1), task.prototypes.detach().numpy())


@pytest.mark.parametrize(("grid", "scores"), [("ring", {"tour/length", "tour/over_nearest_neighbour"}), ("square", set())])
def test_points_of_the_plane_are_drawn_with_the_net_or_the_tour(grid: str, scores: set[str], tmp_path: Path) -> None:
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(111))
    task = trained(SOMConfig(grid=grid, start="plane"), x, steps=20)  # type: ignore[arg-type]

    class WithoutValidation(VectorSource):
        def batches(self, split: str, *args, **options):
            return iter(()) if split != "train" else super().batches(split, *args, **options)

    assert set(companions.assess(task, WithoutValidation(x), tmp_path)) == scores
    assert {path.name for path in tmp_path.iterdir()} == {"map.png", "planes.png", "net.png"}


RULES = ("batch", "online")


def run_as_ranks(root: Path) -> None:
    """One rank's part of a run by each rule, in which some samples count for nothing; what it ends with in files."""
    x, label = digits()
    source = VectorSource(x[:500], label[:500])
    for rule in RULES:
        torch.manual_seed(0)
        task = SOMConfig(units=40, rule=rule).build(source.spec, {})
        task.prepare(source)
        strategy = strategy_of("auto", torch.device("cpu"))
        strategy.setup(task, EXACT)
        batches = source.batches("train", 200, rank=distributed.rank(), world=distributed.world_size())
        for index, batch in enumerate(islice(batches, 12)):
            batch["valid"][batch["position"] % 9 == 4] = False
            strategy.run_phase(task.phases[0], [batch], Step(index, 12))
            strategy.after_step(Step(index, 12))
        save_file(task.state_dict(), root / f"{rule}-{distributed.rank()}-{distributed.world_size()}")


def test_sums_over_two_processes_are_those_of_one(tmp_path: Path) -> None:
    run_as_ranks(tmp_path)
    run_ranks(2, run_as_ranks, tmp_path)
    for rule in RULES:
        one, *two = (load_file(tmp_path / f"{rule}-{name}") for name in ("0-1", "0-2", "1-2"))
        for name, value in one.items():
            for other in two:
                torch.testing.assert_close(other[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_in_micro_batches_is_the_step(rule: str) -> None:
    x, label = digits()
    batch = batch_of(x[:300], label[:300])
    batch["valid"][batch["position"] % 9 == 4] = False
    ends = []
    for parts in (1, 3):
        torch.manual_seed(0)
        source = VectorSource(x[:300], label[:300])
        task = SOMConfig(units=40, rule=rule).build(source.spec, {})
        task.prepare(source)
        strategy = strategy_of("single", torch.device("cpu"))
        strategy.setup(task, EXACT)
        for index in range(4):
            chunks = [{name: value.chunk(parts)[i] for name, value in batch.items()} for i in range(parts)]
            strategy.run_phase(task.phases[0], chunks, Step(index, 4))
            strategy.after_step(Step(index, 4))
        ends.append(task.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=2e-6, rtol=0)


def test_labels_and_hits_that_count() -> None:
    task = SOMConfig(sides=(3, 3)).build(replace(SPEC, num_samples=9), {})
    batch = {**batch_of(torch.rand(6, 3)), "label": torch.tensor([0, 1, -1, 7, 1, 1]), "valid": torch.tensor([True, True, True, True, False, True])}
    task.loss("train", batch, Step(0, 5))
    task.after_step(Step(0, 5))
    assert task.votes.counts.sum(0).tolist() == [1, 2]
    unlabelled = SOMConfig(sides=(3, 3)).build(replace(SPEC, class_names=()), {})
    unlabelled.loss("train", batch, Step(0, 5))
    unlabelled.after_step(Step(0, 5))
    assert unlabelled.votes.counts.sum().item() == 5


def test_a_unit_without_votes_is_like_the_nearest_that_has_some() -> None:
    votes = UnitLabels(4, 2)
    votes.replace(torch.tensor([0, 0, 3, 3, 3, 3]), torch.tensor([0, 0, 1, 1, 1, 0]))
    prototypes = torch.tensor([[0.0], [1.0], [9.0], [5.5]])
    assert votes.classes(prototypes).tolist() == [[1, 0], [1, 0], [0.25, 0.75], [0.25, 0.75]]


def test_what_does_not_fit_is_refused() -> None:
    task = SOMConfig(sides=(3, 3)).build(replace(SPEC, class_names=()), {})
    with pytest.raises(ValueError, match="the map has seen no labels"):
        task.classify(image=torch.rand(2, 3))
    with pytest.raises(ValueError, match="a tour needs a ring"):
        task.tour(image=torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"samples of shape \(2, 5\) are not what the model knows, vectors \(B, 3\)"):
        task.assign(image=torch.rand(2, 5))
    with pytest.raises(ValueError, match="places on the map"):
        task.decode(code=torch.rand(2, 3))
    with pytest.raises(ValueError, match="neither images of one size nor vectors"):
        SOMConfig().build(DataSpec(num_samples=10), {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": 3}, "task.units 3 is no map; give at least 4"),
        ({"sides": (8,)}, "task.sides 8 does not fit a hexagonal grid; give rows and columns"),
        ({"sides": (8, 1)}, "each at least 2"),
        ({"grid": "ring", "sides": (4, 4)}, "task.sides 4 4 does not fit a ring grid; give one number, at least 3"),
        ({"final_radius": 0.0}, "final_radius is 0.0; it must be above 0"),
    ],
)
def test_wrong_settings_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SOMConfig(**options)


def test_hexagons_stand_upright() -> None:
    grid = SOMConfig().build(replace(SPEC, num_samples=1442), {}).grid
    assert isinstance(grid, HexagonalGrid)
    assert grid.rows >= grid.columns
