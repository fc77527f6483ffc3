"""Letters in pictures that matplotlib's own font lacks: Chinese, Japanese, Korean and others.

A font of the system draws them, where there is one; eddy brings none along.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.credit import Credit

OWN = "DejaVu Sans"  # comes with matplotlib
LEFT_OUT = "\N{HORIZONTAL ELLIPSIS}"
# Among a system's fonts those that are looked into first: upright, of even strokes, whole.
FIRST = re.compile(
    r"(sans.*cjk|sourcehansans|notosanssc|wqy|droidsansfallback|msyh|simhei|pingfang|hiragino)"
    r"(?!.*bold)",
    re.IGNORECASE,
)
WIDER = 1.7  # times as wide as a Latin letter is a Chinese one
KANA = re.compile(r"[\u3040-\u30ff]")


def lacking(text: str) -> str:
    """The letters of a text that matplotlib's own font cannot draw, each once, in order."""
    if text.isascii():
        return ""
    from matplotlib import font_manager

    own = font_manager.get_font(font_manager.findfont(OWN))
    seen = (letter for letter in sorted(set(text)) if not letter.isspace())
    return "".join(letter for letter in seen if not own.get_char_index(ord(letter)))


@lru_cache(maxsize=64)
def family_of(letters: str) -> str:
    """The family of an installed font that has all of these letters; "" where there is none."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    files = sorted(font_manager.findSystemFonts(), key=lambda file: (not FIRST.search(file), file))
    for file in files:
        try:
            face = FT2Font(file)
            if not all(face.get_char_index(ord(letter)) for letter in letters):
                continue
            manager = font_manager.fontManager
            known = {entry.fname for entry in manager.ttflist}  # a list that may be older
            for each in {file, file.replace("Regular", "Bold")} & set(files) - known:
                manager.addfont(each)
        except (OSError, RuntimeError, NotImplementedError, KeyError):  # no font for matplotlib
            continue
        names = [entry.name for entry in manager.ttflist if entry.fname == file]
        simplified = [name for name in names if name.endswith("SC")]
        if names:
            return (names if KANA.search(letters) else simplified + names)[0]
    return ""


def families(*texts: str) -> list[str]:
    """What draws these texts, the usual font first; for `family` of matplotlib's texts."""
    letters = lacking("".join(texts))
    found = family_of(letters) if letters else ""
    return [OWN, found] if found else [OWN]


def using(texts: Iterable[str]) -> AbstractContextManager[Any]:
    """Inside, all texts of a picture are drawn with what draws these."""
    found = families(*texts)
    if len(found) == 1:
        return nullcontext()
    from matplotlib import rc_context

    return rc_context({"font.family": found})


def able(text: str) -> str:
    """A text without the letters that no font here can draw; an ellipsis stands for them."""
    letters = lacking(text)
    if not letters or family_of(letters):
        return text
    return re.sub(f"[{re.escape(letters)}]+", LEFT_OUT, text)


def credit_lines(credit: Credit, letters: int) -> list[str]:
    """The line below a picture, broken into two at most; letters: Latin ones that one holds."""
    rights = able(credit.rights)
    if rights != credit.rights:
        rights += f" ({LEFT_OUT}: letters that no font here has; the file's fields have them)"
    drawn = replace(credit, rights=rights)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in drawn.line)
    room = len(drawn.line) / (len(drawn.line) + (WIDER - 1) * wide) if wide else 1
    return drawn.lines(int(letters * room))
