"""The parser finds what the standard library finds, and says where a file is damaged."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlib.data.index.tar import BLOCK, BROKEN, TRAILING, TRUNCATED, scan
from tests.data.shards import tar_bytes

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
THREE = [("a.txt", b"one"), ("b.txt", b"2" * 600), ("c.txt", b"")]


def contents(data: bytes) -> dict[str, bytes]:
    found = scan(data)
    return {name.decode(): data[offset : offset + size] for name, offset, size in zip(found.names, found.offsets, found.sizes, strict=True)}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_members_equal_the_standard_library(form: int) -> None:
    entries = [*THREE, ("folder/" * 8 + "deep.name.txt", b"deep"), ("é" * 20 + ".txt", b"accents")]
    if form != tarfile.USTAR_FORMAT:
        entries.append(("long" * 100 + ".txt", b"long"))
    data = tar_bytes(entries, form=form)
    assert contents(data) == dict(entries)
    assert scan(data).damage == []


def test_pax_times_before_every_member_are_passed_over() -> None:
    data = tar_bytes(THREE * 2000, form=tarfile.PAX_FORMAT, pax={"mtime": "1.5"})
    assert len(scan(data).names) == 6000


def test_pax_size_goes_before_the_header_field() -> None:
    data = bytearray(tar_bytes([("a.txt", b"x" * 700)], form=tarfile.PAX_FORMAT, pax={"size": "700"})[: 5 * BLOCK] + tar_bytes([("b.txt", b"y")]))
    header = data.index(b"a.txt" + bytes(95))
    data[header + 124 : header + 136] = b"00000000000\0"
    checksum = sum(data[header : header + 512]) - sum(data[header + 148 : header + 156]) + 8 * 32
    data[header + 148 : header + 156] = b"%06o\0 " % checksum
    assert contents(bytes(data)) == {"a.txt": b"x" * 700, "b.txt": b"y"}


def test_only_regular_files_count() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"x{kind.decode()}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("file.jpg"))
    assert scan(buffer.getvalue()).names == [b"file.jpg"]


def test_sizes_in_base_256() -> None:
    data = bytearray(tar_bytes([("a.txt", b"abc")]))
    data[124:136] = b"\x80" + (3).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 8 * 32)
    assert contents(bytes(data)) == {"a.txt": b"abc"}


@pytest.mark.parametrize("flipped", [0, 50, 124, 130, 148, 156, 257, 300, 511])
def test_a_flipped_header_byte_costs_one_member(flipped: int) -> None:
    data = bytearray(tar_bytes(THREE))
    data[2 * BLOCK + flipped] ^= 0x15
    found = scan(bytes(data))
    assert found.names == [b"a.txt", b"c.txt"]
    assert found.damage == [(1, BROKEN)]


def test_a_wiped_header_costs_one_member() -> None:
    data = bytearray(tar_bytes(THREE))
    data[2 * BLOCK : 3 * BLOCK] = bytes(BLOCK)
    assert scan(bytes(data)).damage == [(1, BROKEN)]
    assert scan(bytes(data)).names == [b"a.txt", b"c.txt"]


@pytest.mark.parametrize("length", [0, 100, 3 * BLOCK, 3 * BLOCK + 300, 6 * BLOCK])
def test_a_cut_is_noted(length: int) -> None:
    assert [reason for _, reason in scan(tar_bytes(THREE)[:length]).damage] == [TRUNCATED]


def test_archives_joined_by_cat_are_read_to_the_end_and_told_of() -> None:
    first, more = tar_bytes(THREE), [("d.txt", b"4" * 700), ("e.txt", b"five")]
    data = first + tar_bytes(more) + tar_bytes([("f.txt", b"6")], form=tarfile.PAX_FORMAT, pax={"mtime": "1.5"})
    found = scan(data)
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as tar:
        assert [name.decode() for name in found.names] == tar.getnames()
    assert contents(data) == dict([*THREE, *more, ("f.txt", b"6")])
    assert (found.damage, found.end, found.behind_end) == ([], first.rindex(b"2" * 8) // BLOCK * BLOCK + 2 * BLOCK, 3)


def test_nothing_is_said_of_an_end_that_is_one() -> None:
    for form in FORMS.values():
        found = scan(tar_bytes(THREE, form=form) + bytes(99 * BLOCK))
        assert (found.end, found.behind_end, found.damage) == (0, 0, [])


def test_what_is_no_header_after_the_end_is_noted() -> None:
    junk = b"no header".ljust(BLOCK, b".")
    found = scan(tar_bytes(THREE) + junk)
    assert (found.names, found.damage, found.end) == ([b"a.txt", b"b.txt", b"c.txt"], [(3, TRAILING)], 0)
    found = scan(tar_bytes(THREE) + junk + tar_bytes([("d.txt", b"4")]))
    assert (found.names[3:], found.damage, found.behind_end) == ([b"d.txt"], [(3, TRAILING)], 1)


def test_ten_thousand_joined_archives_take_linear_time() -> None:
    one = tar_bytes([("a.txt", b"one")])[: 4 * BLOCK]
    assert scan(one * 10_000).behind_end == 9_999


def test_a_giant_extension_header_is_not_read() -> None:
    data = tar_bytes([("n" * 300_000 + ".txt", b"x"), ("b.txt", b"y")], form=tarfile.PAX_FORMAT)
    found = scan(data)
    assert found.names[-1] == b"b.txt"
    assert [reason for _, reason in found.damage] == [BROKEN]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_mutation_is_survived(data: st.DataObject) -> None:
    raw = bytearray(tar_bytes(THREE, form=data.draw(st.sampled_from(list(FORMS.values()))), pax={"comment": "é"}))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    found = scan(bytes(raw[:cut]))
    assert len(found.names) == len(found.offsets) == len(found.sizes) <= cut // BLOCK
    assert all(offset <= cut and size >= 0 for offset, size in zip(found.offsets, found.sizes, strict=True))
