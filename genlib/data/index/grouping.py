"""Members of a tar to samples, by WebDataset's rule: a key ends at the first dot of a name's last part, and the rest says what a member is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from genlib.data.codecs.decode import KINDS
from genlib.data.index import tar
from genlib.data.index.validation import (
    DOT_IN_KEY,
    DUPLICATE,
    FIELD,
    HIDDEN,
    LINK,
    MAX_FIELDS,
    OTHER_KIND,
    OTHER_TEXT,
    TOO_MANY_FIELDS,
    UNKNOWN_ENDING,
    UNUSABLE,
)

_FIELD = re.compile(FIELD)
_RANK = {ending: rank for rank, ending in enumerate(KINDS)}
_ENDING_CHARACTERS, _ENDINGS = 16, 8


@dataclass(frozen=True, slots=True)
class Extension:
    """What a member's extension says: `png` or `mask.png`."""

    prefix: str
    """`mask`; empty for the field that is called like its kind."""
    last: str
    kind: str
    """Kind of value; empty where the allow-list has no decoder for it."""

    @property
    def field(self) -> tuple[str, str] | None:
        """(field, kind); None where there is none of that name."""
        if not self.kind or (self.prefix and not _FIELD.fullmatch(self.prefix)) or (self.prefix in KINDS.values() and self.prefix != self.kind):
            return None
        return (self.prefix or self.kind), self.kind


def ending_of(extension: bytes) -> Extension:
    """An extension, in any case, taken apart at its last dot."""
    prefix, _, last = extension.decode("utf-8", "replace").lower().rpartition(".")
    return Extension(prefix, last, KINDS.get(last, ""))


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """(key, extension) of a member; no extension where the last part has no dot behind its first character."""
    slash = name.rfind(b"/") + 1
    dot = name.find(b".", slash)
    return (name[:dot], name[dot + 1 :]) if dot > slash else (name, b"")


def _is_hidden(name: bytes) -> bool:
    """Whether a member is a hidden file, such as `._a.jpg`, which macOS's tar writes beside `a.jpg` and no picture is in."""
    return name.startswith(b".", name.rfind(b"/") + 1)


@dataclass(slots=True)
class Groups:
    """Members of one shard by sample, and what became of all others."""

    columns: dict[tuple[str, str], int] = field(default_factory=dict)
    """Column of each (field, kind)."""
    rows: dict[bytes, dict[int, int]] = field(default_factory=dict)
    """Key to column to number of the member."""
    keys: list[bytes] = field(default_factory=list)
    """Of every member."""
    unused: Counter[str] = field(default_factory=Counter)
    """Members without a row by reason."""
    endings: Counter[str] = field(default_factory=Counter)
    """Of members that no decoder takes."""
    repeated: list[bytes] = field(default_factory=list)
    """Keys of samples that have a member twice; the first one stays."""
    cut: dict[bytes, None] = field(default_factory=dict)
    """Names of samples whose key a dot cuts off."""

    def column(self, ending: Extension) -> int | str:
        """The column of a member with such an ending, or why it has none."""
        found = ending.field
        if found is None:
            return OTHER_KIND if ending.kind and ending.prefix in KINDS.values() else UNKNOWN_ENDING
        if found in self.columns:
            return self.columns[found]
        if any(name == found[0] for name, _ in self.columns):
            return OTHER_KIND  # a field is of one kind in a shard, the first
        return self.columns.setdefault(found, len(self.columns)) if len(self.columns) < MAX_FIELDS else TOO_MANY_FIELDS

    def common_endings(self) -> dict[str, int]:
        """How many members have each of the most frequent endings that no decoder takes."""
        return dict(self.endings.most_common(_ENDINGS))


def group(members: tar.Members) -> Groups:
    """Members to rows by key."""
    groups = Groups(unused=+Counter({LINK: members.links, UNUSABLE: members.unusable}))
    parts = [split_name(name) for name in members.names]
    groups.keys = [key for key, _ in parts]
    known = {extension: ending_of(extension) for _, extension in parts}
    cut = _cut_keys(parts, known) if any(ending.kind and ending.prefix for ending in known.values()) else set()
    columns: dict[bytes, int | str] = {}
    for number, (key, extension) in enumerate(parts):
        if cut and key in cut and known[extension].kind and known[extension].prefix:
            groups.unused[DOT_IN_KEY] += 1
            groups.cut.setdefault(members.names[number].rpartition(b".")[0])
            continue
        if _is_hidden(members.names[number]):
            groups.unused[HIDDEN] += 1
            continue
        column = columns.get(extension)
        if column is None:
            column = columns[extension] = groups.column(known[extension])
        if isinstance(column, str):
            groups.unused[column] += 1
            if column == UNKNOWN_ENDING:
                groups.endings[_shown(known[extension])] += 1
            continue
        row = groups.rows.setdefault(key, {})
        if column not in row:
            row[column] = number
        else:
            _second(groups, row, column, number, known[parts[row[column]][1]], known[extension])
    return groups


def _second(groups: Groups, row: dict[int, int], column: int, number: int, first: Extension, second: Extension) -> None:
    """A sample's second member for one field: of captions in two files the ending that is used most counts, of all else the first member."""
    if first.kind == "text" and first.last != second.last:
        groups.unused[OTHER_TEXT] += 1
        if _RANK[second.last] < _RANK[first.last]:
            row[column] = number
        return
    groups.unused[DUPLICATE] += 1
    if not groups.repeated or groups.repeated[-1] != groups.keys[number]:
        groups.repeated.append(groups.keys[number])


def _cut_keys(parts: Sequence[tuple[bytes, bytes]], known: Mapping[bytes, Extension]) -> set[bytes]:
    """Keys that are the beginning of a longer one with a dot in it, `22` of `22.05.jpg` and `22.05.txt`, and not samples with fields of their own.

    Such a field is of one kind, and beside it lies the sample's plain member; see `_is_cut`.
    """
    fields: defaultdict[bytes, dict[str, set[str]]] = defaultdict(dict)
    for key, extension in parts:
        if (ending := known[extension]).kind:
            fields[key].setdefault(ending.prefix, set()).add(ending.kind)
    cut = {key for key, found in fields.items() if _is_cut(found)}
    bare = {key for key, found in fields.items() if "" not in found}
    return cut | (bare if len({prefix for key in bare for prefix in fields[key]}) > MAX_FIELDS else set())


def _is_cut(found: Mapping[str, set[str]]) -> bool:
    plain = "" in found
    for prefix, kinds in found.items():
        if prefix and ({"image", "text"} <= kinds or (not plain and (len(kinds) > 1 or not _FIELD.fullmatch(prefix)))):
            return True
    return False


def _shown(ending: Extension) -> str:
    text = f".{ending.last}"[:_ENDING_CHARACTERS]
    return text if ending.last and text.isprintable() else "none"
