"""What reports are made of: charts, track maps, the choice of frames, pixels as pictures."""

from __future__ import annotations

import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline import pictures
from pipeline.reporting import charts, choice, storyboard, tables, trackmap, words
from pipeline.reporting.charts import Axis, Line, Mark, Scale
from pipeline.reporting.choice import Scored
from pipeline.reporting.trackmap import Course
from pipeline.sources import Variable

HOUR = 3600
INFRARED = {"units": "K", "long_name": "temperature", "valid_min": 150.0, "valid_max": 330.0}


def paths(svg: str, number: int) -> list[str]:
    """The strokes of one line, as pieces that are drawn without a break."""
    group = re.search(rf'<g class="line-{number}"><title>.*?</g>', svg)
    assert group
    stroke = re.search(r'class="stroke"[^>]* d="([^"]*)"', group[0])
    return stroke[1].split(" ") if stroke else []


def test_a_gap_in_time_is_a_gap_in_the_line() -> None:
    x = [0, HOUR, 2 * HOUR, 5 * HOUR, 6 * HOUR]
    line = Line("model", x, [3.0, 3.1, 3.2, 3.1, 3.0], 1, gap=1.5 * HOUR)
    svg = charts.chart("errors", [line], Axis("UTC", "time"), Axis("RMSE [K]"))
    assert [piece.count(",") for piece in paths(svg, 1)] == [3, 2]


def test_what_is_undefined_breaks_a_line_and_alone_is_a_point() -> None:
    line = Line("model", [1, 2, 3, 4, 5], [1.0, None, 2.0, math.nan, 3.0], 1)
    svg = charts.chart("t", [line], Axis("x"), Axis("y"))
    assert paths(svg, 1) == []
    assert svg.count('transform="translate(') - svg.count("rotate") == 3


