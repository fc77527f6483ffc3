"""Writes a small raw tree in the exact form of the Digital Typhoon release: drawn, not observed.

Every later stage runs on it where no data is: the demo, the tests. Form, names, metadata and faults
are the release's; the storms are invented, but move and look like storms.

A frame is drawn from a few sheets of power-law noise, carried around the centre by a differential
rotation and slowly renewed (two generations of each sheet fade into one another, so that no
interpolation error grows with time); thresholds turn noise into cloud tops with sharp edges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from pipeline.errors import UserError

MISSING = -19.1  # kelvin; what GMS3's lost lines read in the release
BLANK = 170.0  # kelvin; a blank frame is this everywhere
BOX_KM = 2560.0  # side of a frame, whatever its size in pixels: 512 pixels of 5 km
SPAN = 12  # hours a generation of texture lives; two live at once
HEADER = (
    "year,month,day,hour,grade,lat,lng,pressure,wind,dir50,long50,short50,dir30,long30,short30,"
    "landfall,intp,file_1,mask_1,mask_1_pct"
)
# the forms seen in released files: the dataset's name, long_name, units
FORMS = {
    "Infrared": (b"Brightness temperature", b"K (kelvin)"),
    "infrared": (b"temperature", b"kelvin"),
    "Data": None,  # V3's; said of it is the name alone
}
CHANNELS = (1, 2, 3, 4)  # of V3: infrared, a second one, water vapour, near infrared


@dataclass(frozen=True)
class Storm:
    """One invented typhoon. All tuples of hours count from `start`; such hours are images.

    A southern latitude spins the other way. With `step_hours=3`, hours between images have no file.
    """

    id: str = "202101"  # season and storm number, not year and month
    start: datetime = datetime(2021, 7, 19, tzinfo=UTC)  # of the first image
    hours: int = 12  # from the first image to after the last
    step_hours: int = 1
    satellite: str = "HMW8"
    name: str | None = None
    latitude: float = 18.0  # degrees north, at start
    longitude: float = 135.0  # degrees east, at start; the track may cross 180
    heading: float = 300.0  # degrees clockwise from north
    turn: float = 15.0  # degrees per day, clockwise: storms recurve
    speed: float = 10.0  # knots
    wind: tuple[float, float] = (45.0, 75.0)  # knots, at the first and the last image
    margin: int = 6  # hours of best track before and after the images, without images
    gaps: tuple[int, ...] = ()  # hours without a file
    blank: tuple[int, ...] = ()  # one value everywhere
    bad_pixels: tuple[int, ...] = ()  # lost lines at the bottom
    truncated: tuple[int, ...] = ()  # files cut off: HDF5 cannot open them

    def image_hours(self) -> list[int]:
        """Hours since start that have a file."""
        return [h for h in range(0, self.hours, self.step_hours) if h not in self.gaps]

    def file_name(self, hour: int, channel: int = 1) -> str:
        when = f"{self.start + timedelta(hours=hour):%Y%m%d%H}"
        return f"{when}-{self.id}-{self.satellite}-{channel}.h5"

    def channels(self) -> tuple[int, ...]:
        """Those that its satellite has: of the GMS the first four had one, the fifth three."""
        if self.satellite.startswith("GMS"):
            return CHANNELS[:3] if self.satellite == "GMS5" else CHANNELS[:1]
        return CHANNELS


def demo_storms(hours: int = 12) -> list[Storm]:
    """Three storms for training, one of another season for evaluation; the faults of a release."""
    late = hours - 1
    return [
        Storm("202101", hours=hours, gaps=(hours // 2,), wind=(85, 105)),
        Storm(
            "202102",
            datetime(2021, 9, 3, 6, tzinfo=UTC),
            hours,
            latitude=24.0,
            longitude=150.0,
            heading=340.0,
            wind=(40, 60),
            blank=(late,),
        ),
        Storm(
            "198701",
            datetime(1987, 4, 9, 19, tzinfo=UTC),
            hours,
            satellite="GMS3",
            latitude=9.0,
            longitude=144.0,
            heading=280.0,
            wind=(25, 40),
            bad_pixels=(0, late),
        ),
        Storm(
            "200701",
            datetime(2007, 10, 3, tzinfo=UTC),
            hours,
            satellite="MTS1",
            latitude=20.0,
            longitude=147.0,
            heading=30.0,
            speed=12.0,
            wind=(60, 90),
        ),
    ]


def write_tree(
    root: Path,
    storms: Sequence[Storm],
    *,
    size: int = 512,
    seed: int = 0,
    dataset: Literal["Infrared", "infrared"] = "Infrared",
    image_folders: Literal["id", "month"] = "id",
    metadata: bool = True,
    channels: Sequence[int] = (),
    progress: Callable[[], None] | None = None,
) -> list[Path]:
    """Write image/ and metadata/ under root, which must be new or empty; returns the images' paths.

    `image_folders="month"` regroups the images by calendar month (YYYYMM), as some users do.
    `channels` of CHANNELS make it a tree of V3: `<channel>/<WP or AU>/image` with the dataset
    `Data`, of each storm those that its satellite has. `progress` is called after each image. The
    same seed gives the same bytes; a storm depends on
    no other storm. Raises UserError for storms that cannot be, or a root that holds anything.
    """
    _check(root, storms, size, seed, dataset, image_folders, channels)
    written: list[Path] = []
    entries: dict[Path, dict[str, object]] = {}
    for storm in storms:
        for channel in [c for c in channels if c in storm.channels()] or ([] if channels else [1]):
            tree = (
                root / str(channel) / ("AU" if storm.latitude < 0 else "WP") if channels else root
            )
            flagged = {}
            for hour, frame in frames(storm, size=size, seed=seed, channel=channel):
                month = f"{storm.start + timedelta(hours=hour):%Y%m}"
                folder = tree / "image" / (storm.id if image_folders == "id" else month)
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / storm.file_name(hour, channel)
                _write_frame(path, frame, "Data" if channels else dataset)
                if hour in storm.truncated:
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                flagged[hour] = int(((frame < 150) | (frame > 330)).sum())  # as mask_1 counts them
                written.append(path)
                if progress:
                    progress()
            if metadata:
                table = tree / "metadata" / f"{storm.id}.csv"
                table.parent.mkdir(parents=True, exist_ok=True)
                lines = _best_track(storm, flagged, size, channel)
                table.write_text("\n".join(lines) + "\n", encoding="utf-8")
                entries.setdefault(tree, {})[storm.id] = _entry(storm)
    for tree, about in entries.items():
        (tree / "metadata.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    return written


def frames(
    storm: Storm, *, size: int = 512, seed: int = 0, channel: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Each image's hour since start, and its pixels as its file holds them, faults included.

    (size, size) float64, kelvin, rows from north to south; every sound pixel is a value of
    calibration(satellite), lost pixels are -19.1.
    """
    scene = _Scene(storm, size, seed)
    table = calibration(storm.satellite)
    for hour in storm.image_hours():
        if hour in storm.blank:
            yield hour, np.full((size, size), BLANK)
            continue
        frame = table[_counts(_seen_in(channel, scene.draw(hour)), len(table))]
        if hour in storm.bad_pixels:
            _lose_lines(frame, table, np.random.default_rng((seed, int(storm.id), hour)))
        yield hour, frame


