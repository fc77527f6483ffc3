"""Reports and comparisons of forecasts: lead times, windows, and what was observed before."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from pipeline import checkpoint, compare, pictures, report, score_files, settings, split, train
from pipeline.answers import Answers
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UserError
from pipeline.evaluate import evaluate
from pipeline.raw_tree import opened
from pipeline.reporting import choice, page, storyboard, windows
from pipeline.reporting.choice import Scored, Window
from pipeline.reporting.material import Material
from pipeline.reporting.summary import summary, where_smaller
from pipeline.sources.options import Options
from pipeline.sources.synthetic import Storm, write_tree

SMALL = [
    "model.name=simvp",
    "model.hid_s=8",
    "model.hid_t=16",
    "model.n_s=2",
    "model.n_t=2",
    "task.past=3",
    "task.future=2",
    "task.coarsen=2",
    "training.patch_size=null",
    "training.batch_size=4",
    "training.epochs=1",
    "training.sample_every_epochs=0",
    "training.ema=0",
]
ROWS = ["model", "persistence", "optical_flow", "past_mean"]
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def trained(store: Path, split_file: Path, run: Path, *asked: str) -> Path:
    made, _ = settings.load(None, [*SMALL, *asked])
    train.train(settings.located(made, store, split_file), run)
    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WP.zarr, its split, and evaluated runs of two lead times: `calm` and `astray`."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("forecasts")
    storms = [
        Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=8),
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), hours=10),
        Storm("202103", datetime(2021, 8, 2, tzinfo=UTC), hours=6),
    ]
    write_tree(home / "WP", storms, size=48)
    convert(home / "WP", home / "WP.zarr", ConvertSettings(), manifests=home, workers=1)
    split.split(home / "WP.zarr", home / "split.json", eval_ids=["202102,202103"])
    for name, lr in (("calm", 1e-12), ("astray", 0.02)):
        run = trained(home / "WP.zarr", home / "split.json", home / name, f"training.lr={lr}")
        evaluate(run, resamples=50)
    return home


@pytest.fixture(scope="module")
def rain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R.zarr of hourly showers on degrees, and a run that forecasts a part of it."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("rain")
    rng, hours, (H, W) = np.random.default_rng(0), 30, (16, 20)
    y, x = np.mgrid[:H, :W]
    mm = np.zeros((hours, H, W), np.float32)
    for frame in mm[: hours - 4]:  # the end is dry
        r, c = rng.uniform(0, H), rng.uniform(0, W)
        frame += rng.gamma(1.0, 4.0) * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 16)
    array = xr.DataArray(
        np.where(mm > 0.05, mm, 0) / 1000,
        dims=("valid_time", "latitude", "longitude"),
        coords={
            "valid_time": np.datetime64("2023-06-01T00", "ns")
            + np.arange(hours).astype("timedelta64[h]"),
            "latitude": ("latitude", 55 - 0.25 * np.arange(H), {"units": "degrees_north"}),
            "longitude": ("longitude", 5 + 0.25 * np.arange(W), {"units": "degrees_east"}),
        },
        attrs={"units": "m", "long_name": "Total precipitation"},
    )
    (home / "nc").mkdir()
    array.to_dataset(name="tp").to_netcdf(home / "nc" / "tp.nc", engine="h5netcdf")
    made = ConvertSettings(options=Options(variables=("tp",), track_by="day"))
    convert(home / "nc" / "tp.nc", home / "R.zarr", made, manifests=home, workers=1)
    split.split(home / "R.zarr", home / "R.split.json", eval_ids=["2023-06-01"])
    return home


@pytest.fixture(scope="module")
def told(home: Path) -> dict[str, Any]:
    return json.loads((home / "calm" / "scores.json").read_text())


@pytest.fixture(scope="module")
def html(home: Path) -> str:
    return report.report(home / "calm").file.read_text(encoding="utf-8")


class Leads(HTMLParser):
    """The values of the table of lead times, and all images."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str, str], str] = {}
        self.images: list[dict[str, str | None]] = []
        self.row: dict[str, str | None] = {}
        self.score = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "tr":
            self.row = found
        if tag == "td":
            self.score = found.get("data-score") or ""
        if tag == "img":
            self.images.append(found)
        self.of_value = tag == "span" and found.get("class") == "value"

    def handle_data(self, data: str) -> None:
        if "data-lead" in self.row and self.of_value:
            self.cells[self.row["data-lead"], self.row["data-row"], self.score] = data
            self.of_value = False


def decoded(uri: str | None) -> np.ndarray:
    assert uri is not None
    file = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
    return np.asarray(Image.open(file).convert("RGB"))


