"""A JSON body taken apart into its fields before anything parses it: how much it holds is asked while each byte is looked at once.

A parser makes an object of every value, which is a hundred times what `[],` takes in a body. So few values are let through to one; an array
of numbers, of which there may be millions, stays text here and is read by `serve.parsing.number_lists`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import pydantic_core

from serve.api_error import ApiError
from serve.limits import Limits
from serve.parsing.refusals import unknown
from serve.parsing.text_files import WAY_OUT

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NUMBERS = re.compile(rb"\[[][0-9eE+., \t\r\n-]*+")
"""Lists of numbers and of such lists, to their end or beyond."""
_TOKEN = re.compile(rb'[][{},:]|[^][{},:" \t\r\n]++')
_OPEN, _CLOSE, _BETWEEN = (b"[", b"{"), (b"]", b"}"), (b",", b":")
_PLAIN = re.compile(rb'[ \t\r\n]*+"([a-z_]{1,64}+)"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+"|[^][{},:" \t\r\n]++)[ \t\r\n]*+([,}])')
"""A field with a value that is no list or object, and the sign after it."""
_PLAIN_BYTES = 4096
"""A body of no more, with such fields alone, holds less than any limit."""
_NAME_BYTES = 1024
"""More than any field's name has, however it is written."""
_CHARACTER_BYTES = 12
"""Of a character at the most: two escapes."""
_FILE = bytes(range(128)).translate(None, b'"\\ \t\r\n')
"""Of base64 and of a data URI's head nothing else is needed; `\\/` is how some write a slash."""
_TOKENS_A_LIST = 32
"""Tokens in a body, for each entry of the longest list that is taken: room for sixteen such lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Which fields a body may have."""

    names: Collection[str]
    said: Collection[str] = ()
    """Those that are named where another is refused; all, if none."""
    by: str = "this"
    """What takes them."""
    what: str = "field"
    """What they are to it."""
    files: Collection[str] = ()
    """Those of which a text may be a file as base64, of any length."""
    arrays: Collection[str] = ()
    """Those that may be lists of numbers of any length."""


@dataclass(eq=False, slots=True)
class Value:
    """A field's value: a part of the body, which is not copied."""

    content: bytes = field(repr=False)
    start: int
    end: int

    def text(self) -> bytes:
        """As it stands there."""
        return self.content[self.start : self.end]

    def starts(self, *signs: bytes) -> bool:
        """Whether these signs come first, whatever space is between them."""
        place = self.start
        for sign in signs:
            if not self.content.startswith(sign, place):
                return False
            place = _after_space(self.content, place + len(sign))
        return True


def fields(content: bytes, taken: Taken, limits: Limits) -> dict[str, Value]:
    """A body's fields, in the order in which they come. ApiError where it is no JSON object, has another field or one twice, or holds too much.

    What stands inside a value is not checked here but for how much it is.
    """
    reader = _Reader(content, taken, limits)
    return reader.plain_fields() or reader.fields()


def joined(given: dict[str, Value]) -> bytes:
    """Some of the fields as a JSON object."""
    return b"{" + b",".join(pydantic_core.to_json(name) + b":" + value.text() for name, value in given.items()) + b"}"


def no_json(said: str) -> ApiError:
    """Of a body that no parser would take."""
    return ApiError(400, f"the body is not JSON: {said}", code="invalid_json")


def _after_space(content: bytes, place: int) -> int:
    found = _SPACE.match(content, place)
    assert found is not None  # it takes nothing too
    return found.end()


