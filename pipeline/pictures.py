"""Drawing: frames side by side as a PNG, and a sequence of such pictures as MP4 or GIF.

Infrared as forecasters are used to it: cold is bright, or coloured below -30 °C. Rain as maps of it
are: white where it is dry, then blue, green, yellow, red and violet by its logarithm. One scale for
all panels and all times; missing pixels hatched, unlike any value. Whose data they are is written
below, and in the file.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline import atomic, fonts
from pipeline.credit import NOBODY, Credit
from pipeline.errors import UsageError, UserError

if TYPE_CHECKING:  # half a second to import
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from pipeline.sources.grids import Grid

Palette = Literal["enhanced", "grey"]
Extent = tuple[float, float, float, float]  # left, right, bottom, top

MOVIES = (".mp4", ".gif")
JPEG = 75  # quality
GIF_WIDTH = 1000  # pixels; a GIF keeps all its frames in memory, and grows large
LEVELS = 255  # steps of a field drawn pixel by pixel: 0.5 K for infrared
GREY_FROM = 243.0  # K (-30 °C): warmer is grey, colder coloured
# K, colour: grey inverted, then the usual order of infrared enhancements. Lightness falls and
# rises with the colours, so that steps stay visible in a black-and-white print.
ENHANCED = (
    (180.0, "#ffffff"),
    (190.0, "#d7a6e8"),
    (196.0, "#6a1b6e"),
    (203.0, "#a30d12"),
    (213.0, "#f03b20"),
    (221.0, "#ffe23d"),
    (229.0, "#37b34a"),
    (236.0, "#1d5fd0"),
    (GREY_FROM, "#9fe0f2"),
    (GREY_FROM, "#dcdcdc"),
    (310.0, "#0a0a0a"),
)
INFRARED = "toa_brightness_temperature"  # standard name; of air the same kelvin mean other things
MM = "mm"  # what is measured in it is rain
DRY = "#ffffff"
# Evenly over the logarithm, from where it counts as wet. In the order of radar and gauge maps.
RAIN = (
    "#cfe8fa",
    "#86bdea",
    "#3b7fd0",
    "#1f9e8a",
    "#58bb43",
    "#f3e53c",
    "#f59a1d",
    "#dd2f1c",
    "#b3127a",
    "#4f1a7e",
)
WETTEST = 500  # the wettest colour is of so many times the least rain that counts as wet
AHEAD = 3  # times wider is the scale of a forecast's errors
ERRORS = 20  # and the scale of differences ends at so many times it
MISSING: dict[str, Any] = {
    "facecolor": "#f4e3ef",
    "edgecolor": "#b0679b",
    "hatch": "////",
    "linewidth": 0.0,
}


@dataclass(frozen=True)
class Look:
    """How numbers become colours."""

    colours: Colormap
    low: float
    high: float
    label: str
    extend: Literal["neither", "both"] = "both"
    logarithmic: bool = False  # what is below `low` is DRY

    def share(self, values: np.ndarray) -> np.ndarray:
        """Of the scale, 0 to 1; what is DRY is below 0. NaN stays."""
        if not self.logarithmic:
            return np.clip((values - self.low) / (self.high - self.low), 0, 1)
        seen = np.maximum(values, self.low)  # NaN stays
        share = np.log(seen / self.low) / np.log(self.high / self.low)
        return np.where(values < self.low, -1.0, np.minimum(share, 1))

    def values(self) -> np.ndarray:
        """(LEVELS,) the value of each colour of a field drawn pixel by pixel; DRY stands as 0."""
        if not self.logarithmic:
            return self.along(LEVELS)
        return np.concatenate([[0.0], self.along(LEVELS - 1)])

    def along(self, count: int) -> np.ndarray:
        """(count,) values evenly over the scale, from its low to its high end."""
        space = np.geomspace if self.logarithmic else np.linspace
        return space(self.low, self.high, count)

    def told(self, value: float) -> str:
        """A value of the scale, with as many digits as a mark beside it needs."""
        return f"{value:.2g}" if self.logarithmic and value < 100 else f"{value:.0f}"


@dataclass(frozen=True)
class Panel:
    """One field of a picture; all fields of a picture cover the same area."""

    title: str
    field: np.ndarray  # (H, W), rows from north to south; missing pixels NaN
    error: bool = False  # a difference: its own colours, symmetric about 0


@dataclass(frozen=True)
class Scene:
    """What is drawn in one picture."""

    title: str
    subtitle: str
    panels: Sequence[Panel]
    look: Look
    errors: Look
    extent: Extent
    unit: str  # of the extent
    zoom: Extent | None = None  # a second row shows this part
    # from what the extent counts: a frame's centre, the Earth's degrees east and north, or a map's
    # origin
    origin: Literal["centre", "earth", "map"] = "centre"
    credit: Credit = NOBODY  # for the data


def look(
    channel: Mapping[str, Any], palette: Palette = "enhanced", hours: float | None = None
) -> Look:
    """For one channel as a store describes it; hours: that rain was accumulated over."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    label = f"{channel['long_name']} [{channel['units']}]"
    if channel["units"] == "1":
        label = channel["long_name"]
    if channel["units"] == MM:
        label = f"{channel['long_name']}{f' in {hours:g} h' if hours else ''} [{MM}]"
        colours = LinearSegmentedColormap.from_list("rain", RAIN, N=LEVELS - 1)
        wet = least_rain(hours)
        return Look(colours.with_extremes(under=DRY), wet, WETTEST * wet, label, logarithmic=True)
    if channel["units"] != "K" or channel.get("standard_name", INFRARED) != INFRARED:
        return Look(colormaps["viridis"], channel["valid_min"], channel["valid_max"], label)
    low, high = ENHANCED[0][0], ENHANCED[-1][0]
    if palette == "grey":
        return Look(colormaps["gray_r"], 190.0, high, label)
    stops = [((kelvin - low) / (high - low), colour) for kelvin, colour in ENHANCED]
    return Look(LinearSegmentedColormap.from_list("enhanced", stops, N=1024), low, high, label)