def material(scores: dict[str, Any]) -> Material:
    nothing = storyboard.Board([], None, [])
    return Material("run", "simvp", scores, [], "", {}, {}, nothing, "eddy")


def window_at(run: Path, place: int) -> tuple[Any, Answers, Window]:
    """The store, the answers and one window of a run, as they were scored."""
    scores, trained_ = score_files.scored(run, "eval")
    store = opened(Path(scores["store"]))
    return store, Answers(trained_, "cpu"), choice.windows(scores["by_frame"])[place]


def test_every_value_of_each_lead_time_is_that_of_scores_json(
    html: str, told: dict[str, Any]
) -> None:
    cells = Leads(html).cells
    names = ["rmse", "csi_220", "ssim", "log_spectral_distance"]
    wanted = {(lead, row, name) for lead in ("1 h", "2 h") for row in ROWS for name in names}
    assert set(cells) == wanted
    for (lead, row, name), text in cells.items():
        value = told["lead_times"][("1 h", "2 h").index(lead)][row][name]
        if value is None:
            assert text == DASH
        else:
            assert float(text.replace(MINUS, "-")) == pytest.approx(value, abs=0.0051)


def test_the_page_speaks_of_forecasts(html: str, told: dict[str, Any]) -> None:
    said = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", html, flags=re.DOTALL)
    for text in (
        "simvp 2 h ahead on 2 tracks never trained on",
        "2 h ahead from 3 h of observed frames: 2 frames from 3, one every 1 h",
        "with pixels of 10 km",
        f"{told['frames'] // 2} windows, each forecast",
        "Against optical_flow",
        "at all of 2 lead times",
        "as if nothing changed",
        "forecast 1 h and 2 h ahead; a line",
        "frames at all lead times together",
        "Chosen windows",
    ):
        assert text in said, text
    for text in ("bicubic", "made coarse", "finer", "Low-res", "Before and after", "compare-range"):
        assert text not in said, text


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ([1, 1, 1, 1], "Smaller at every lead time."),
        ([3, 3, 3, 3], "Smaller at no lead time."),
        ([2, 2, 2, 2], "Smaller at no lead time."),
        ([3, 3, 1, 1], "Smaller from 3 h ahead on."),
        ([1, 1, 3, 3], "Smaller up to 2 h ahead."),
        ([3, 3, 3, 1], "Smaller 4 h ahead only."),
        ([1, 3, 1, 3], "Smaller 1 h and 3 h ahead."),
        ([None, 1, 1, 1], "Smaller from 2 h ahead on."),
    ],
)
def test_from_which_lead_time_the_model_is_ahead(
    told: dict[str, Any], ours: list[float | None], said: str
) -> None:
    scores = {
        **told,
        "lead_seconds": [3600, 7200, 10800, 14400],
        "lead_times": [{"model": {"rmse": a}, "persistence": {"rmse": 2}} for a in ours],
    }
    assert where_smaller(material(scores), "persistence") == said
    verdicts = summary(material({**scores, "rows": ["model", "persistence"]}))["verdicts"]
    assert said in verdicts[0]["text"]


def test_lead_times_have_the_unit_of_the_step(told: dict[str, Any]) -> None:
    def leads(step: int) -> list[str]:
        seconds = [step, 2 * step]
        return material({**told, "step_seconds": step, "lead_seconds": seconds}).leads

    assert leads(300) == ["5 min", "10 min"]
    assert leads(5400) == ["1.5 h", "3 h"]
    assert leads(86400) == ["1 d", "2 d"]


def test_numbers_without_a_unit_and_pixels_of_unknown_size(told: dict[str, Any]) -> None:
    """As of clips of a film: nothing is said of kilometres, north or a storm."""
    units = {name: "1" if unit == "K" else unit for name, unit in told["units"].items()}
    bare = material({**told, "units": units, "pixel_units": "pixels"})
    said = summary(bare)
    assert "with pixels" not in said["what"]
    assert not any(re.search(r"\d 1[;.]", verdict["text"]) for verdict in said["verdicts"])
    assert "with pixels of 10 km" in summary(material(told))["what"]
    assert (bare.followed, material(told).followed) == (False, True)


def test_one_lead_time_alone_has_no_curves_over_them(told: dict[str, Any]) -> None:
    one = copy.deepcopy(told)
    one |= {"lead_times": told["lead_times"][:1], "lead_seconds": [3600]}
    assert page.over_leads(material(one)) == {"leads": None}
    assert "lead time" not in summary(material(one))["verdicts"][0]["text"]