class _Reader:
    """Goes over a body once, from left to right."""

    def __init__(self, content: bytes, taken: Taken, limits: Limits) -> None:
        self.content, self.taken, self.limits = content, taken, limits
        self.place, self.tokens, self.words_bytes = _after_space(content, 0), 0, 0
        self.text_bytes = _CHARACTER_BYTES * limits.text_characters + 2
        self.entries = max(limits.labels, limits.inputs, limits.pictures)

    def plain_fields(self) -> dict[str, Value]:
        """The same in a fraction of the time where all is little and plain, as most requests are; nothing where it is not."""
        place, found = self.place + 1, dict[str, Value]()
        if len(self.content) > min(_PLAIN_BYTES, self.text_bytes, self.limits.words_bytes) or not self.content.startswith(b"{", self.place):
            return {}
        while (pair := _PLAIN.match(self.content, place)) is not None:
            name, place = pair[1].decode(), pair.end()
            if name in found or name not in self.taken.names:
                return {}
            found[name] = Value(self.content, *pair.span(2))
            if pair[3] == b"}":
                return found if _after_space(self.content, place) == len(self.content) else {}
        return {}

    def fields(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        if self.place < len(self.content) and not self.content.startswith(b"{", self.place):
            raise ApiError(400, "the body must be a JSON object", code="invalid_json")
        if not self.comes(b"{"):
            raise no_json("it is empty")
        while not self.comes(b"}"):
            if found and not self.comes(b","):
                raise no_json(f"there is no comma at byte {self.place}")
            name = self.name()
            if name in found:
                raise ApiError(400, f"{name} comes more than once, and takes one value", param=name, code="invalid_json")
            if not self.comes(b":"):
                raise no_json(f"there is no colon at byte {self.place}")
            found[name] = Value(self.content, self.place, self.after_value(name))
            self.place = _after_space(self.content, found[name].end)
        if self.place < len(self.content):
            raise no_json(f"something follows its end at byte {self.place}")
        return found

    def comes(self, sign: bytes) -> bool:
        """Passes over one sign and the space after it, if it is there."""
        if not self.content.startswith(sign, self.place):
            return False
        self.place = _after_space(self.content, self.place + 1)
        return True

    def name(self) -> str:
        """One of those that are taken."""
        found = _STRING.match(self.content, self.place)
        if found is None:
            raise no_json(f"there is no name at byte {self.place}")
        self.place = _after_space(self.content, found.end())
        try:
            name = pydantic_core.from_json(found[0]) if found.end() - found.start() <= _NAME_BYTES else None
        except ValueError:
            raise no_json(f"the name before byte {self.place} is no text") from None
        if name is None or name not in self.taken.names:
            raise unknown(name, self.taken.said or self.taken.names, by=self.taken.by, what=self.taken.what)
        return name

    def after_value(self, name: str) -> int:
        """Where a value ends."""
        numbers = _NUMBERS.match(self.content, self.place)
        if numbers is None:
            return self.after_tokens(name)
        end = self.content.rfind(b"]", self.place, numbers.end()) + 1
        if not end or self.content.count(b"[", self.place, end) != self.content.count(b"]", self.place, end):
            return self.after_tokens(name)  # there is something else in it
        if name not in self.taken.arrays:
            entries = self.content.count(b",", self.place, end) + 1
            self.check_entries(name, entries)
            self.count(2 * entries + 2 * self.content.count(b"[", self.place, end))
        return end

    def after_tokens(self, name: str) -> int:
        """The same of any value, a token at a time."""
        place, depth, entries = self.place, 0, 0
        while True:
            start = _after_space(self.content, place)
            kind = self.content[start : start + 1]
            place = self.after_text(name, start) if kind == b'"' else self.after_token(start)
            self.count(1)
            depth += (kind in _OPEN) - (kind in _CLOSE)
            if kind in _BETWEEN:
                entries += depth == 1
                self.check_entries(name, entries + 1)
            if depth < 0 or (depth == 0 and kind in _BETWEEN):
                raise no_json(f"there is no value at byte {start}")
            if depth == 0:
                return place

    def after_token(self, start: int) -> int:
        """Where one that is no text ends."""
        found = _TOKEN.match(self.content, start)
        if found is None:
            raise no_json("it ends too early")
        return found.end()

    def after_text(self, name: str, start: int) -> int:
        """Where a text ends. A file as base64 may have any length, as its signs take a byte each once they are parsed; words may take four."""
        file = name in self.taken.files
        most = len(self.content) if file else start + self.text_bytes
        found = _STRING.match(self.content, start, most)
        if found is None:
            raise too_long(name, self.limits) if most < len(self.content) else no_json(f"a text that begins at byte {start} does not end")
        if file and _is_file(self.content[start + 1 : found.end() - 1]):
            return found.end()
        if found.end() - start > self.text_bytes:
            most = self.limits.text_characters
            message = f"{name} has a text of over {most} characters that is neither base64 without white space nor a data URI; {WAY_OUT}"
            raise ApiError(400, message, param=name, code="invalid_image")
        self.words_bytes += found.end() - start
        if self.words_bytes > self.limits.words_bytes:
            message = f"the texts take more than {self.limits.words_bytes:,} bytes together; send fewer, or shorter ones"
            raise ApiError(400, message, param=name, code="limit_exceeded")
        return found.end()

    def count(self, tokens: int) -> None:
        """Takes them from those that a body may have."""
        self.tokens += tokens
        if self.tokens > _TOKENS_A_LIST * self.entries:
            raise ApiError(
                400,
                f"the body holds more than {_TOKENS_A_LIST * self.entries:,} values and signs, which no request needs; send fewer",
                code="limit_exceeded",
            )

    def check_entries(self, name: str, entries: int) -> None:
        if entries > self.entries:
            message = f"{name} has more than {self.entries:,} entries, which are the limit; send fewer"
            raise ApiError(400, message, param=name, code="limit_exceeded")


def _is_file(text: bytes) -> bool:
    """Whether a text has only signs of base64 and of data URIs."""
    return not text.translate(None, _FILE).replace(b"\\", b"") and text.count(b"\\") == text.count(b"\\/")


def too_long(name: str, limits: Limits) -> ApiError:
    """Of a text."""
    return ApiError(400, f"{name} is longer than {limits.text_characters} characters; shorten it", param=name, code="limit_exceeded")
