"""What CLIP's texts go through before they are cut into pieces (Radford et al. 2021, arXiv:2103.00020, as in open_clip's `basic_clean`): mojibake is
mended, HTML entities are read, quotes are straight, letters have their usual width, and what cannot be seen is gone.

open_clip does so before any tokenizer, transformers does what stands in tokenizer.json alone. `cleaned` is the former, and `rules` say the same to
tokenizer.json, so that a text has the same numbers in both. Rules cannot mend mojibake, and read those entities that stand for a character of ASCII,
Latin-1 or HTML 4.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections import defaultdict
from functools import cache
from html.entities import html5, name2codepoint
from importlib.metadata import version

import ftfy
from ftfy.badness import is_bad
from ftfy.chardata import CONTROL_CHARS, HTML_ENTITIES, LIGATURES, WIDTH_MAP
from tokenizers import Regex, Tokenizer, models, normalizers

CLEANING_VERSION = 1
"""Changes when `cleaned` makes something else of a text."""
_QUOTES = "\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f"
_CHARACTERS = sorted({*map(ord, _QUOTES), *LIGATURES, *WIDTH_MAP, *CONTROL_CHARS, *range(0x80, 0xA0)})  # that ftfy changes wherever they stand
_ENTITY = f"&#|&[0-9A-Za-z]+;|&(?:{'|'.join(name for name in html5 if not name.endswith(';'))})"
_SUSPECT = re.compile(f"[Σ\\ud800-\\udfff{''.join(map(re.escape, map(chr, _CHARACTERS)))}]|{_ENTITY}")
_FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}{0,9}\KΣ(?!\p{Case_Ignorable}{0,9}\p{Cased})"  # bounded, as runs of modifiers may be long


def cleaned(text: str) -> str:
    """The text as open_clip cleans it; the case of its letters and its spaces are left to the tokenizer."""
    if not _SUSPECT.search(text) and (text.isascii() or (unicodedata.is_normalized("NFC", text) and not is_bad(text))):
        return text  # what ftfy would find too, in ten times as long
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    # an entity may hide another one, and ftfy leaves a text with "<" its entities: what came out of these is cleaned too
    return rules().normalize_str(text) if _SUSPECT.search(text) else text


@cache
def cleaning() -> str:
    """Which cleaning this is, in words that differ where texts may be cleaned otherwise."""
    whole = Tokenizer(models.BPE())
    whole.normalizer = rules()
    return f"cleaned {CLEANING_VERSION}, ftfy {version('ftfy')}, rules {hashlib.sha256(whole.to_str().encode()).hexdigest()[:16]}"


@cache
def rules() -> normalizers.Sequence:
    """The same as steps of a tokenizer's normalizer."""
    by_result = defaultdict(list)
    for code in _CHARACTERS:
        by_result[ftfy.fix_text(chr(code))].append(f"\\x{{{code:x}}}")
    steps = [(r"\x1b\[[\d;]*[a-zA-Z]", "")]  # how terminals are told colours
    steps += [(f"[{''.join(codes)}]", result) for result, codes in by_result.items()]
    steps += [*_entities(), (_FINAL_SIGMA, "ς")]
    replaced = [normalizers.Replace(Regex(pattern), result) for pattern, result in steps]
    return normalizers.Sequence([normalizers.NFC(), *replaced, normalizers.NFC()])


def _entities() -> list[tuple[str, str]]:
    """Patterns of the entities for characters of ASCII, Latin-1 and HTML 4, and what each becomes."""
    numbers = defaultdict(list)
    for code in sorted({*range(256), *name2codepoint.values()}, key=lambda code: (code != ord("&"), code)):
        numbers[html.unescape(f"&#{code};")].append(code)  # those of 128 to 159 mean Windows-1252, those of control characters nothing
    names = defaultdict(list)
    for name, character in HTML_ENTITIES.items():
        names[character].append(_named(name[1:-1]))
    found = []
    for character, codes in numbers.items():
        spelled = [*names[character], *(f"#0*{code}(?![0-9]);?|(?i:#x0*{code:x}(?![0-9a-f]));?" for code in codes)]
        again = "+" if character == "&" else ""  # &amp;amp; was escaped twice; it comes first, as it may begin another entity
        found.append((f"&(?:{'|'.join(spelled)}){again}", ftfy.fix_text(character)))
    return found


def _named(name: str) -> str:
    """The pattern of an entity's name. Some need no semicolon, where no longer name begins with theirs."""
    if name not in html5:
        return f"{name};"
    longer = [other[len(name) : -1] for other in html5 if other.startswith(name) and other.endswith(";") and other != f"{name};"]
    return f"{name}(?:;|(?!(?:{'|'.join(longer)});))" if longer else f"{name};?"