def _seen_in(channel: int, kelvin: np.ndarray) -> np.ndarray:
    """What a channel of V3 would see of the infrared scene, roughly.

    Moist air dims the second infrared channel where it is warm; in the water vapour channel the
    ground is hidden; the near infrared is a little warmer.
    """
    if channel == 2:
        return kelvin - 0.02 * np.maximum(kelvin - 210, 0)
    if channel == 3:
        return np.minimum(kelvin, 225 + 0.25 * (kelvin - 225))
    return kelvin + 1.5 if channel == 4 else kelvin


# Calibration. Counts are linear in radiance, so their temperatures lie denser where it is warm: in
# the release 0.11 K apart at 298 K and 0.4 K at 200 K (MTS1), 0.48 and 1.6 K (GMS3, 8 bits). HMW8
# has 12 bits, but its released frames step by 0.1 K at 297 K as if it had 10.
_C2_NU = 1.438777 * 925.0  # K; second radiation constant, 10.8 µm
_TOP = 336.0  # K, of the last count; GMS3's saturated pixels read 334 to 336 K


def calibration(satellite: str) -> np.ndarray:
    """The temperature of every count, coldest first: float64 kelvin, strictly rising."""
    levels = 256 if satellite.startswith("GMS") else 1024
    radiance = np.arange(1, levels + 1) / levels / np.expm1(_C2_NU / _TOP)
    return np.round(_C2_NU / np.log1p(1 / radiance), 6)


