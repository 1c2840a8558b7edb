"""What the server tells of its models' runs: scores, data, a picture, held-out samples."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from genlib import checkpoint
from genlib.sharing.card import CARD_FOLDER
from genlib.sharing.held_out import write_held_out
from serve.backend import RunFacts
from serve.models.model_card import run_facts
from tests.models.stages import train_stages
from tests.serve.models import Walker, ask, card_of, picture, png
from tests.serve.models import Walks as Task


class Told(Walker):
    """A model whose run left these."""

    def __init__(self, facts: RunFacts) -> None:
        super().__init__()
        self.facts = facts

    def models(self):
        return [replace(card_of("walker", Task), run=self.facts)]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    write_held_out(tmp_path, [("an arrow", picture(8)), ("", picture(120))])
    (tmp_path / "sheet.png").write_bytes(png(picture(8)))
    return Told(RunFacts(data="icons", scores={"icons/R@10": 0.25}, picture=tmp_path / "sheet.png", held_out=tmp_path))


def test_a_model_has_what_its_run_left(told: Told, tmp_path: Path) -> None:
    found = ask(told, lambda client: client.get("/v1/models/walker")).json()
    assert {name: found[name] for name in ("data", "scores", "has_picture", "has_held_out")} == {
        "data": "icons", "scores": {"icons/R@10": 0.25}, "has_picture": True, "has_held_out": True,
    }  # fmt: skip
    answer = ask(told, lambda client: client.get("/v1/models/walker/picture"))
    assert (answer.headers["content-type"], answer.content) == ("image/png", (tmp_path / "sheet.png").read_bytes())
    rows = ask(told, lambda client: client.get("/v1/models/walker/held-out")).json()["data"]
    assert [(row["index"], row["words"], row["media_type"]) for row in rows] == [(0, "an arrow", "image/png"), (1, "", "image/jpeg")]
    assert base64.b64decode(rows[0]["b64_json"]) == png(picture(8))


@pytest.mark.parametrize(("what", "sentence"), [("held-out", "kept no held-out samples"), ("picture", "left no picture")])
def test_what_is_not_there_is_a_sentence(what: str, sentence: str) -> None:
    answer = ask(Walker(), lambda client: client.get(f"/v1/models/walker/{what}"))
    assert answer.status_code == 404
    assert sentence in answer.json()["error"]["message"]
    assert ask(Walker(), lambda client: client.get(f"/v1/models/other/{what}")).status_code == 404


def test_held_out_samples_can_be_kept_back(told: Told) -> None:
    answer = ask(told, lambda client: client.get("/v1/models/walker/held-out"), held_out=False)
    assert (answer.status_code, "does not show held-out samples" in answer.json()["error"]["message"]) == (404, True)
    assert ask(told, lambda client: client.get("/v1/models/walker"), held_out=False).json()["has_held_out"] is False


def test_scores_are_those_of_these_weights_alone(tmp_path: Path) -> None:
    folder = list(train_stages("vae", tmp_path).values())[-1]
    run, manifest = folder.parents[1], checkpoint.read_manifest(folder)
    assert run_facts(folder, manifest) == RunFacts(data="digits")
    write_held_out(run / CARD_FOLDER, [("a", picture(8))])
    (run / "contact_sheet.png").write_bytes(png(picture(8)))
    for steps, scores in ((manifest.step, {"digits/mse": 0.5}), (manifest.step + 1, {})):
        metrics = {"digits/mse": 0.5, "worse": None, "steps": steps, "seconds": 3.0, "strategy": "single"}
        (run / "metrics.json").write_text(json.dumps(metrics))
        found = run_facts(folder, manifest)
        assert (found.data, found.scores, found.picture, found.held_out) == ("digits", scores, run / "contact_sheet.png", run / CARD_FOLDER)
