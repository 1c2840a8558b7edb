"""One case for each way that a data file may do harm."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from functools import partial

from tests.data import hostile_images as images
from tests.data.hostile import ALL, AROUND, END, Case, around, header, instead, long_name, member, members, one, padded, pax
from tests.data.shards import pair, picture

BROKEN, LOST = {"broken header": 1}, {"missing member": 1}


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


HARM = pickle.dumps(Harm())
ONE = members(one())


def _named(name: str, *keys: str, bad: dict[str, int] | None = None) -> Case:
    """Sample 1 under another key."""
    entries = [(entry.replace("00001", name), content) for entry, content in one()]
    return Case(around(b"".join(pax((b"path", entry.encode("utf-8", "surrogateescape"))) + member("x", content) for entry, content in entries)),
                keys or ("00000", "00002", name), bad or {})  # fmt: skip


def _bad(reason: str, extension: str, content: bytes, of: str = "") -> Case:
    return Case(instead(extension, content, of), bad={reason: 1})


def _fails(content: bytes, reason: str = "undecodable") -> Case:
    return Case(instead("png", content), fails={reason: 1})


def _kind(kind: bytes, content: bytes = b"") -> Case:
    """Sample 1 whose image is a member of another type; what it says of its size may be a lie."""
    return Case(around(member("00001.png", content, kind=kind, link=b"/etc/passwd") + members(one("png"))), bad=LOST)


def _sized(field: bytes, keys: tuple[str, ...] = AROUND, **bad: int) -> Case:
    """Sample 1 whose image states another size."""
    image = header(b"00001.png", field) + padded(dict(one())["00001.png"])
    return Case(around(image + members(one("png"))), keys, {reason.replace("_", " "): count for reason, count in bad.items()})


def _pax(*records: tuple[bytes, bytes], keys: tuple[str, ...] = AROUND, bad: dict[str, int] | None = None, kind: bytes = b"x") -> Case:
    """Sample 1 with such a header before its image."""
    return Case(around(pax(*records, kind=kind) + ONE), keys, bad or {})


def _fact(label: bytes) -> Case:
    """Samples whose label is a fact in their JSON; the one of sample 1 is strange."""
    facts = [(f"{number:05d}.json", b'{"label": %s}' % (label if number == 1 else b"%d" % number)) for number in range(3)]
    return Case(members([*(entry for number in range(3) for entry in pair(number) if not entry[0].endswith("cls")), *facts]) + END, ALL)


def npy(shape: object, kind: str = "<f4", body: bytes = b"", raw: bytes = b"", fortran: bool = False) -> bytes:
    """A .npy file whose header may say anything."""
    text = raw or repr({"descr": kind, "fortran_order": fortran, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + body


def _array(content: bytes) -> Case:
    """Samples with arrays; the one of sample 1 is hostile."""
    arrays = [(f"{number:05d}.npy", content if number == 1 else npy((2,), body=bytes(8))) for number in range(3)]
    return Case(members([*(entry for number in range(3) for entry in pair(number)), *arrays]) + END, bad={"bad array": 1})


def _empty_members(extension: str, count: int = 100_000) -> bytes:
    return around(b"".join(header(b"%06d.%s" % (number, extension.encode())) for number in range(10, 10 + count)))


def _gaps(count: int = 30_000) -> bytes:
    """Broken headers and sound ones by turns."""
    broken = bytearray(header(b"gap.bin"))
    broken[1] ^= 1
    return around(b"".join(bytes(broken) + header(b"%06d.bin" % number) for number in range(count)))


def _sizes(count: int = 30_000) -> bytes:
    """Members whose header says another size than their PAX record."""
    small = pax((b"size", b"5"))
    return around(b"".join(small + header(b"%06d.bin" % number) + padded(b"12345") for number in range(count)))


def _columns() -> bytes:
    """More fields than a shard may have."""
    return around(ONE + b"".join(member(f"00001.field{number}.txt", b"x") for number in range(200)))


TYPES = {
    "hard link": b"1", "symbolic link": b"2", "character device": b"3", "block device": b"4", "folder": b"5", "pipe": b"6",
    "GNU sparse": b"S", "GNU continuation": b"M", "GNU label": b"V", "GNU folder dump": b"D", "unknown": b"Z", "Solaris": b"X",
}  # fmt: skip

ARRAYS = {
    "pickles": npy((1,), "|O", HARM), "nothing": b"", "a pickle": HARM, "2^60 numbers": npy((2**60,)), "no numbers": npy((0, 10**30)),
    "no numbers of 2^62 rows": npy((0, 2**62, 2**62)), "a negative side": npy((-1, -1), body=bytes(4)), "a true side": npy((True,), body=bytes(4)),
    "16-byte numbers": npy((1,), "<f16", bytes(16)), "complex numbers": npy((1,), "<c8", bytes(8)), "text": npy((1,), "<U1", bytes(4)),
    "dates": npy((1,), "<M8[s]", bytes(8)), "records": npy((1,), [("a", "<f4")], bytes(4)), "bytes": npy((1,), "|V4", bytes(4)),  # type: ignore[arg-type]
    "other-endian numbers": npy((1,), ">f4", bytes(4)), "columns": npy((1, 1), body=bytes(4), fortran=True), "too few": npy((9,), body=bytes(8)),
    "too many": npy((1,), body=bytes(8)), "one number": npy((), body=bytes(4)), "64 sides": npy((1,) * 64, body=bytes(4)),
    "deep code": npy(0, raw=b"(" * 3000), "long code": npy(0, raw=b"-" * 3900 + b"1"), "a call": npy(0, raw=b"exit('harmed')"),
    "version 3": b"\x93NUMPY\x03\0" + bytes(64), "a header of 4 GB": b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(64),
}  # fmt: skip
"""Files of numbers that are none, or more than they hold."""

CASES: dict[str, Callable[[], Case]] = {
    # code
    "pickles beside": lambda: Case(around(ONE + members([(f"00001.{kind}", HARM) for kind in
        ("pyd", "pkl", "pickle", "pth", "pt", "npz", "bin", "py", "tar", "gz", "ten", "tb", "mp", "image.pkl")])), ALL),
    "pickle alone": lambda: Case(around(member("00001.pkl", HARM) + member("00001.pyd", HARM))),
    "pickle as png": lambda: _bad("undecodable header", "png", HARM),
    "pickle as json": lambda: _bad("bad JSON", "json", HARM, of="none"),
    "pickle as label": lambda: _bad("bad label", "cls", HARM),
    "pickle as text": lambda: _bad("non-UTF-8", "txt", HARM),
    # names
    "pipe": lambda: _named("pipe:touch harmed; true"),
    "traversal": lambda: _named("../../../../../../../../tmp/harmed"),
    "absolute": lambda: _named("/etc/harmed"),
    "newline": lambda: _named("00001\n00002"),
    "NUL": lambda: _named("00001\0harmed"),
    "escape codes": lambda: _named("\x1b[2J\x1b]0;harmed\x07"),
    "no UTF-8": lambda: _named("\udcff\udcfe", "00000", "00002", "��"),
    "only dots": lambda: Case(around(members([(".png", picture()), ("..png", picture()), ("a/.png", picture())]))),
    "no name": lambda: Case(around(pax((b"path", b"")) + member("00001.png", picture()) + members(one("png"))), bad=LOST),
    # kinds
    **{name: partial(_kind, kind) for name, kind in TYPES.items()},
    "contiguous": lambda: Case(around(member("00001.png", picture(1), kind=b"7") + members(one("png"))), ALL),
    "old form": lambda: Case(around(member("00001.png", picture(1), kind=b"\0", magic=bytes(8)) + members(one("png"))), ALL),
    "link with a size": lambda: Case(around(header(b"00001.png", 10**6, kind=b"2") + members(one("png"))), bad=LOST),
    "sparse in PAX": lambda: _pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.name", b"00001.png"), bad=LOST),
    "sparse with a giant size": lambda: _pax((b"GNU.sparse.realsize", b"9" * 15), bad=LOST),
    # sizes
    "negative size": lambda: _sized(b"\xff" * 12, broken_header=1),
    "size with a minus": lambda: _sized(b"-0000000001\0", broken_header=1),
    "size of letters": lambda: _sized(b"zzzzzzzzzzz\0", broken_header=1),
    "size with 8 and 9": lambda: _sized(b"00000000089\0", broken_header=1),
    "no size": lambda: _sized(bytes(12), broken_header=1, undecodable_header=1),
    "size of 8 GB": lambda: _sized(b"77777777777\0", ("00000",), truncated=1),
    "size of base 256, all ones": lambda: _sized(b"\x80" + b"\xff" * 11, ("00000",), truncated=1),
    "size around 2^63": lambda: _sized(b"\x80" + (2**63 - 511).to_bytes(11, "big"), ("00000",), truncated=1),
    "size around 2^64": lambda: _sized(b"\x80" + (2**64 - 512).to_bytes(11, "big"), ("00000",), truncated=1),
    "size over the next sample": lambda: Case(around(members(one("txt")) + header(b"00001.txt", 3 * 512) + padded(b"picture 1")),
        ("00000",), {**LOST, "non-UTF-8": 1}),
    # PAX and GNU
    "PAX size negative": lambda: _pax((b"size", b"-1"), bad=BROKEN),
    "PAX size as a float": lambda: _pax((b"size", b"1e3"), bad=BROKEN),
    "PAX size too long": lambda: _pax((b"size", b"9" * 400), bad=BROKEN),
    "PAX size beyond the end": lambda: _pax((b"size", b"9" * 19), keys=("00000",), bad={"truncated": 1}),
    "PAX for all": lambda: _pax((b"path", b"harmed.png"), (b"size", b"7"), keys=ALL, kind=b"g"),
    "PAX record longer than its header": lambda: Case(around(member("x", b"99 path=harmed.png\n", kind=b"x") + ONE), bad=BROKEN),
    "PAX record of 10^11 bytes": lambda: Case(around(member("x", b"99999999999 path=harmed.png\n", kind=b"x") + ONE), bad=BROKEN),
    "PAX record of no length": lambda: Case(around(member("x", b"0 path=harmed.png\n" * 9, kind=b"x") + ONE), bad=BROKEN),
    "PAX record without a line's end": lambda: Case(around(member("x", b"18 path=harmed.png", kind=b"x") + ONE), bad=BROKEN),
    "PAX header of 4 MB": lambda: _pax((b"path", b"n" * (4 << 20) + b".png"), bad=BROKEN),
    "PAX header of 10^4 records": lambda: _pax(*((b"k%d" % number, b"") for number in range(5000)), (b"path", b"00001.png"), keys=ALL),
    "PAX header beyond the end": lambda: Case(members(pair(0)) + header(b"x", 10**9, kind=b"x") + ONE + END, ("00000",), {"truncated": 1}),
    "PAX headers without a member": lambda: Case(members([*pair(0), *pair(2)]) + pax((b"path", b"00001.png")) * 1000 + END),
    "PAX headers nested": lambda: Case(around(pax((b"path", b"harmed.png")) * 1000 + pax((b"path", b"00001.png")) + ONE), ALL),
    "long names without a member": lambda: Case(members([*pair(0), *pair(2)]) + long_name(b"00001.png") * 1000 + END),
    "long names nested": lambda: Case(around(long_name(b"harmed.png") * 1000 + long_name(b"00001.png") + ONE), ALL),
    "long name before a link": lambda: Case(around(long_name(b"harmed") + header(b"x", kind=b"2") + ONE), ALL),
    "long name of 4 MB": lambda: Case(around(long_name(b"n" * (4 << 20) + b".png") + ONE), bad=BROKEN),
    "long link of 4 MB": lambda: Case(around(member("x", b"n" * (4 << 20), kind=b"K") + ONE), ALL),
    # many
    "10^5 empty images": lambda: Case(_empty_members("png"), bad={"undecodable header": 100_000}),
    "10^5 empty members of no kind": lambda: Case(_empty_members("bin")),
    "3 x 10^4 gaps": lambda: Case(_gaps(), bad={"broken header": 30_000}),
    "3 x 10^4 sizes": lambda: Case(_sizes()),
    "many fields": lambda: Case(_columns(), ALL),
    "a field's name with another kind": lambda: Case(around(ONE + members([("00001.text.png", picture()), ("00001.label.json", b"{}")])), ALL),
    "the first field with another kind": lambda: Case(members([("00009.text.png", picture()), ("00009.image.txt", b"x")]) + around(ONE), ALL),
    # images
    **{f"{name} as png": partial(_bad, "undecodable header", "png", content) for name, content in images.WRONG.items()},
    **{f"{name}": partial(lambda content: Case(instead("png", content), ALL), content) for name, content in images.POLYGLOTS.items()},
    "gif": lambda: _bad("missing member", "gif", images.encoded("gif"), of="png"),
    "animated png": lambda: _bad("several frames", "png", images.animated("png")),
    "animated webp": lambda: _bad("several frames", "webp", images.animated("webp"), of="png"),
    "animated gif as png": lambda: _bad("undecodable header", "png", images.animated("gif")),
    "animated webp that says it is not": lambda: _fails(images.hidden_animation()),
    "png of 2^31 x 2^31": lambda: _bad("over the pixel limit", "png", images.png_saying(2**31 - 1, 2**31 - 1)),
    "png of 60,000 x 60,000": lambda: _bad("over the pixel limit", "png", images.png_saying(60_000, 60_000)),
    "png of no width": lambda: _bad("undecodable header", "png", images.png_saying(0, 8)),
    "jpeg of 65,500 x 65,500": lambda: _bad("over the pixel limit", "jpg", images.jpeg_saying(65_500, 65_500), of="png"),
    "webp of 2^24 x 2^24": lambda: _bad("over the pixel limit", "webp", images.webp_canvas(2**24, 2**24), of="png"),
    "webp of 16,384 x 16,384": lambda: _bad("over the pixel limit", "webp", images.webp_lossless(16_384, 16_384), of="png"),
    "png just within": lambda: Case(instead("png", images.png(8192, 8191)), ALL),
    "png that says too much": lambda: _fails(images.png_saying(8000, 8000)),
    "jpeg that says too much": lambda: Case(instead("png", images.jpeg_saying(8000, 8000)), ALL),
    "progressive jpeg that says too much": lambda: Case(instead("png", images.jpeg_saying(8000, 8000, progressive=True)), ALL),
    "webp that says too much": lambda: _fails(images.webp_lossless(8000, 8000)),
    "webp whose canvas is larger": lambda: _fails(images.webp_canvas(8000, 8000)),
    "jpeg of 4,000 scans": lambda: _bad("undecodable header", "jpg", images.jpeg_of_scans(8184, 4000), of="png"),
    "png with a bomb of text": lambda: _fails(images.png(8, 8, images.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20))))),
    "png with a bomb of a profile": lambda: _fails(images.png(8, 8, images.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 << 20))))),
    "png of 10^4 chunks": lambda: _bad("undecodable header", "png", images.png(8, 8, *[images.chunk(b"tEXt", b"a\0b")] * 10_000)),
    "png whose chunk is 4 GB": lambda: _bad("undecodable header", "png", images.png(8, 8, struct.pack(">I", 2**32 - 1) + b"tEXt")),
    "png with a wrong checksum": lambda: _fails(images.encoded("png").replace(b"IDATx", b"IDATy")),
    "half a png": lambda: _fails(images.encoded("png", 64)[:6000]),
    "half a jpeg": lambda: _fails(images.encoded("jpeg", 64)[:1500]),
    "half a webp": lambda: _fails(images.encoded("webp", 64, lossless=True)[:6000]),
    # JSON
    "deep list": lambda: _bad("bad JSON", "json", b"[" * 10**6, of="none"),
    "deep object": lambda: _bad("bad JSON", "json", b'{"a":' * 10**5 + b"1" + b"}" * 10**5, of="none"),
    "number of 10^5 digits": lambda: _bad("bad JSON", "json", b'{"a": ' + b"9" * 10**5 + b"}", of="none"),
    "json that is not UTF-8": lambda: _bad("bad JSON", "json", b'{"a": "\xff\xfe\xfd"}', of="none"),
    "json of 5 MB": lambda: _bad("over the byte limit", "json", b'{"a": "' + b"x" * (5 << 20) + b'"}', of="none"),
    "json that is a list": lambda: _bad("bad JSON", "json", b"[1]", of="none"),
    "json of NaN": lambda: Case(instead("json", b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": 0}', of="none"), ALL),
    "json of a great number": lambda: Case(instead("json", b'{"a": ' + b"9" * 4000 + b"}", of="none"), ALL),
    "json of 10^5 numbers": lambda: Case(instead("json", json.dumps({f"n{n}": n for n in range(10**5)}).encode(), of="none"), ALL),
    "json of empty lists": lambda: Case(instead("json", b'{"a":[' + b"[]," * 10**6 + b"[]]}", of="none"), ALL),
    **{f"json label {value}": partial(_fact, value.encode()) for value in ("1e3", "true", "null", "-5", "9" * 30, '"a"', "[1]", "NaN")},
    # arrays
    **{f"array of {name}": partial(_array, content) for name, content in ARRAYS.items()},
    # text and labels
    "no UTF-8 in a caption": lambda: _bad("non-UTF-8", "txt", b"caf\xe9"),
    "surrogates in a caption": lambda: _bad("non-UTF-8", "txt", b"\xed\xa0\x80"),
    "empty caption": lambda: _bad("missing caption", "txt", b"\n \t"),
    "caption of 2 MB": lambda: _bad("over the byte limit", "txt", b"x" * (2 << 20)),
    "caption of NUL": lambda: Case(instead("txt", b"a\0b"), ALL),
    **{f"label {value!r}": partial(_bad, "bad label", "cls", value) for value in
        (b"-2", b"1.5", b"99999999999999999999", b"999999999", b"0x10", b"1_0", "١".encode(), b"1" * 60)},
    **{f"label {value!r}": partial(_bad, "missing label", "cls", value) for value in (b"-1", b"", b"nan")},
}  # fmt: skip
