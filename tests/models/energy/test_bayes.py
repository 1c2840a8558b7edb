"""A generator of each class is a classifier by Bayes' rule; what a classifier learns from the same codes is a better one."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.functional.gibbs import RBMParams
from genlib.functional.partition import log_partition
from genlib.metrics.probe import linear_probe
from genlib.models.energy.rbm import RBMConfig
from tests.models.energy.learning import digits, trained_rbm

TRAIN = 1400


def log_chance(rbm: RBMParams, v: Tensor, log_z: float) -> Tensor:
    return -rbm.free_energy(v).double() - log_z


def test_machines_of_single_classes_name_digits_and_a_probe_of_their_codes_does_so_better() -> None:
    x, label = digits()
    config = RBMConfig(hidden=12, initial_weight=0.1)
    tasks = [trained_rbm(config, x[:TRAIN][label[:TRAIN] == number], steps=120, learning_rate=0.1, size=50, seed=number) for number in range(10)]
    prior = torch.bincount(label[:TRAIN], minlength=10).double().div(TRAIN).log()
    with torch.no_grad():
        joint = [log_chance(task.params(), x[TRAIN:], log_partition(task.params())) for task in tasks]
        codes = torch.cat([task.embed(image=x) for task in tasks], 1)
    bayes = ((torch.stack(joint, 1) + prior).argmax(1) == label[TRAIN:]).double().mean().item()
    probe = (linear_probe(codes[:TRAIN], label[:TRAIN], codes[TRAIN:]) == label[TRAIN:]).double().mean().item()
    assert 0.5 < bayes < probe, (bayes, probe)
