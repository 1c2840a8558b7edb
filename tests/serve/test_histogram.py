"""Histograms say what those of `prometheus_client` do."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest

from serve.histogram import Histogram


def said(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created{" not in line]


def test_the_same_text_as_the_librarys() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    values = (0.0, 0.001, 0.0011, 0.5, 2, 2.0001, 1e9)
    one = Histogram("h", "Some", ("a", "b"), buckets=(0.001, 0.5, 2), registry=ours)
    other = prometheus_client.Histogram("h", "Some", ("a", "b"), buckets=(0.001, 0.5, 2), registry=theirs)
    for labels in (("x", 'y"'), ("x", "z")):
        for value in values:
            one.labels(*labels).observe(value)
            other.labels(*labels).observe(value)
    assert said(ours) == said(theirs)
    assert generate_latest(ours).decode().count("h_created{") == generate_latest(theirs).decode().count("h_created{") == 2
