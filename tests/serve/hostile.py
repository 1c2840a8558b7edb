"""Bodies that cost a server far more than their bytes: made for any route from its schema in OpenAPI.

`python -m tests.serve.hostile BYTES` sends them to an application in a process of its own, and prints what each took.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import io
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genlib.actions import Action, Input
from genlib.ports import PORTS, Sizes
from serve.app import build_app
from serve.backend import Event, ModelCard, Result
from serve.options import ServeOptions
from tests.serve.models import uri

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"
ACTION = "/v1/models/taker/actions/generate"

LARGEST_PICTURES = (
    ("PNG", "L", 4096), ("PNG", "I;16", 4096), ("PNG", "P", 3490), ("PNG", "RGB", 3490), ("PNG", "RGBA", 2890), ("PNG", "LA", 2890),
    ("JPEG", "RGB", 4096), ("JPEG", "CMYK", 3000), ("WEBP", "RGB", 2300), ("WEBP", "RGBA", 2300),
)  # fmt: skip
"""Just within what is let in."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One body for one path."""

    path: str
    name: str
    kind: str
    make: Callable[[], bytes]


def filled(size: int, entry: bytes, before: bytes = b"[", after: bytes = b"]", between: bytes = b",") -> bytes:
    """An entry again and again, to so many bytes."""
    count = max(1, (size - len(before) - len(after)) // (len(entry) + len(between)))
    return before + (entry + between) * (count - 1) + entry + after


def text(size: int, entry: bytes, last: bytes = b"") -> bytes:
    return filled(size - len(last), entry, b'"', last + b'"', b"")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return b'"' + base64.b64encode(buffer.getvalue()) + b'"'


def flat_picture(side: int, mode: str = "L", kind: str = "PNG") -> bytes:
    """A picture of one colour: a few bytes for many pixels."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, kind)
    return buffer.getvalue()


def values(size: int) -> dict[str, Callable[[], bytes]]:
    """Values of a field, of about so many bytes each."""
    most = min(1 << 22, size // 2 - 8)
    return {
        "ones": lambda: filled(size, b"1"),
        "as many ones as may be": lambda: filled(2 * most, b"1"),
        "rows of one": lambda: filled(size, b"[1]"),
        "rows of 100": lambda: filled(size, filled(200, b"1")),
        "ragged rows": lambda: filled(size, b"[1,2],[3]"),
        "ones and a word": lambda: filled(size, b"1", after=b',"x"]'),
        "floats": lambda: filled(size, b"-0.12345678"),
        "large whole numbers": lambda: filled(size, b"9007199254740993"),
        "numbers beyond all": lambda: filled(size, b"1e400"),
        "one number": lambda: b"9" * size,
        "a list of one number": lambda: b"[" + b"9" * size + b"]",
        "a fraction": lambda: b"[0." + b"9" * size + b"]",
        "empty lists": lambda: filled(size, b"[]"),
        "empty objects": lambda: filled(size, b"{}"),
        "empty texts": lambda: filled(size, b'""'),
        "short texts": lambda: filled(size, b'"a"'),
        "short wide texts": lambda: filled(size, '"aaaaaaa\U0001f600"'.encode()),
        "nulls": lambda: filled(size, b"null"),
        "a thousand texts": lambda: filled(size, text(min(3998, size // 1000), b"a", "\U0001f600".encode())),
        "some long texts": lambda: filled(size, text(40_000, b"a", "\U0001f600".encode())),
        "a long text": lambda: text(size, b"a"),
        "a long wide text": lambda: text(size, b"a", "\U0001f600".encode()),
        "a long wide text in a list": lambda: b"[[" + text(size, b"a", "\U0001f600".encode()) + b"]]",
        "two long texts": lambda: filled(size, text(size // 2, b"a")),
        "escapes": lambda: text(size, b"\\n"),
        "written signs": lambda: text(size, b"\\u0041"),
        "written wide signs": lambda: text(size, b"\\ud83d\\ude00"),
        "slashes": lambda: text(size, b"\\/"),
        "deep lists": lambda: b"[" * (size // 2) + b"]" * (size // 2),
        "deep objects": lambda: b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
        "open lists": lambda: b"[" * size,
        "commas": lambda: b"[" + b"," * size + b"]",
        "space": lambda: b"[1" + b" " * size + b"]",
        "a text without end": lambda: b'"' + b"a" * size,
        "a file of bytes": lambda: npy(np.ones(size * 3 // 4 - 200, np.uint8)),
        "as many bytes as may be": lambda: npy(np.ones(min(1 << 22, size * 3 // 4 - 200), np.uint8)),
        "rows of bytes": lambda: npy(np.ones((1000, min(4194, size * 3 // 4000 - 1)), np.uint8)),
        "a file of doubles": lambda: npy(np.ones(size * 3 // 32 - 200)),
        "pictures": lambda: filled(size, b'"' + uri(flat_picture(size // 2048)).encode() + b'"'),
    }


def objects(size: int) -> dict[str, Callable[[], bytes]]:
    """Whole bodies."""
    return {
        "many names": lambda: b"{" + b",".join(b'"%x":1' % number for number in range(size // 12)) + b"}",
        "one name": lambda: filled(size, b'"user":1', b"{", b"}"),
        "a long name": lambda: b"{" + text(size, b"a") + b":1}",
        "a list": lambda: filled(size, b"[]"),
        "more after it": lambda: b"{}" + b"[]," * (size // 3),
        "space": lambda: b" " * size,
        "no object": lambda: b"1" * size,
    }


def parts(size: int, name: str) -> dict[str, Callable[[], bytes]]:
    """Whole forms."""

    def part(field: str, content: bytes, file: bool) -> bytes:
        given = f'Content-Disposition: form-data; name="{field}"' + ('; filename="a.png"' if file else "")
        return f"--{BOUNDARY}\r\n{given}\r\n\r\n".encode() + content + b"\r\n"

    end = f"--{BOUNDARY}--\r\n".encode()
    return {
        "a large file": lambda: part(name, b"\x00" * size, True) + end,
        "files": lambda: part(f"{name}[]", b"\x00" * (size // 64 - 200), True) * 64 + end,
        "more files": lambda: part(f"{name}[]", b"", True) * (size // 100) + end,
        "many fields": lambda: part("user", b"", False) * (size // 100) + end,
        "long fields": lambda: part(f"{name}[]", ("a" * (size // 240 - 200) + "\U0001f600").encode(), False) * 240 + end,
        "beginnings of boundaries": lambda: part(name, f"\r\n--{BOUNDARY[:-1]}".encode() * (size // 11), True) + end,
        "ends of lines": lambda: part(name, b"\r\n" * (size // 2), True) + end,
        "headers": lambda: f"--{BOUNDARY}\r\n".encode() + b"a: b\r\n" * (size // 6),
        "a long header": lambda: f"--{BOUNDARY}\r\na: ".encode() + b"b" * size,
        "before it": lambda: b"\r\n" * (size // 2) + end,
        "after it": lambda: part(name, b"", True) + end + b"\r\n" * (size // 2),
        "large pictures": lambda: part(f"{name}[]", flat_picture(4096), True) * 60 + end,
        **{
            f"a large picture, {kind} {mode}": lambda mode=mode, kind=kind, side=side: part(name, flat_picture(side, mode, kind), True) + end
            for kind, mode, side in LARGEST_PICTURES
        },
    }


def is_array(schema: dict[str, Any]) -> bool:
    return any("number" in one.get("items", {}).get("type", ()) for one in schema.get("anyOf", ()))


def kind_of(schema: dict[str, Any]) -> str:
    """Roughly what a field takes."""
    said = json.dumps(schema)
    marks = {"contentEncoding": "picture", '"array"': "list"}
    return "numbers" if is_array(schema) else next((kind for mark, kind in marks.items() if mark in said), str(schema.get("type")))


def attacks(document: dict[str, Any], size: int, fields_a_kind: int = 1) -> Iterator[Attack]:
    """For every POST route of an OpenAPI document; of a body's fields so many of each kind."""
    for path, operations in document["paths"].items():
        if "post" not in operations:
            continue
        kinds = operations["post"]["requestBody"]["content"]
        properties = kinds[JSON]["schema"]["properties"]
        yield from (Attack(path, name, JSON, make) for name, make in objects(size).items())
        groups: dict[str, list[str]] = {}
        for name, schema in properties.items():
            said = json.dumps(schema)
            kind = (
                "numbers"
                if is_array(schema)
                else "picture"
                if "contentEncoding" in said
                else "list"
                if '"array"' in said
                else json.dumps(schema.get("type"))
            )
            groups.setdefault(kind, []).append(name)
        for field in groups.get("numbers", ())[:fields_a_kind]:
            for name in ("as many ones as may be", "as many bytes as may be"):
                make = values(size)[name]
                yield Attack(
                    path, f"{field}, as a job: {name}", JSON, lambda make=make, field=field: b'{"async":true,"%s":%s}' % (field.encode(), make())
                )
        for field in [name for names in groups.values() for name in names[:fields_a_kind]]:
            for name, make in values(size).items():
                yield Attack(path, f"{field}: {name}", JSON, lambda make=make, field=field: b'{"%s":%s}' % (field.encode(), make()))
        if "multipart/form-data" in kinds:
            picture = next(name for name, schema in properties.items() if "contentEncoding" in json.dumps(schema))
            yield from (Attack(path, f"form: {name}", FORM, make) for name, make in parts(size, picture).items())


class Peak:
    """The most memory that a process has had since this was made, beyond what it had then."""

    def __init__(self, pid: int | str = "self") -> None:
        self.folder = Path(f"/proc/{pid}")
        self.before = self.now("VmRSS")
        (self.folder / "clear_refs").write_text("5")

    def now(self, what: str) -> int:
        line = next(line for line in (self.folder / "status").read_text().splitlines() if line.startswith(what))
        return int(line.split()[1]) << 10

    def bytes(self) -> int:
        return self.now("VmHWM") - self.before


class Taker:
    """A backend that takes all kinds of arguments, and gives nothing for them."""

    def models(self) -> list[ModelCard]:
        inputs = {
            "image": Input(PORTS["image"], False), "code": Input(PORTS["code"], False), "codes": Input(PORTS["codes"], False),
            "amount": Input(PORTS["amounts"], False), "words": Input(PORTS["names"], False), "label": Input(PORTS["label"], False),
            "steps": Input(PORTS["steps"], False, 1), "sampler": Input(PORTS["text"], False), "negative_prompt": Input(PORTS["negative_text"], False),
        }  # fmt: skip
        results = {
            "generate": "image", "inpaint": "image", "image_to_image": "image", "translate": "image", "reconstruct": "image",
            "embed_image": "features", "embed_text": "features", "classify": "probabilities",
        }  # fmt: skip
        actions = {name: Action(name=name, doc="", inputs=inputs, result=PORTS[kind]) for name, kind in results.items()}
        actions["embed_image"] = replace(actions["embed_image"], inputs={"image": Input(PORTS["image"])})
        actions["embed_text"] = replace(actions["embed_text"], inputs={"text": Input(PORTS["texts"])})
        sizes = Sizes(channels=3, side=8, max_steps=1000)
        return [ModelCard(name="taker", recipe="taker", step=1, sha256="0" * 64, actions=actions, sizes=sizes, max_batch=8, created=0)]

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        rows = next((len(value) for value in arguments.values() if isinstance(value, np.ndarray | list)), 1)
        return Result(numbers=np.zeros((min(rows, 1000), 1), np.float32))

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        yield Event(kind="result", step=0, steps=0, result=await self.run(model, action, arguments, parameters=parameters))


async def posted(app: Any, path: str, kind: str, content: bytes) -> tuple[int, bytes]:
    """What the application answers to a body that comes as from a socket."""
    pieces = [memoryview(content)[at : at + 65536] for at in range(0, len(content), 65536)] or [memoryview(b"")]
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.sleep(600)
        return {"type": "http.request", "body": bytes(pieces.pop(0)), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode())]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers, "scheme": "http",
        "http_version": "1.1", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    return answers[0]["status"], b"".join(answer.get("body", b"") for answer in answers)


async def main(size: int) -> None:
    """Each attack, and what it took, of time the processor's, a JSON document a line."""
    from serve.routes.describing import document

    backend = Taker()
    app = build_app(backend, ServeOptions())
    trim = ctypes.CDLL(None).malloc_trim
    said = document(app, backend.models(), ServeOptions().limits, keys=False)
    said["paths"] = {path: said["paths"][path] for path in (ACTION, "/v1/images/edits", "/v1/embeddings")}  # the others are read as one of these
    await posted(app, ACTION, JSON, b'{"code":[1]}')
    for attack in attacks(said, size):
        content = attack.make()
        trim(0)
        peak, began = Peak(), time.process_time()
        status, answer = await posted(app, attack.path, attack.kind, content)
        while app.state.front.jobs.tasks:
            await asyncio.sleep(0.01)
        seconds = time.process_time() - began
        found = {"size": len(content), "status": status, "bytes": peak.bytes(), "seconds": seconds, "answer": answer[:500].decode()}
        print(json.dumps({**{key: value for key, value in asdict(attack).items() if key != "make"}, **found}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