def test_points_lie_where_the_axes_say() -> None:
    scale = Scale.of(Axis("x", low=0.0, high=10.0), [2.0], 100, 300)
    assert [scale(v) for v in (0, 5, 10)] == [100, 200, 300]
    log = Scale.of(Axis("x", "log", reverse=True), [10.0, 1000.0], 0, 200)
    assert [log(v) for v in (1000, 100, 10)] == pytest.approx([0, 100, 200])


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (3.42, 3.78, ["3.5", "3.6", "3.7"]),
        (-1.1, 1.1, ["\N{MINUS SIGN}1.0", "\N{MINUS SIGN}0.5", "0.0", "0.5", "1.0"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, wanted: list[str]) -> None:
    found = charts.linear_ticks(low, high, 5)
    assert [text for _, text in found] == wanted
    assert all(low <= value <= high for value, _ in found)


def test_ticks_of_powers_and_of_times() -> None:
    assert [t for _, t in charts.log_ticks(10, 1000, 7)] == [
        "10", "20", "50", "100", "200", "500", "1000",
    ]  # fmt: skip
    assert [t for _, t in charts.log_ticks(1e-6, 1e6, 7)] == [
        "10⁻⁶", "10⁻⁴", "10⁻²", "10⁰", "10²", "10⁴", "10⁶",
    ]  # fmt: skip
    start = 545_000_400  # 1987-04-09 21:00 UTC
    ticks = charts.time_ticks(start, start + 12 * HOUR, 7)
    assert [t for _, t in ticks] == ["9 Apr 22h", "10 Apr", "02h", "04h", "06h", "08h"]
    assert all(value % (2 * HOUR) == 0 for value, _ in ticks)


@pytest.mark.parametrize("values", [[], [None, None], [5.0, 5.0], [math.nan, 2.0]])
@pytest.mark.parametrize("kind", ["linear", "log"])
def test_a_chart_of_little_or_nothing_is_still_sound(values: list[float], kind: str) -> None:
    line = Line("a < b & c", list(range(1, len(values) + 1)), values, 3)
    svg = charts.chart('of "all" <that>', [line], Axis("x"), Axis("y", kind))
    ElementTree.fromstring(svg)
    ElementTree.fromstring(charts.legend([line]))
    assert "nan" not in svg
    assert ("no value" in svg) == (not any(v is not None and v == v for v in values))


def test_lines_differ_without_their_colours() -> None:
    assert len(set(charts.STYLES)) == len(charts.STYLES)
    marked = [marker for _, marker in charts.STYLES[1:]]
    assert len(set(marked)) == len(marked)


def test_a_mark_stands_at_its_place() -> None:
    lines = [Line("truth", [0, 10], [0, 1], 0)]
    axis = Axis("x", low=0.0, high=10.0)
    svg = charts.chart("t", lines, axis, Axis("y"), [Mark(5.0, 2)])
    middle = (charts.LEFT + charts.LARGE[0] - charts.RIGHT) / 2
    assert f'd="M{middle:.1f},' in svg


# --- track maps


def course(**columns: list[float]) -> Course:
    made = Course.of(
        {
            name: Variable(np.array(v, np.float32), {"units": "hPa", "long_name": name})
            for name, v in columns.items()
        }
    )
    assert made
    return made


def test_a_track_across_180_degrees_is_one_line() -> None:
    c = course(latitude=[10, 11, 12], longitude=[179, -179.5, -178])
    to = trackmap.Projection.of(c)
    xs = [to(a, b)[0] for a, b in zip(c.latitude, c.longitude, strict=True)]
    assert xs == sorted(xs)
    assert xs[2] - xs[0] < trackmap.WIDTH
    svg = trackmap.track_map(c, [0, 1, 2], "track")
    assert "180°" in svg
    assert "179°W" in svg
    assert "179°E" in svg
    assert not re.search(r"18[1-9]°", svg)


def test_north_is_up_and_a_degree_is_true_to_scale() -> None:
    c = course(latitude=[59, 61], longitude=[0, 1])
    to = trackmap.Projection.of(c)
    assert to(61, 0)[1] < to(60, 0)[1]
    assert to.x_scale / to.y_scale == pytest.approx(0.5, abs=0.01)  # cos 60°


def test_places_are_where_the_map_draws_its_dots() -> None:
    c = course(latitude=[10, 11, np.nan], longitude=[150, 151, 152])
    places = trackmap.places(c, [0, 1, 2])
    svg = trackmap.track_map(c, [0, 1, 2], "track")
    dots = re.findall(r'class="stop"[^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert [tuple(map(float, dot)) for dot in dots] == places[:2]
    assert places[2] is None
    assert re.search(rf'class="here" cx="{dots[0][0]}"', svg)


def test_colours_follow_pressure_else_wind_else_nothing() -> None:
    where = {"latitude": [10, 11, 12], "longitude": [150, 151, 152]}
    deep = course(**where, central_pressure=[1000, 940, 970], max_wind=[0, 90, 60])
    assert deep.name == "central_pressure"
    assert [deep.share(n) for n in range(3)] == [0, 1, 0.5]
    windy = course(**where, max_wind=[0, 90, 60])
    assert math.isnan(windy.share(0))  # 0 kt: not analysed
    assert [windy.share(n) for n in (1, 2)] == [1, 0]
    assert "not known" in trackmap.track_map(windy, [0], "t")
    plain = course(**where)
    assert "strength not known" in trackmap.track_map(plain, [0], "t")
    ElementTree.fromstring(trackmap.track_map(deep, [0, 1, 2], "t"))


def test_without_positions_there_is_no_map() -> None:
    nowhere = Variable(np.full(3, np.nan, np.float32), {})
    assert Course.of({}) is None
    assert Course.of({"latitude": nowhere, "longitude": nowhere}) is None


# --- which frames


def frames(**gains: list[float | None]) -> list[Scored]:
    """Frames of tracks by id; bicubic's RMSE is 4 K, the model's as much smaller as said."""
    return [
        Scored(
            id.strip("t"),
            number,
            f"2021-07-19T{number:02d}:00Z",
            "HMW8",
            {"model": None if gain is None else 4.0 - gain, "bicubic": 4.0},
        )
        for id, of in gains.items()
        for number, gain in enumerate(of)
    ]


def keys(chosen: list[Scored]) -> list[tuple[str, int]]:
    return [frame.key for frame in chosen]


def test_the_best_and_the_worst_frame_are_always_among_the_chosen() -> None:
    all_ = frames(t1=[0.3] * 9, t2=[0.3, 0.9, 0.3, 0.3, -0.1, 0.3, 0.3, 0.3])
    chosen = choice.chosen(all_, 3, "bicubic")
    assert ("2", 1) in keys(chosen)
    assert ("2", 4) in keys(chosen)
    assert len(chosen) == 5
    reasons = {frame.key: frame.reason for frame in chosen}
    assert "Largest gain over bicubic" in reasons["2", 1]
    assert "Furthest behind bicubic" in reasons["2", 4]
    assert keys(chosen) == sorted(keys(chosen))


def test_chosen_frames_are_spread_over_tracks_and_time() -> None:
    all_ = frames(t1=[0.1] * 9, t2=[0.1] * 2, t3=[0.1] * 9)
    assert [f.track for f in choice.spread(all_, 3)] == ["1", "2", "3"]
    assert keys(choice.spread(all_, 2)) == [("1", 4), ("3", 4)]
    seven = choice.spread(all_, 7)
    assert [f.track for f in seven] == ["1"] * 3 + ["2"] * 2 + ["3"] * 2
    assert len(choice.spread(all_, 99)) == len(all_) == len({*keys(all_)})


def test_a_frame_without_a_score_is_no_extreme() -> None:
    chosen = choice.chosen(frames(t1=[None, 0.5, 0.1, None]), 1, "bicubic")
    assert {("1", 1), ("1", 2)} <= set(keys(chosen))


def test_the_loop_is_the_longest_track_thinned_evenly() -> None:
    all_ = frames(t1=[0.1] * 5, t2=[0.1] * 20)
    loop, every = choice.looped(all_, most=8)
    assert every == 3
    assert keys(loop) == [("2", n) for n in range(0, 20, 3)]
    assert choice.looped(frames(t1=[0.1], t2=[0.2])) == ([], 1)


# --- pixels


def test_colours_are_exact_and_missing_is_unlike_any() -> None:
    look = pictures.look(INFRARED)
    field = np.array([[180.0, 310.0, np.nan], [150.0, 330.0, 245.0]])
    image = pictures.coloured(field, look)
    assert image.dtype == np.uint8
    assert (image[0, 0] == image[1, 0]).all()  # colder than the scale
    assert (image[0, 1] == image[1, 1]).all()
    every = pictures.coloured(np.linspace(look.low, look.high, pictures.LEVELS)[None], look)[0]
    assert tuple(image[0, 2]) not in {tuple(c) for c in every}
    back = Image.open(io.BytesIO(pictures.encoded(image, exact=True))).convert("RGB")
    assert np.array_equal(np.asarray(back), image)
    small = pictures.encoded(np.zeros((64, 64, 3), np.uint8), exact=False)
    assert Image.open(io.BytesIO(small)).format == "JPEG"


@pytest.mark.parametrize(("side", "shape"), [(64, (64, 64)), (40, (40, 40)), (36, (32, 32))])
def test_the_middle_is_cut_along_coarse_pixels(side: int, shape: tuple[int, int]) -> None:
    truth = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    coarse = truth.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    made, found = storyboard.middle_pictures(
        {"coarse": coarse, "truth": truth}, side, pictures.look(INFRARED)
    )
    assert found == shape
    assert set(made) == {"coarse", "truth"}
    part = storyboard.middle(truth, shape)
    h = shape[0] // 4
    means = part.reshape(h, 4, h, 4).mean(axis=(1, 3))
    assert np.array_equal(means, storyboard.middle(coarse, (h, h)))


# --- words


def test_numbers_for_people() -> None:
    assert words.written(None, "K") == "\N{EN DASH}"
    assert words.written(-1e-7, "K") == "0.000"
    assert words.written(-0.5, "K") == "\N{MINUS SIGN}0.500"
    assert words.plus("0.000") == "0.000"
    assert words.plus("0.250") == "+0.250"
    assert words.listed(["1"]) == "1"
    assert words.listed(["1", "2", "3"]) == "1, 2 and 3"
    assert words.listed([str(n) for n in range(20)], most=2) == "0, 1 and 18 more"
    assert words.listed([]) == ""


def test_unknown_scores_have_a_table_too() -> None:
    found = tables.grouped(["rmse", "crps", "tof"])
    assert found == {"Errors": ["rmse"], "Detail and motion": ["tof"], tables.OTHERS: ["crps"]}


def test_what_is_counted_has_no_marks_between_whole_numbers() -> None:
    steps = Scale.of(Axis("steps", low=0.0, whole=True), [3.0], 0, 400)
    assert [text for _, text in steps.ticks(7)] == ["0", "1", "2", "3"]
    assert len(Scale.of(Axis("x", low=0.0), [3.0], 0, 400).ticks(7)) > 4


def test_what_a_score_needs_is_known_of_those_that_can_be_undefined() -> None:
    for name in ("tof", "temporal_std_ratio", "csi_220", "fss_light", "ssim", "ssim_clipped"):
        assert tables.needed(name), name
    assert tables.needed("rmse") == ""