def error_look(
    channel: Mapping[str, Any], what: str, hours: float | None = None, *, ahead: bool = False
) -> Look:
    """For differences of one channel: symmetric, the same for every picture.

    ahead: of forecasts, which err more than frames that are restored.
    """
    from matplotlib import colormaps

    label = f"{what} [{channel['units']}]" if channel["units"] != "1" else what
    wide = AHEAD if ahead else 1
    if channel["units"] == MM:  # brown is too dry, green too wet
        most = wide * ERRORS * least_rain(hours)
        return Look(colormaps["BrBG"], -most, most, label)
    most = wide * (channel["valid_max"] - channel["valid_min"]) / 18  # 10 K for infrared
    if channel["units"] == "1":  # black or white, as digits are
        most = channel["valid_max"] - channel["valid_min"]
    return Look(colormaps["RdBu_r"], -most, most, label)


def least_rain(hours: float | None) -> float:
    """What counts as wet, mm, of rain accumulated over so many hours."""
    from pipeline.metrics.rain import thresholds  # torch takes seconds to import

    return thresholds(hours or 1)[0]


def coloured(field: np.ndarray, style: Look) -> np.ndarray:
    """(H, W) physical units, NaN where missing -> (H, W, 3) uint8, one pixel for each.

    In LEVELS steps, so that a colour can be read back; what is missing is unlike any of them.
    """
    from matplotlib.colors import to_rgb

    steps = LEVELS - 1 - style.logarithmic  # the first of a logarithmic scale is DRY
    table = style.colours(np.linspace(0, 1, steps + 1))[:, :3]
    table = np.vstack([table, to_rgb(MISSING["facecolor"]), to_rgb(DRY)])
    share = style.share(field)
    level = np.where(share < 0, steps + 2, np.round(np.nan_to_num(share) * steps))
    level = np.where(np.isnan(share), steps + 1, level)
    made: np.ndarray = np.round(255 * table).astype(np.uint8)[level.astype(np.intp)]
    return made


def covered(grid: Grid, shape: tuple[int, int], finer: int = 1) -> Extent:
    """What `shape` rows and columns, counted from the north-west, cover: edges, not centres.

    finer: so many of them to a cell of the grid.
    """
    (H, W), (top, bottom), (left, right) = shape, edges(-grid.y), edges(grid.x)
    rows, columns = H // finer, W // finer
    if rows < len(grid.y):
        bottom = -(grid.y[rows - 1] + grid.y[rows]) / 2
    if columns < len(grid.x):
        right = (grid.x[columns - 1] + grid.x[columns]) / 2
    return (float(left), float(right), float(-bottom), float(-top))


def edges(centres: np.ndarray) -> tuple[float, float]:
    """Where the first of some rising cells begins and the last ends; of one alone its own place."""
    half = np.diff(centres) / 2 if len(centres) > 1 else np.zeros(1)
    return centres[0] - half[0], centres[-1] + half[-1]