def _counts(kelvin: np.ndarray, levels: int) -> np.ndarray:
    """The nearest count of each temperature, as an index into the table."""
    radiance = np.expm1(_C2_NU / _TOP) / np.expm1(_C2_NU / kelvin)
    return np.clip(np.rint(radiance * levels).astype(np.intp) - 1, 0, levels - 1)


class _Scene:
    """One storm's sky at any hour; centre in the middle, north up.

    Its numbers were set by eye beside released frames (MTS1, GMS3, HMW8), until the spectrum, the
    error of x4 bicubic and the correlation from hour to hour came near to theirs.
    """

    def __init__(self, storm: Storm, size: int, seed: int) -> None:
        self.storm, self.size = storm, size
        self.key = (seed, int(storm.id))
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * BOX_KM
        # a southern storm is a northern one seen in a mirror
        self.x, self.y = np.meshgrid(axis, axis if storm.latitude < 0 else -axis)
        self.r = np.hypot(self.x, self.y)  # km
        self.angle = np.arctan2(self.y, self.x)  # radians, counter-clockwise from east
        self.log_r = np.log(self.r / 60 + 0.3)
        rng = np.random.default_rng(self.key)
        self.arms = rng.uniform(0, 2 * np.pi, 3)  # phases of the bands
        self.tilt = rng.uniform(1.6, 2.6)  # how tightly the bands wind
        self.lopsided = rng.uniform(0.3, 0.7)
        self.sheets: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def draw(self, hour: float) -> np.ndarray:
        """Brightness temperature (size, size), float64 kelvin, before calibration."""
        wind = _wind(self.storm, hour)
        strength = np.clip((wind - 20) / 80, 0, 1.2)
        spin = (0.2 + 0.35 * strength) / (1 + (self.r / 130) ** 1.3)  # radians per hour
        mass, cells, low, fibres = self._textures(hour, spin)

        # sea, and stratocumulus below it all
        sea = 297 - 0.25 * abs(self.storm.latitude) * (1 + self.y / BOX_KM) / 2 + 0.5 * mass
        patch = np.clip(2.0 * (low + 0.35 * cells - 0.7), 0, 1)
        scene = sea - patch * (7 + 2.5 * cells + 2 * low)

        # deep cloud: a central dense overcast, bands, and whatever the noise lifts
        turn = self.angle + self.tilt * self.log_r - 0.09 * hour + 0.35 * mass
        bands = np.cos(2 * turn + self.arms[0]) + self.lopsided * 1.6 * np.cos(turn + self.arms[1])
        reach = np.exp(-((self.r / (560 + 250 * strength)) ** 2))
        core = np.exp(-((self.r / (170 + 130 * strength)) ** 4))
        humid = np.cos(self.angle - self.arms[2]) * self.r / (self.r + 500)
        lift = (1.3 + 0.8 * strength) * core + (0.55 + 0.85 * bands * (1 - 0.5 * core)) * reach
        lift = lift + 0.5 * mass + 0.35 * humid + (0.27 * cells + 0.2 * fibres) - 1.05
        depth = np.maximum(lift, 0)
        tops = 280 - 68 * (1 - np.exp(-depth / 0.35)) - 11 * depth + 3 * cells
        deep = np.clip(lift / 0.2, 0, 1)
        scene = scene + deep * (np.minimum(tops, scene) - scene)

        # cirrus, blown outward: translucent, in streaks
        veil = 2.2 * reach + 0.6 * bands * reach + 0.6 * mass + 0.5 * humid + 0.75 * fibres
        emissivity = 1 - np.exp(-(0.12 + reach) * np.exp(1.2 * (veil + 0.15 * cells) - 1.9))
        cold = 228 - 14 * core - 7 * mass - 3 * cells - 3 * fibres
        scene = scene + emissivity * (np.minimum(cold, scene) - scene)

        if wind > 60:  # the eye opens
            radius = 30 - 6 * strength
            eye = (1 / (1 + np.exp((self.r - radius) / 4))) * np.clip((wind - 60) / 30, 0, 1)
            scene = scene + eye * (288 - scene)
        return scene.astype(np.float64)

    def _textures(self, hour: float, spin: np.ndarray) -> np.ndarray:
        """Mass, cells, low cloud and fibres: (4, size, size) float32, about unit variance."""
        total = np.zeros((4, self.size, self.size), np.float32)
        half = SPAN / 2
        newest = int(np.floor(hour / half))
        for generation in (newest - 1, newest):
            age = hour - generation * half  # hours, 0..SPAN
            weight = np.float32(np.sin(np.pi * age / SPAN))  # squares of the two add up to 1
            flat, wound = self._sheet(generation)
            back = self.angle - spin * (age + 1)  # wound up from birth: bands trail
            near = self.r * (1 - 0.006 * age)  # outflow: what is here came from nearer
            n = len(flat)
            col = (near * np.cos(back) / BOX_KM + 0.5) * n
            row = (0.5 - near * np.sin(back) / BOX_KM) * n
            total[:3] += weight * _sample(flat, row, col)
            spiral = (back - 0.5 * self.log_r) / (2 * np.pi) * wound.shape[1]
            out = (self.log_r - 0.03 * age) / 8 * wound.shape[0]
            total[3:] += weight * _sample(wound, out, spiral)
        return total

    def _sheet(self, generation: int) -> tuple[np.ndarray, np.ndarray]:
        if generation not in self.sheets:
            rng = np.random.default_rng((*self.key, generation + 10_000))
            n = 3 * self.size // 2
            flat = np.stack([_noise(rng, n, n, s, self.size) for s in (3.8, 2.4, 3.0)], axis=-1)
            wound = _noise(rng, self.size, 3 * self.size, 2.4, self.size)[..., None]
            self.sheets[generation] = (flat, wound)
            self.sheets.pop(generation - 2, None)
        return self.sheets[generation]