def test_charts_over_time_are_of_the_first_and_the_last_lead(told: dict[str, Any]) -> None:
    figures = page.over_time(material(told))["over_time"]
    titles = [figure["title"] for figure in figures]
    windows_ = told["track_frames"]["202102"] // 2
    assert len(titles) == 4
    assert titles[0].endswith(f"{windows_} frames, 1 h ahead")
    assert titles[1].endswith(f"{windows_} frames, 2 h ahead")
    points = re.findall(r'class="line-1".*?</g>', str(figures[1]["svg"]))[0].count("translate(")
    assert points == windows_


def test_windows_are_chosen_from_the_smallest_error_to_the_largest() -> None:
    def window(number: int, *rmse: float | None) -> Window:
        return Window(
            tuple(
                Scored("1", number + lead, f"2021-07-01T0{lead}:00Z", "", {"model": value})
                for lead, value in enumerate(rmse)
            )
        )

    every = [window(n, e, None, e) for n, e in enumerate((5.0, 1.0, 4.0, 2.0, 3.0))]
    every.append(window(9, None, None))
    assert window(0, 3.0, 4.0).rmse("model") == pytest.approx(np.sqrt(12.5))
    assert window(0, None).rmse("model") is None
    chosen = choice.chosen_windows(every, 3)
    assert [w.frames[0].number for w in chosen] == [1, 4, 0]
    assert [w.reason.split()[1] for w in chosen] == ["smallest", "typical", "largest"]
    assert [w.frames[0].number for w in choice.chosen_windows(every, 1)] == [4]
    assert len(choice.chosen_windows(every, 99)) == 5
    assert len(choice.chosen_windows(every[-1:], 3)) == 1  # nothing was seen; it is shown as it is
    wet = {("1", n): float(n) for n in range(20)}
    wettest = choice.chosen_windows(every, 2, wet)  # those that begin at 4 and 3
    assert [w.frames[0].number for w in wettest] == [3, 4]
    assert wettest[0].reason == "The smallest error of the 2 wettest windows"


def test_a_window_begins_where_its_lead_times_do(told: dict[str, Any]) -> None:
    every = choice.windows(told["by_frame"])
    assert len(every) == told["frames"] // 2
    for window in every:
        a, b = window.frames
        assert (a.track, b.number - a.number, b.seconds - a.seconds) == (b.track, 1, 3600)


def test_what_is_drawn_is_what_was_scored(home: Path) -> None:
    store, answers, window = window_at(home / "calm", 2)
    fields = windows.restored(store, answers, window, ROWS)
    track = store.track(window.track)
    first = window.frames[0].number
    coarse = track.checked(first - 3, 5)[:, 0].astype(np.float64)
    coarse = coarse.reshape(5, 24, 2, 24, 2).mean((2, 4))
    assert fields.past == pytest.approx(coarse[:3], abs=1e-3)
    assert fields.future["truth"] == pytest.approx(coarse[3:], abs=1e-3)
    assert (fields.future["persistence"] == fields.past[-1]).all()
    assert fields.times.tolist() == track.times[first - 3 : first + 2].tolist()
    for row in ROWS:
        off = fields.future[row] - fields.future["truth"]
        for lead, frame in enumerate(window.frames):
            assert np.sqrt((off[lead] ** 2).mean()) == pytest.approx(frame.rmse[row], rel=1e-3)


def test_strips_show_truth_forecasts_and_the_last_observed_frame(
    home: Path, html: str, told: dict[str, Any]
) -> None:
    store, answers, _ = window_at(home / "calm", 0)
    every = choice.windows(told["by_frame"])
    worst = max(every, key=lambda window: window.rmse("model"))
    fields = windows.restored(store, answers, worst, ROWS)
    look = pictures.look(told["channel"])
    images = [image for image in Leads(html).images if image.get("class") == "pixels"]
    strip = images[-11:]  # of the worst window: 1 observed; 2 lead times of 5 rows
    assert "Last observed" in strip[0]["alt"]
    assert (decoded(strip[0]["src"]) == pictures.coloured(fields.past[-1], look)).all()
    for row, what in enumerate(("truth", "model", "persistence", "optical_flow")):
        for lead in range(2):
            shown = strip[1 + 2 * row + lead]
            assert (
                decoded(shown["src"]) == pictures.coloured(fields.future[what][lead], look)
            ).all()
            assert f"{lead + 1} h ahead" in shown["alt"]
    errors = pictures.error_look(told["channel"], "model minus truth", ahead=True)
    off = fields.future["model"] - fields.future["truth"]
    assert (decoded(strip[10]["src"]) == pictures.coloured(off[1], errors)).all()


