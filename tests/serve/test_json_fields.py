"""Bodies taken apart: what a strict parser takes comes out as it would there, the rest is refused, and no body costs much more than its bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api_error import ApiError
from serve.limits import Limits
from serve.parsing.json_fields import Taken, fields, joined
from tests.serve.hostile import filled

LIMITS = Limits()
FIRST = 8 << 20
"""What threads, their heaps and modules take at their first use."""
PICTURE = LIMITS.picture_bytes + (64 << 20)
"""What the allocator keeps of one thread's pictures comes on top."""
TAKEN = Taken(names=("a", "b", "c"), files=("b",), arrays=("c",))
PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
SPACE = st.text(" \t\r\n", max_size=3)


@given(st.dictionaries(st.sampled_from("abc"), PLAIN), st.sampled_from([None, 1]), st.booleans(), SPACE)
def test_what_is_sent_comes_out(body: dict[str, Any], indent: int | None, ascii_only: bool, space: str) -> None:
    content = (space + json.dumps(body, indent=indent, ensure_ascii=ascii_only) + space).encode()
    found = fields(content, TAKEN, LIMITS)
    assert {name: json.loads(value.text()) for name, value in found.items()} == body
    assert json.loads(joined(found)) == body


FORMS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"a"',
    b'"b"',
    b'"c"',
    b'"',
    b"\\",
    b"1",
    b"-1.5e3",
    b"1.",
    b"null",
    b"tru",
    b" ",
    b"\xff",
    b"NaN",
    b'"\\u0061"',
]


@given(st.lists(st.sampled_from(FORMS), max_size=16).map(b"".join) | st.binary(max_size=40))
def test_nothing_passes_that_a_strict_parser_refuses(content: bytes) -> None:
    content = b"{" + content + b"}"
    try:
        parsed = pydantic_core.from_json(joined(fields(content, TAKEN, LIMITS)), allow_inf_nan=False)
    except (ApiError, ValueError):
        return
    assert parsed == json.loads(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b" ", "not JSON"),
        (b"[]", "object"),
        (b"1", "object"),
        (b"{}x", "follows its end"),
        (b'{"a":1}{}', "follows its end"),
        (b'{"a":1,"a":2}', "a comes more than once"),
        (b'{"a":1,"\\u0061":2}', "a comes more than once"),
        (b'{"odd":1}', "takes no field odd; it takes a, b, c"),
        (b'{"a secret":1}', "a field that this does not take; it takes a, b, c"),
        (b'{"a":1,}', "no name"),
        (b'{"a" 1}', "no colon"),
        (b'{"a":1 "b":2}', "no comma"),
        (b'{"a":"x}', "does not end"),
        (b'{"a":[1', "too early"),
        (b'{"a":}', "no value"),
        (b'{"\xff":1}', "no text"),
        (b'{"a":' + b"[" * 10**6, "more than 32,000 values"),
        (b'{"a":' + filled(10**6, b"[]") + b"}", "entries"),
        (b'{"a":[' + filled(10**6, b"[]") + b"]}", "more than 1,000 entries"),
        (b'{"a":"' + b"x" * 50_000 + b'"}', "a is longer than 4000 characters"),
        (b'{"b":"' + b"x y" * 50_000 + b'"}', "b has a text of over 4000 characters that is neither base64"),
        (b'{"a":' + filled(600_000, b'"' + b"x" * 1000 + b'"') + b"}", "texts take more"),
    ],
)
def test_what_is_wrong_is_said_and_not_what_was_sent(content: bytes, said: str) -> None:
    with pytest.raises(ApiError, match=said) as refused:
        fields(content, TAKEN, LIMITS)
    assert refused.value.status == 400
    assert "secret" not in refused.value.message
    assert len(refused.value.message) < 200


def test_a_file_and_an_array_may_be_long() -> None:
    content = b'{"b":"data:image/png;base64,' + b"A/\\/+" * 10**6 + b'","c":' + filled(10**6, b"[1.5]") + b"}"
    assert [value.end - value.start > 900_000 for value in fields(content, TAKEN, LIMITS).values()] == [True, True]


def test_bodies_of_all_kinds_cost_a_few_times_their_bytes() -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-m", "tests.serve.hostile", "1500000"], cwd=root, capture_output=True, text=True, timeout=300, check=False)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert (run.returncode, len(rows) > 300) == (0, True), run.stderr[-2000:]
    for row in rows:
        pictures = "large picture" in row["name"]  # of which the file says little of the size
        assert row["bytes"] <= 8 * row["size"] + (PICTURE if pictures else FIRST), row
        assert row["status"] in (200, 202, 400), row
        assert pictures or row["seconds"] < 1.0, row
