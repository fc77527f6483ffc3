"""Small pictures: in a terminal, by half-block characters or plain letters; as PNG within a page.

The colours are pictures.py's: cold is bright, or coloured below -30 °C.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

from pipeline.pictures import MISSING, Look

SIDE = 128  # pixels of a small picture
PICTURES = 48  # of a whole tree or store
PER_TRACK = 4
WIDEST = 80  # characters of a picture in a terminal
SCALE = 8  # characters that the scale beside it takes
RAMP = " .:-=+*#%@"  # warm to cold: cold is bright; dry to wet
NO_VALUE = "?"
MISSING_HERE = "#ff4fa3"  # in a terminal, where stripes would be too coarse: in no palette
HALF_BLOCK = "▀"  # its upper half is the foreground, its lower half the background
HATCH = 4  # pixels of a stripe where a pixel is missing


@dataclass(frozen=True)
class Thumbnail:
    """One small picture of one frame."""

    track: str
    time: str  # ISO, UTC
    satellite: str
    state: str  # a word of timeline.STATES
    image: np.ndarray  # (h, w) float32, physical units, NaN where missing


def allotted(ids: Sequence[str]) -> dict[str, int]:
    """How many pictures each track gets: of many tracks, one of some that are spread evenly."""
    each = min(PER_TRACK, PICTURES // max(1, len(ids)))
    if each:
        return dict.fromkeys(ids, each)
    return {ids[round(i)]: 1 for i in np.linspace(0, len(ids) - 1, PICTURES)}


def spread(frames: int, count: int) -> set[int]:
    """At most `count` numbers of frames, evenly spread and away from both ends."""
    return {round(i) for i in np.linspace(0, frames - 1, count + 2)[1:-1]} if count else set()


def shrunk(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) float32 means of (H, W), or of fewer rows and columns where it has no more.

    A block is NaN where more than half of its pixels are.
    """
    H, W = image.shape
    rows, columns = min(rows, H), min(columns, W)
    top, left = np.arange(rows) * H // rows, np.arange(columns) * W // columns
    seen = ~np.isnan(image)

    def blocks(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, top, axis=0), left, axis=1)

    count, whole = blocks(seen.astype(float)), blocks(np.ones((H, W)))
    total = blocks(np.where(seen, image, 0).astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count * 2 >= whole, total / count, np.nan).astype(np.float32)


def colours(image: np.ndarray, look: Look) -> np.ndarray:
    """(h, w, 3) uint8; missing pixels are striped, unlike any temperature."""
    coloured = look.colours(np.nan_to_num(look.share(image)), bytes=True)[..., :3].copy()
    gone = np.isnan(image)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    stripes = (x + y) // HATCH % 2 == 0
    coloured[gone & stripes] = rgb(MISSING["edgecolor"])
    coloured[gone & ~stripes] = rgb(MISSING["facecolor"])
    return coloured


def rgb(hexadecimal: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(hexadecimal[1:]))  # type: ignore[return-value]


def in_terminal(image: np.ndarray, look: Look, width: int, *, coloured: bool) -> list[Text]:
    """Lines of at most `width` characters: a picture of (H, W), its scale of units beside it.

    coloured: by two pixels to a character, else by one letter, where a character is taken to be
    twice as high as wide.
    """
    H, W = image.shape
    across = max(8, min(width - SCALE, WIDEST, W))
    lines = max(2, round(H * across / W / 2))
    draw = half_blocks if coloured else letters
    picture = draw(image, look, lines, across)
    scale = beside(look, len(picture), coloured=coloured)
    return [Text.assemble(line, "  ", mark) for line, mark in zip(picture, scale, strict=True)]


def half_blocks(image: np.ndarray, look: Look, lines: int, across: int) -> list[Text]:
    small = shrunk(image, 2 * lines, across)
    if len(small) % 2:
        small = small[:-1]
    pixels = colours(small, look)
    pixels[np.isnan(small)] = rgb(MISSING_HERE)
    return [
        Text.assemble(*(cell(*pair) for pair in zip(upper, lower, strict=True)))
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True)
    ]


def cell(upper: Sequence[int], lower: Sequence[int]) -> tuple[str, Style]:
    over, under = (Color.from_rgb(*colour) for colour in (upper, lower))
    return HALF_BLOCK, Style(color=over, bgcolor=under)


def letters(image: np.ndarray, look: Look, lines: int, across: int) -> list[Text]:
    small = shrunk(image, lines, across)
    share = np.maximum(look.share(small), 0)
    bright = share if look.logarithmic else 1 - share
    places = np.nan_to_num(bright * (len(RAMP) - 1)).round().astype(int)
    drawn = np.where(np.isnan(small), NO_VALUE, np.array(list(RAMP))[places])
    return [Text("".join(line)) for line in drawn]


def beside(look: Look, lines: int, *, coloured: bool) -> list[Text]:
    """The scale, one mark to a line, cold at the top as in the clouds' height."""
    values = look.along(lines)
    numbered = {round(i) for i in np.linspace(0, lines - 1, max(2, min(7, lines // 3)))}
    marks = half_blocks(values[:, None].repeat(2, 0), look, lines, 1) if coloured else letters(
        values[:, None], look, lines, 1
    )  # fmt: skip
    return [
        Text.assemble(mark, f" {look.told(value)}" if number in numbered else "")
        for number, (mark, value) in enumerate(zip(marks, values, strict=True))
    ]


def png(image: np.ndarray, look: Look) -> bytes:
    """(h, w) as a PNG of as many pixels."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, colours(image, look), format="png")
    return file.getvalue()


def inline(image: np.ndarray, look: Look) -> str:
    """The PNG as a URL that carries its own data."""
    return "data:image/png;base64," + base64.b64encode(png(image, look)).decode()


def gradient(look: Look, stops: int = 48) -> str:
    """The scale as CSS, low to high."""
    line = colours(look.along(stops)[None], look)[0]
    return "linear-gradient(to right, " + ", ".join("#" + bytes(c).hex() for c in line) + ")"
