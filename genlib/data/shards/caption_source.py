"""Where the captions of a set lie, and which one of several counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genlib.config import nearest
from genlib.data.codecs.captions import CAPTIONS, MISSING, captions_of, lines_of
from genlib.data.codecs.decode import BadSample, decode_json, decode_text

Draw = Literal["all", "first", "random"]
Choice = Literal["auto", "all", "first", "random"]
_SHOWN = 12  # JSON fields that a sentence names


@dataclass(frozen=True, slots=True)
class CaptionSource:
    """The member that holds a sample's captions, and what becomes of several."""

    member: str = "text"
    """Field of the shards; `text` is that of the members .txt."""
    key: str = ""
    """Field in the JSON of the member `json`."""
    draw: Draw = "all"
    """all: one text; first; random: one at each visit, by the sample's position."""

    def decode(self, data: bytes) -> str | tuple[str, ...]:
        """A member's one caption, or all of several. BadSample where there is none."""
        if not self.key:
            text = decode_text(data)
            return text if self.draw == "all" else tuple(lines_of(text))
        found = captions_of(decode_json(data).get(self.key))
        if not found:
            raise BadSample(MISSING)
        return "\n".join(found) if self.draw == "all" else tuple(found)

    def in_words(self) -> str:
        """For the line that says what a run reads."""
        where = f"the JSON field {self.key!r}" if self.key else "KEY.txt" if self.member == "text" else f"KEY.{self.member}.txt"
        several = {"all": "", "first": ", the first of several", "random": ", of several one drawn at each visit"}[self.draw]
        return f"{where}{several}"


def drawn(captions: Sequence[str | tuple[str, ...]], draws: Sequence[float] | None) -> list[str]:
    """One text each: of several the one at a share of the list, `draws` (B,) in [0, 1); the first without them."""
    shares = draws if draws is not None else [0.0] * len(captions)
    return [one if isinstance(one, str) else one[int(share * len(one))] for one, share in zip(captions, shares, strict=True)]


def caption_source(
    field: str, choice: Choice, common: Collection[str], kinds: Mapping[str, str], metas: Sequence[Mapping[str, Any]]
) -> CaptionSource | None:
    """The captions of a set with such common fields; None where it has none. ValueError where none lie in the field that is named."""
    member, key = ("text" if "text" in common else ""), ""
    if field:
        member, key = _named(field, kinds, metas)
    elif CAPTIONS in common and kinds[CAPTIONS] == "text" and not any(map(_has_text_alone, metas)):
        member = CAPTIONS
    if not member:
        return None
    usual: Draw = "random" if key or member == CAPTIONS else "all"
    return CaptionSource(member, key, usual if choice == "auto" else choice)


def _has_text_alone(meta: Mapping[str, Any]) -> bool:
    """Whether a shard has samples with a .txt and no member of several captions, as one place of a mixture may; then .txt counts for all."""
    columns = {name: column for column, (name, _) in enumerate(meta["fields"])}
    text, several = (1 << columns[name] if name in columns else 0 for name in ("text", CAPTIONS))
    return any(mask & text and not mask & several for mask, _ in meta["masks"])


def _named(field: str, kinds: Mapping[str, str], metas: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    known = text_fields(metas)
    if field in known:
        return "json", field
    if kinds.get(field) == "text":
        return field, ""
    members = [name for name, kind in kinds.items() if kind == "text"]
    what = f"JSON fields with texts: {', '.join(known[:_SHOWN]) or 'none'}; text members: {', '.join(members) or 'none'}"
    raise ValueError(f"data.caption_field {field!r}: no sample has a caption there.{nearest(field, [*known, *members])} There are {what}")


def text_fields(metas: Sequence[Mapping[str, Any]]) -> list[str]:
    """JSON fields in which any sample has a text."""
    return list(dict.fromkeys(name for meta in metas for name in meta["texts"]))