def test_the_loop_plays_the_past_and_then_the_future(html: str, told: dict[str, Any]) -> None:
    (text,) = re.findall(r'<script type="application/json" id="loop-data">(.*?)</script>', html)
    frames = json.loads(text)["frames"]
    assert len(frames) == 5
    assert list(frames[0]["pictures"]) == ["model", "optical_flow", "persistence", "truth"]
    for frame in frames[:3]:  # everything shows what was observed
        assert len(set(frame["pictures"].values())) == 1
        assert all(label.endswith(": observed") for label in frame["labels"].values())
    for frame in frames[3:]:
        assert frame["pictures"]["model"] != frame["pictures"]["truth"]
        assert "RMSE" in frame["labels"]["model"]
        assert frame["pictures"]["persistence"] == frames[2]["pictures"]["truth"]
    assert [re.search(r"·[^·]*·([^·]*)·", frame["label"])[1].strip() for frame in frames] == [
        "observed 2 h before",
        "observed 1 h before",
        "last observed",
        "1 h ahead",
        "2 h ahead",
    ]
    assert all(frame["place"] for frame in frames)  # of the best track


def test_the_same_input_gives_the_same_bytes_and_nothing_is_fetched(
    home: Path, html: str, tmp_path: Path
) -> None:
    again = report.report(home / "calm", out=tmp_path / "again.html")
    assert again.file.read_text(encoding="utf-8") == html
    assert (again.stills, again.shown, again.loop) == (3, "window", 5)
    assert all(image["src"].startswith("data:") and image["alt"] for image in Leads(html).images)


def test_other_pixels_at_the_same_hours_are_refused(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "calm", tmp_path / "run"))
    scores = json.loads((run / "scores.json").read_text())
    for by in scores["by_frame"].values():
        by["rmse"]["persistence"] = [value + 1 for value in by["rmse"]["persistence"]]
    (run / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(UserError, match=r"forecast 1 steps ahead, has other scores now"):
        report.report(run)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lead_times", [], "lead_times and lead_seconds are of other leads"),
        ("lead_times", [{}, {}], "lead 0: scores of model are missing"),
        ("future", None, "future is missing"),
    ],
)
def test_damaged_scores_are_refused(
    home: Path, tmp_path: Path, key: str, value: object, words: str
) -> None:
    run = Path(shutil.copytree(home / "calm", tmp_path / "run"))
    scores = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**scores, key: value}))
    with pytest.raises(UserError, match=words):
        report.report(run)


def test_further_ahead_than_trained_is_shown_as_it_was_scored(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "calm", tmp_path / "run"))
    evaluate(run, steps=3, resamples=50)
    text = report.report(run, frames=1).file.read_text(encoding="utf-8")
    assert "simvp 3 h ahead on 2 tracks" in text
    assert {lead for lead, _, _ in Leads(text).cells} == {"1 h", "2 h", "3 h"}


