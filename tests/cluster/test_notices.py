"""What clouds say before they take a machine away, from a service on this machine that answers as theirs do, and what Ray is told then."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cluster import notices
from cluster.notices import CLOUDS, notice_of

Answers = Callable[[str, str, dict[str, str]], tuple[int, str]]
"""Of a method, a path and headers: a status and a text."""


@contextmanager
def service(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, text = answers(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def aws(notice: str) -> Answers:
    def answers(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if (method, path) == ("PUT", "/latest/api/token"):
            return (200, "secret") if int(headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0 else (400, "")
        if headers.get("x-aws-ec2-metadata-token") != "secret":
            return 401, ""
        assert path == "/latest/meta-data/spot/instance-action"
        return (200, notice) if notice else (404, "not found")

    return answers


def google(taken: bool) -> Answers:
    def answers(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        assert path == "/computeMetadata/v1/instance/preempted"
        return (200, "TRUE" if taken else "FALSE") if headers.get("metadata-flavor") == "Google" else (403, "")

    return answers


def azure(*events: dict[str, str]) -> Answers:
    def answers(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        assert path.startswith("/metadata/scheduledevents?api-version=")
        return (200, json.dumps({"DocumentIncarnation": 1, "Events": list(events)})) if headers.get("metadata") == "true" else (400, "")

    return answers


@pytest.mark.parametrize(
    ("cloud", "answers", "left"),
    [
        ("aws", aws(""), None),
        ("aws", aws(json.dumps({"action": "terminate", "time": f"{soon(90_000):%Y-%m-%dT%H:%M:%SZ}"})), 90_000),
        ("google", google(taken=False), None),
        ("google", google(taken=True), 30),
        ("azure", azure(), None),
        ("azure", azure({"EventType": "Reboot", "NotBefore": format_datetime(soon(90), usegmt=True)}), None),
        ("azure", azure({"EventType": "Preempt", "NotBefore": format_datetime(soon(90_000), usegmt=True)}), 90_000),
        ("azure", azure({"EventType": "Preempt", "NotBefore": ""}), 30),
    ],
)
def test_a_notice_is_read_with_the_seconds_that_are_left(cloud: str, answers: Answers, left: float | None) -> None:
    with service(answers) as address:
        found = notice_of(CLOUDS[cloud], address)
    assert found is None if left is None else found == pytest.approx(left, abs=9_000 if left > 30 else 0)


@pytest.mark.parametrize("cloud", list(CLOUDS))
@pytest.mark.parametrize("answers", [lambda *_: (500, "broken"), lambda *_: (200, "<html>")], ids=["an error", "something else"])
def test_a_service_that_answers_something_else_is_asked_again(cloud: str, answers: Answers, capsys: pytest.CaptureFixture) -> None:
    with service(answers) as address:
        assert notice_of(CLOUDS[cloud], address) is None
    if cloud != "google":  # of whose answers any other one says that there is no notice
        assert "it is asked again in 5 s" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_asked_again(capsys: pytest.CaptureFixture) -> None:
    with service(google(taken=False)) as address:
        pass
    assert notice_of(CLOUDS["google"], address) is None
    assert "gave no answer" in capsys.readouterr().err


def test_once_there_is_a_notice_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, str]] = []
    monkeypatch.setattr(notices, "this_node", lambda: "0a1b")
    monkeypatch.setattr(notices, "say_gone", lambda *words: told.append(words))
    monkeypatch.setattr(notices, "LOOK_SECONDS", 0.05)
    when = time.monotonic() + 0.5
    with service(lambda *words: google(taken=time.monotonic() > when)(*words)) as address:
        assert notices.notices(["google", "--metadata", address]) == 0
    assert told == [("0a1b", 30.0, "notice of google")]


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("leave", ["--seconds", "-1"], "--seconds is -1; it must be at least 0"),
        ("leave", ["--soon"], "unrecognized arguments: --soon; `genlib cluster leave --help` shows what it takes"),
        ("notices", ["amazon"], "invalid choice: 'amazon'"),
        ("notices", [], "the following arguments are required: cloud"),
    ],
)
def test_wrong_words_are_one_sentence(verb: str, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        getattr(notices, verb)(words)