def proportions(extent: Extent, origin: str) -> float:
    """Width by height, as on the ground."""
    left, right, bottom, top = extent
    shrunk = np.cos(np.radians((bottom + top) / 2)) if origin == "earth" else 1.0
    return float((right - left) * max(0.2, shrunk) / (top - bottom))


def degree(value: float, positive: str, negative: str) -> str:
    """As on a map: 150°E, 175°W, 0°, 180°; longitudes that went beyond 180 come back."""
    if positive == "E":
        value = (value + 180) % 360 - 180
    text = f"{abs(value):.2f}".rstrip("0").rstrip(".")
    if text == "0" or (positive == "E" and text == "180"):
        return f"{text}°"
    return f"{text}°{positive if value > 0 else negative}"


def encoded(image: np.ndarray, *, exact: bool, credit: Credit = NOBODY) -> bytes:
    """(H, W, 3) uint8 as a file for a browser: WebP with every pixel as it is, or a small JPEG."""
    from PIL import Image

    file, exif = io.BytesIO(), {} if credit == NOBODY else {"exif": credit.exif()}
    made = Image.fromarray(image)
    if exact:
        made.save(file, format="WEBP", lossless=True, quality=60, method=4, **exif)
    else:  # without subsampling: enhanced infrared is all in its colours
        made.save(file, format="JPEG", quality=JPEG, subsampling=0, **exif)
    return file.getvalue()


def write(path: Path, image: np.ndarray, credit: Credit = NOBODY, about: str = "") -> Path:
    """(H, W, 3) uint8 as a PNG, whole or not at all. about: of this picture.

    Raises OSError when the disk refuses.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    for name, value in credit.png(about).items():
        told.add_text(name, value)  # iTXt, where it is not Latin-1
    with atomic.replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", pnginfo=told)
    return path


def panels(path: Path, scene: Scene, dpi: int = 150) -> Path:
    """Draw a scene into a PNG, 16 inches wide."""
    said = " ".join(f"{scene.title} {scene.subtitle}".split())
    return saved(path, drawn(scene, dpi), scene.credit, said)


def saved(path: Path, figure: Figure, credit: Credit = NOBODY, about: str = "") -> Path:
    """A figure as a PNG, whole or not at all. about: of this picture."""
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=credit.png(about))
    return path


def image(scene: Scene, most: tuple[int, int] = (1600, 1080)) -> np.ndarray:
    """The same picture as pixels, (H, W, 3) uint8, no larger than `most` (width, height)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn(scene, dpi=100)
    width, height = figure.get_size_inches()
    figure.set_dpi(min(most[0] / width, most[1] / height))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# Inches. Fixed places instead of a layout engine: nothing may move from one picture of an animation
# to the next.
WIDTH, LEFT, RIGHT, GAP, TOP, ROW_GAP, BOTTOM = 16.0, 0.85, 0.2, 0.14, 1.12, 0.42, 1.3
EDGE = 0.07  # of a panel's width: no degree is written so near to its side
KEY = 1.6  # what the key to missing pixels takes of the colour bar's row
LINE = 0.19  # of the credit, below all
WRAPPED = 205  # letters of it in one line


def drawn(scene: Scene, dpi: int) -> Figure:
    told = (scene.title, scene.subtitle, scene.look.label, scene.errors.label, scene.credit.line)
    with fonts.using([*told, *(panel.title for panel in scene.panels)]):
        return laid_out(able(scene), dpi)


def able(scene: Scene) -> Scene:
    """With texts that the fonts of this system can draw; its credit says so itself."""
    return replace(
        scene,
        title=fonts.able(scene.title),
        subtitle=fonts.able(scene.subtitle),
        panels=[replace(panel, title=fonts.able(panel.title)) for panel in scene.panels],
        look=replace(scene.look, label=fonts.able(scene.look.label)),
        errors=replace(scene.errors, label=fonts.able(scene.errors.label)),
    )