@pytest.mark.parametrize("side", [5, 8, 24])
def test_pictures_of_large_frames_are_means_over_blocks(side: int) -> None:
    field = np.arange(24.0 * 16).reshape(24, 16)
    field[0, 0] = np.nan
    made = windows.shrunk(field, side)
    f = -(-24 // side)
    assert made.shape == (24 // f, 16 // f)
    block = field[:f, :f]
    if f > 1:
        assert made[0, 0] == pytest.approx(np.nanmean(block))
        assert made[-1, -1] == pytest.approx(
            field[(24 // f - 1) * f : 24 // f * f, (16 // f - 1) * f : 16 // f * f].mean()
        )
    else:
        assert made is field
    assert np.isnan(windows.shrunk(np.full((4, 4), np.nan), 2)).all()


def test_rain_of_a_region_with_another_date_around_it(rain: Path, monkeypatch) -> None:
    """The strip is of the region; what is around it is what was when it was scored."""
    run = trained(
        rain / "R.zarr",
        rain / "R.split.json",
        rain / "run",
        "task.coarsen=1",
        "task.region=[6,8,52,54]",
        "task.outside=other_date",
        "training.augment=false",
    )
    evaluate(run, resamples=50)
    text = report.report(run).file.read_text(encoding="utf-8")
    assert {name for _, _, name in Leads(text).cells} >= {"rmse", "csi_light", "csi_heavy"}
    assert "5.88°E to 8.12°E, 51.88°N to 54.12°N" in text
    assert "9 \N{MULTIPLICATION SIGN} 9 pixels" in text
    assert re.search(r"The smallest error of the \d wettest windows", text)
    assert "storm" not in re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", text, flags=re.DOTALL)
    store, answers, window = window_at(run, 3)
    monkeypatch.setattr(
        windows, "donors", lambda track, task, first: track.checked(first, task.window)
    )
    with pytest.raises(UserError, match="has other scores now"):  # with its own surroundings
        windows.restored(store, answers, window, ["model"])


# --- comparisons


@pytest.fixture(scope="module")
def done(home: Path) -> compare.Comparison:
    return compare.compare([home / "calm", home / "astray"], home / "out", resamples=50, count=2)


def test_a_comparison_has_the_scores_of_each_lead_time(home: Path, done, told) -> None:
    found = json.loads(done.file.read_text())
    other = json.loads((home / "astray" / "scores.json").read_text())
    assert list(done.rows) == ["calm", "astray", *ROWS[1:]]
    assert found["lead_seconds"] == [3600, 7200]
    for lead, at in enumerate(found["lead_times"]):
        assert at["calm"] == told["lead_times"][lead]["model"]
        assert at["astray"] == other["lead_times"][lead]["model"]
        assert at["optical_flow"] == told["lead_times"][lead]["optical_flow"]
    assert done.rows["calm"]["rmse"] == pytest.approx(told["model"]["rmse"])
    apart, low, high = done.differences["astray"]["rmse"]
    assert apart == pytest.approx(other["model"]["rmse"] - told["model"]["rmse"])
    assert low <= apart <= high


def test_a_comparison_draws_curves_and_the_windows_furthest_apart(home: Path, done, told) -> None:
    curves, best, worst = done.pictures
    assert curves.name == "lead-times.png"
    with Image.open(curves) as picture:
        assert picture.width == 1430
    found = json.loads(done.file.read_text())["pictures"]
    assert list(found) == [best.name, worst.name]
    other = json.loads((home / "astray" / "scores.json").read_text())
    pairs = zip(choice.windows(told["by_frame"]), choice.windows(other["by_frame"]), strict=True)
    apart = [b.rmse("model") - a.rmse("model") for a, b in pairs]
    assert [each["apart"] for each in found.values()] == pytest.approx([min(apart), max(apart)])
    assert all(each["lead"] == 1 for each in found.values())


def test_maps_of_a_comparison_show_the_last_lead_time(home: Path, monkeypatch) -> None:
    scenes = []
    monkeypatch.setattr(
        compare.pictures, "panels", lambda path, scene: scenes.append(scene) or path
    )
    compare.compare([home / "calm", home / "astray"], home / "maps", count=1, resamples=50)
    before, truth, calm, astray, apart, nearer = (panel.field for panel in scenes[0].panels)
    assert scenes[0].panels[0].title == "Last observed, 2 h before"
    assert not np.array_equal(before, truth)
    assert (apart == astray - calm).all()
    assert (nearer == abs(astray - truth) - abs(calm - truth)).all()
    assert scenes[0].extent == (-120.0, 120.0, -120.0, 120.0)  # 24 pixels of 10 km


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "superres", "factor": 4, "truth": "native"}, "do different things"),
        ({"past": 4}, "other numbers of past frames"),
        ({"coarsen": 4, "past": 4}, "other numbers of past frames and coarsening"),
        ({"region": [0, 1, 0, 1]}, "forecast other regions"),
        ({"channel": "other"}, "of other channels"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    home: Path, told: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    if "channel" in change:
        change = {"channel": {**told["channel"], "name": "water vapour"}}
    file = checkpoint.in_run(home / "calm", "best")
    one = compare.Scored(home / "calm", "calm", told, checkpoint.load(file), None, {})
    with pytest.raises(UserError, match=words):
        compare.refuse_unlike([one, dataclasses.replace(one, told={**told, **change})])
    compare.refuse_unlike([one, dataclasses.replace(one, told={**told, "outside": "mean"})])


# --- in a browser


@pytest.fixture
def tab(new_tab: Any, home: Path, html: str) -> Iterator[Any]:
    """The page in a tab."""
    made = new_tab()
    made.goto((home / "calm" / "report.html").as_uri())
    yield made
    made.close()


def test_the_page_plays_reads_values_and_fits_a_phone(tab: Any) -> None:
    tab.locator("#loop-range").fill("4")
    assert "2 h ahead" in tab.locator("#loop-label").inner_text()
    tab.click("#loop-play")
    tab.wait_for_timeout(500)
    picture = tab.locator(".strip img.pixels").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert " K (" in tab.locator("#readout").inner_text()
    assert tab.faults == []
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