def _noise(
    rng: np.random.Generator, rows: int, columns: int, slope: float, size: int
) -> np.ndarray:
    """(rows, columns) float32, periodic, zero mean, unit variance, power falling as k^-slope.

    Levels off below k = 2, so that no single cloud fills the frame; fades beyond a frame's finest
    waves as a sensor does.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32))
    k = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns) * columns)
    power = (k**2 + 4) ** (-slope / 2) * np.exp(-2 * (k / (0.5 * size)) ** 2)
    power[0, 0] = 0
    noise = np.fft.irfft2(spectrum * np.sqrt(power, dtype=np.float32), s=(rows, columns))
    return (noise / noise.std()).astype(np.float32)


def _sample(sheet: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bilinear, periodic: sheet (rows, columns, n) at fractional places (H, W) -> (n, H, W)."""
    rows, columns, n = sheet.shape
    top, left = np.floor(row), np.floor(column)
    down, right = (row - top)[..., None], (column - left)[..., None]
    i, j = top.astype(np.int32) % rows, left.astype(np.int32) % columns
    i2, j2 = (i + 1) % rows, (j + 1) % columns
    flat = sheet.reshape(-1, n)
    upper = flat[i * columns + j] * (1 - right) + flat[i * columns + j2] * right
    lower = flat[i2 * columns + j] * (1 - right) + flat[i2 * columns + j2] * right
    return np.moveaxis(upper * (1 - down) + lower * down, -1, 0)