def laid_out(scene: Scene, dpi: int) -> Figure:
    from matplotlib.figure import Figure

    count = len(scene.panels)
    rows = [scene.extent] if scene.zoom is None else [scene.extent, scene.zoom]
    wide = (WIDTH - LEFT - RIGHT - GAP * (count - 1)) / count
    tall = [wide / proportions(e, scene.origin) for e in rows]
    credit = fonts.credit_lines(scene.credit, WRAPPED)
    foot = LINE * len(credit)
    height = TOP + sum(tall) + ROW_GAP * (len(rows) - 1) + BOTTOM + foot
    figure = Figure((WIDTH, height), dpi=dpi, facecolor="white")

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / WIDTH, y / height, w / WIDTH, h / height))

    figure.text(LEFT / WIDTH, 1 - 0.22 / height, scene.title, va="top", size=17, weight="bold")
    figure.text(LEFT / WIDTH, 1 - 0.58 / height, scene.subtitle, va="top", size=12, color="0.3")
    y = height - TOP
    for row, (extent, h) in enumerate(zip(rows, tall, strict=True)):
        y -= h
        for number, panel in enumerate(scene.panels):
            axes = place(LEFT + number * (wide + GAP), y, wide, h)
            draw_field(axes, panel, scene, extent)
            if row == 0:
                axes.set_title(panel.title, size=13, pad=5)
                if scene.zoom:
                    draw_box(axes, scene.zoom)
            across, up = axis_labels(scene)
            if number == 0:
                axes.set_ylabel(up, size=11, labelpad=2)
            else:
                axes.tick_params(labelleft=False)
            if row == len(rows) - 1:
                axes.set_xlabel(across, size=11, labelpad=2)
        y -= ROW_GAP

    fields = sum(not panel.error for panel in scene.panels)  # errors stand at the right
    beyond = LEFT + fields * (wide + GAP)
    end = WIDTH - RIGHT if fields == count else beyond - GAP
    bar = 0.5 + foot
    draw_bar(place(LEFT + KEY, bar, min(end - LEFT - KEY, 9.0), 0.17), scene.look)
    if fields < count:
        inset = 0.1 * wide
        draw_bar(place(beyond + inset, bar, WIDTH - RIGHT - beyond - 2 * inset, 0.17), scene.errors)
    key = place(LEFT, bar, 0.42, 0.17)
    key.set(xticks=[], yticks=[])
    hatch(key)
    key.text(1.15, 0.5, "missing", transform=key.transAxes, va="center", size=11)
    if credit:
        told = "\n".join(credit)
        figure.text(LEFT / WIDTH, 0.06 / height, told, va="bottom", size=8, color="0.45")
    return figure


def axis_labels(scene: Scene) -> tuple[str, str]:
    """Of the axis across and of the one upwards."""
    if scene.origin == "earth":
        return "longitude [degrees east]", "latitude [degrees north]"
    of = " of centre" if scene.origin == "centre" else ""
    return f"{scene.unit} east{of}", f"{scene.unit} north{of}"


def draw_field(axes: Axes, panel: Panel, scene: Scene, extent: Extent) -> None:
    hatch(axes)
    field, covered = cut(panel.field, scene.extent, extent)
    style = scene.errors if panel.error else scene.look
    enlarged = field.shape[1] < 400
    axes.imshow(
        # colours, where what is dry must not be mixed with numbers
        opaque(field, style) if style.logarithmic else np.ma.masked_invalid(field),
        cmap=style.colours,
        vmin=style.low,
        vmax=style.high,
        extent=covered,
        origin="upper",
        interpolation="nearest" if enlarged else "antialiased",  # pixels are shown as they are
        aspect="auto",
        zorder=1,
    )
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.locator_params(nbins=5)
    axes.tick_params(labelsize=10, length=3)
    if scene.origin == "earth":
        # away from the ends, or labels would run into the next panel's
        margin = EDGE * (extent[1] - extent[0])
        within = extent[0] + margin, extent[1] - margin
        axes.set_xticks([tick for tick in axes.get_xticks() if within[0] <= tick <= within[1]])
        axes.xaxis.set_major_formatter(lambda value, _: degree(value, "E", "W"))
        axes.yaxis.set_major_formatter(lambda value, _: degree(value, "N", "S"))


def opaque(field: np.ndarray, style: Look) -> np.ndarray:
    """(H, W, 4) uint8, transparent where missing."""
    return np.dstack([coloured(field, style), np.where(np.isnan(field), 0, 255).astype(np.uint8)])


def cut(field: np.ndarray, extent: Extent, part: Extent) -> tuple[np.ndarray, Extent]:
    """The rows and columns of `field` that lie in `part`, and what exactly they cover."""
    H, W = field.shape
    left, right, bottom, top = extent
    dx, dy = (right - left) / W, (top - bottom) / H
    i = (max(0, int((top - part[3]) / dy)), min(H, int(np.ceil((top - part[2]) / dy))))
    j = (max(0, int((part[0] - left) / dx)), min(W, int(np.ceil((part[1] - left) / dx))))
    covered = (left + j[0] * dx, left + j[1] * dx, top - i[1] * dy, top - i[0] * dy)
    return field[i[0] : i[1], j[0] : j[1]], covered