def _lose_lines(frame: np.ndarray, table: np.ndarray, rng: np.random.Generator) -> None:
    """What the release's 198702 shows at the bottom, drawn into frame (H, W), kelvin.

    Lines of -19.1, a fringe of saturated pixels at their left end, and amid them a step wedge: a
    test pattern whose values look sound. About 19 % of the frame is lost, and the wedge besides.
    """
    size = len(frame)
    column, row = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
    row = row - 0.016 * column  # scan lines are tilted on the map
    steps = np.linspace(267, 293, 7)[np.minimum(column * 7, 6).astype(int)]
    wedge = (row >= 0.797) & (row < 0.883)
    frame[row >= 0.71] = MISSING
    frame[wedge] = table[_counts(steps[wedge], len(table))]
    fringe = np.argwhere((row >= 0.72) & (row < 0.79) & (column < 0.02 + 1 / size))
    chosen = fringe[rng.choice(len(fringe), -(-len(fringe) // 4), replace=False)]
    frame[tuple(chosen.T)] = table[-1]


def _write_frame(path: Path, frame: np.ndarray, dataset: str) -> None:
    """The release's HDF5 form, to the attribute."""
    about = FORMS[dataset]
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            dataset,
            data=frame.astype("<f8"),
            chunks=tuple(min(256, side) for side in frame.shape),
            compression="gzip",
            compression_opts=9,
            shuffle=False,
            track_times=False,  # the same frame gives the same bytes
        )
        if about:
            data.attrs["long_name"], data.attrs["units"] = map(np.bytes_, about)


def _wind(storm: Storm, hour: float) -> float:
    """Knots; linear between the first and the last image, constant outside."""
    return float(np.interp(hour, (0, max(storm.hours - 1, 1)), storm.wind))


def _place(storm: Storm, hours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude, degrees, longitude not wrapped at 180."""
    steps = np.arange(-999, 1000)  # hours; more than any storm lives
    course = np.radians(storm.heading + storm.turn * steps / 24)
    north = np.cumsum(storm.speed * np.cos(course)) / 60  # a nautical mile is a minute of latitude
    east = np.cumsum(storm.speed * np.sin(course)) / 60 / np.cos(np.radians(storm.latitude))
    now = np.searchsorted(steps, hours)
    start = np.searchsorted(steps, 0)
    return storm.latitude + north[now] - north[start], storm.longitude + east[now] - east[start]


def _best_track(storm: Storm, flagged: dict[int, int], size: int, channel: int) -> list[str]:
    """The lines of metadata/<id>.csv: a row for every hour, analysed at 0, 6, 12 and 18 UTC.

    Between those, positions, pressure and wind are interpolated to six digits (intp 1). As in the
    JMA's best track, the wind of a depression is 0. flagged: mask_1 of the hours with an image.
    """
    first = -storm.margin - (storm.start.hour - storm.margin) % 6
    last = storm.hours - 1 + storm.margin
    nodes = np.arange(first, last + 6, 6)
    latitude, longitude = (np.round(a, 1) for a in _place(storm, nodes))
    winds = np.array([5 * round(_wind(storm, float(h)) / 5) for h in nodes])
    # Atkinson and Holliday (1977), turned round
    pressures = np.round(1010 - (winds / 6.7) ** (1 / 0.644))
    winds[winds < 35] = 0
    grades = 2 + np.digitize(winds, (35, 50, 65))
    lines = [HEADER.replace("_1", f"_{channel}")]
    for hour in range(first, int(nodes[-1]) + 1):
        when = storm.start + timedelta(hours=hour)
        node = (hour - first) // 6
        wind = float(np.interp(hour, nodes, winds))
        longest = [int(factor * wind) if wind >= at else 0 for at, factor in ((50, 0.8), (35, 3))]
        radii = [n for r in longest for n in (9 if r else 0, r, r)]  # 9: the same all round
        numbers = [
            np.interp(hour, nodes, latitude),
            (np.interp(hour, nodes, longitude) + 180) % 360 - 180,
            np.interp(hour, nodes, pressures),
            wind,
        ]
        image: list[object] = ["", "", ""]
        if hour in flagged:
            share = round(100 * flagged[hour] / size**2, 4)
            image = [storm.file_name(hour, channel), flagged[hour], share]
        row = [when.year, when.month, when.day, when.hour, grades[node]]
        row += [f"{number:.6g}" for number in numbers]
        row += [*radii, 0, int(when.hour % 6 != 0), *image]
        lines.append(",".join(map(str, row)))
    return lines


def _entry(storm: Storm) -> dict[str, object]:
    """The storm's entry of metadata.json; its days are those of the images."""
    days = [storm.start + timedelta(hours=h) for h in storm.image_hours()]
    return {
        "id": storm.id,
        "number": int(storm.id[4:]),
        "season": int(storm.id[:4]),
        "name": storm.name,
        "images": len(days),
        "start": f"{days[0]:%Y-%m-%d}",
        "end": f"{days[-1]:%Y-%m-%d}",
    }


def _check(
    root: Path,
    storms: Sequence[Storm],
    size: int,
    seed: int,
    dataset: str,
    image_folders: str,
    channels: Sequence[int],
) -> None:
    """Raise UserError with every fault of the request at once."""
    faults = []
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        faults.append(f"{root} is not an empty folder; name a new one")
    if size < 16:
        faults.append(f"size is {size}, expected at least 16")
    if seed < 0:
        faults.append(f"seed is {seed}, expected 0 or more")
    if dataset not in FORMS:
        faults.append(f"dataset is {dataset!r}, expected one of {', '.join(FORMS)}")
    if image_folders not in ("id", "month"):
        faults.append(f"image_folders is {image_folders!r}, expected id or month")
    if set(channels) - set(CHANNELS):
        faults.append(f"channels are {[*channels]}, expected some of {[*CHANNELS]}")
    if not storms:
        faults.append("there are no storms")
    ids = [storm.id for storm in storms]
    if len(set(ids)) < len(ids):
        faults.append(f"the ids {', '.join(ids)} repeat")
    for storm in storms:
        faults += [f"storm {storm.id}: {fault}" for fault in _faults(storm)]
    if faults:
        raise UserError("synthetic tree: " + "; ".join(faults) + ".")


def _faults(storm: Storm) -> Iterator[str]:
    if not re.fullmatch(r"[0-9]{6}", storm.id):
        yield "expected an id of six digits, season and number"
    if not re.fullmatch(r"[A-Z0-9]+", storm.satellite):
        yield f"satellite is {storm.satellite!r}, expected capitals and digits"
    if storm.start.utcoffset() != timedelta(0):
        yield f"start is {storm.start}, expected a time in UTC (tzinfo=UTC)"
    if (storm.start.minute, storm.start.second, storm.start.microsecond) != (0, 0, 0):
        yield f"start is {storm.start}, expected a full hour"
    if not -60 <= storm.latitude <= 60:
        yield f"latitude is {storm.latitude}, expected -60 to 60"
    if storm.step_hours < 1 or not 1 <= storm.hours <= 900 or not 0 <= storm.margin <= 48:
        yield "expected step_hours of at least 1, 1 to 900 hours, a margin of 0 to 48"
        return
    if not storm.image_hours():
        yield "every hour is a gap"
    for name in ("blank", "bad_pixels", "truncated"):
        if stray := sorted(set(getattr(storm, name)) - set(storm.image_hours())):
            yield f"{name} names hours without an image: {', '.join(map(str, stray))}"