def draw_box(axes: Axes, part: Extent) -> None:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = part
    for width, colour in ((2.6, "black"), (1.2, "white")):
        axes.add_patch(
            Rectangle(
                (left, bottom),
                right - left,
                top - bottom,
                fill=False,
                lw=width,
                ec=colour,
                zorder=2,
            )
        )


def hatch(axes: Axes) -> None:
    """What shows through where a pixel is missing."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=0, **MISSING))


def draw_bar(axes: Axes, style: Look) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if style.logarithmic else Normalize)(style.low, style.high)
    scale = ScalarMappable(norm, style.colours)
    bar = axes.figure.colorbar(scale, cax=axes, orientation="horizontal", extend=style.extend)
    if style.logarithmic:
        bar.set_ticks(round_values(style.low, style.high))
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bar.ax.minorticks_off()
    bar.set_label(style.label, size=11, labelpad=3)
    bar.ax.tick_params(labelsize=10)


def round_values(low: float, high: float) -> list[float]:
    """Between the two: 1, 2 and 5 times powers of ten."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    return [value for value in every if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def zoomed(extent: Extent, share: float) -> Extent:
    """The middle of an extent: that share of its smaller side, square."""
    left, right, bottom, top = extent
    half = share * min(right - left, top - bottom) / 2
    x, y = (left + right) / 2, (bottom + top) / 2
    return (x - half, x + half, y - half, y + half)


def animation(
    path: Path, images: Iterable[np.ndarray], fps: float = 5, credit: Credit = NOBODY
) -> int:
    """Images of one size, (H, W, 3) uint8, into a .mp4 or .gif; returns how many.

    An MP4 takes them one by one; a GIF keeps them, made smaller. Raises UsageError for another
    ending, ValueError for no image.
    """
    if path.suffix not in MOVIES:
        raise UsageError(f"{path}: an animation ends in {' or '.join(MOVIES)}")
    count = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal count
        for image in images:
            count += 1
            yield image

    film = write_gif if path.suffix == ".gif" else write_mp4
    with atomic.replacing(path) as temporary:
        film(temporary, counted(), fps, credit)
    return count


def write_mp4(path: Path, images: Iterator[np.ndarray], fps: float, credit: Credit) -> None:
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UserError(
            "no ffmpeg on this machine; ask for a GIF instead (--gif), or for none (--no-animation)"
        ) from None
    first = next(images, None)
    if first is None:
        raise ValueError(f"{path}: no image to animate")
    H, W = (side // 2 * 2 for side in first.shape[:2])  # H.264 halves the colours
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{W}x{H}", "-r", str(fps), "-i", "-"]
    # what old players and browsers also show; its index at the front, so that it starts at once
    made = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    told = credit.ffmpeg()
    command = [program, "-y", "-v", "error", *given, *made, *told, "-f", "mp4", str(path)]
    # Not imageio_ffmpeg.write_frames: it does not look at how ffmpeg ended (disk full).
    with TemporaryFile() as log, Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=log) as ffmpeg:
        assert ffmpeg.stdin is not None
        try:
            for image in chain([first], images):
                ffmpeg.stdin.write(image[:H, :W].tobytes())
            ffmpeg.stdin.close()
        except BrokenPipeError:
            pass  # its own words say why
        except BaseException:
            ffmpeg.kill()
            raise
        if ffmpeg.wait():
            log.seek(0)
            reason = " ".join(log.read().decode(errors="replace").split())[-200:]
            for refused in (errno.ENOSPC, errno.EDQUOT):
                if os.strerror(refused) in reason:
                    raise OSError(refused, os.strerror(refused), str(path))
            raise UserError(
                f"the animation could not be made: {reason or 'ffmpeg failed'}; ask for a GIF "
                "instead (--gif), or for none (--no-animation)"
            )


def write_gif(path: Path, images: Iterator[np.ndarray], fps: float, credit: Credit) -> None:
    from PIL import Image

    def reduced() -> Iterator[Image.Image]:
        palette: Image.Image | None = None
        for image in images:
            picture = Image.fromarray(image)
            if picture.width > GIF_WIDTH:
                picture = picture.resize((GIF_WIDTH, picture.height * GIF_WIDTH // picture.width))
            if palette is None:  # one for all, or colours would flicker
                palette = picture.quantize(256, method=Image.Quantize.MEDIANCUT)
            yield picture.quantize(palette=palette, dither=Image.Dither.NONE)

    pictures = reduced()
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path}: no image to animate")
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures,
        duration=round(1000 / fps),
        loop=0,
        comment=credit.comment(),
    )
