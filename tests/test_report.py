"""The report: what it says is what scores.json says, what it shows is what was scored."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
import math
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
from PIL import Image
from typer.testing import CliRunner

from cli import app
from pipeline import checkpoint, pictures, report, settings, split, train
from pipeline.answers import Answers
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.evaluate import evaluate
from pipeline.raw_tree import opened
from pipeline.reporting import choice, storyboard
from pipeline.reporting.material import Material
from pipeline.reporting.plots import training
from pipeline.reporting.summary import summary, verdict
from pipeline.reporting.tables import meanings
from pipeline.sources.synthetic import Storm, write_tree

QUICK = [
    "model.n_residual_blocks=1",
    "model.width=8",
    "training.patch_size=32",
    "training.batch_size=2",
    "training.epochs=2",
    "training.sample_every_epochs=0",
    "training.log_every_steps=1",
    "training.ema=0",
]
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw WP, WP.zarr, a split and a run evaluated on two eval storms and one test storm.

    Storm 202102 crosses 180°, has a gap, and 5 scored frames; 202103 has 2.
    """
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("report")
    far = {"longitude": 179.8, "latitude": 20.0, "heading": 90.0, "speed": 30.0}
    storms = [
        Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=4),
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), hours=7, gaps=(3,), blank=(5,), **far),
        Storm("202103", datetime(2021, 8, 2, tzinfo=UTC), hours=3, bad_pixels=(1,)),
        Storm("202104", datetime(2021, 9, 2, tzinfo=UTC), hours=2),
    ]
    write_tree(home / "WP", storms, size=48)
    convert(home / "WP", home / "WP.zarr", ConvertSettings(), manifests=home, workers=1)
    split.split(
        home / "WP.zarr", home / "WP.split.json", eval_ids=["202102,202103"], test_ids=["202104"]
    )
    made, _ = settings.load(None, QUICK)
    train.train(settings.located(made, home / "WP.zarr", home / "WP.split.json"), home / "run")
    for on in ("eval", "test"):
        evaluate(home / "run", on=on, resamples=200)
    return home


@pytest.fixture(scope="module")
def page(home: Path) -> str:
    return report.report(home / "run").file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scores(home: Path) -> dict[str, Any]:
    return json.loads((home / "run" / "scores.json").read_text())


class Tables(HTMLParser):
    """The cells of the tables of scores: where they stand, and their parts by CSS class."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[dict[str, Any]] = []
        self.images: list[dict[str, str | None]] = []
        self.row: dict[str, str | None] = {}
        self.part = ""
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "tr":
            self.row = found
        if tag == "td" and "data-score" in found:
            where = {"track": self.row.get("data-track"), "row": self.row["data-row"]}
            best = "best" in (found.get("class") or "")
            self.cells.append({**where, "score": found["data-score"], "best": best})
            self.inside = True
        if tag == "img":
            self.images.append(found)
        self.part = found.get("class") or "" if tag == "span" else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "td"
        self.part = ""

    def handle_data(self, data: str) -> None:
        if self.inside and self.part in ("value", "interval", "difference"):
            self.cells[-1][self.part] = data


def parsed(page: str) -> Tables:
    tables = Tables()
    tables.feed(page)
    return tables


def numbers(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?", text.replace(MINUS, "-"))


def rounds_to(value: float, text: str) -> bool:
    places = len(text.partition(".")[2])
    return abs(value - float(text)) <= 0.5 * 10**-places + 1e-12


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, int | float):
        yield value


def decoded(uri: str) -> np.ndarray:
    file = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
    return np.asarray(Image.open(file).convert("RGB"))


def test_every_value_in_the_tables_is_that_of_scores_json(
    page: str, scores: dict[str, Any]
) -> None:
    cells = parsed(page).cells
    for cell in cells:
        of = scores["tracks"][cell["track"]] if cell["track"] else scores
        value = of[cell["row"]][cell["score"]]
        if value is None:
            assert cell["value"] == DASH
        else:
            (text,) = numbers(cell["value"])
            assert rounds_to(value, text), cell
    whole = {(c["row"], c["score"]) for c in cells if not c["track"]}
    assert whole == {(row, score) for row in scores["rows"] for score in scores["units"]}
    tracks = {(c["track"], c["row"]) for c in cells if c["track"]}
    assert tracks == {(id, row) for id in scores["tracks"] for row in scores["rows"]}


def test_intervals_and_differences_are_those_of_scores_json(
    page: str, scores: dict[str, Any]
) -> None:
    seen = 0
    for cell in parsed(page).cells:
        if cell["track"]:
            assert "interval" not in cell
            continue
        for part, told in (("interval", "rows"), ("difference", "differences")):
            wanted = scores["intervals"][told].get(cell["row"], {}).get(cell["score"])
            assert (wanted is None) == (part not in cell), cell
            if wanted is not None:
                texts = numbers(cell[part].replace("to", " "))
                assert len(texts) == len(wanted)
                assert all(map(rounds_to, wanted, texts)), (cell, wanted)
                seen += 1
    assert seen > 50


def test_the_best_of_each_column_is_marked(page: str, scores: dict[str, Any]) -> None:
    """By an independent rule: no other row is nearer to what is best, as far as is shown."""
    ideal = {"lower": -math.inf, "higher": math.inf, "zero": 0.0, "one": 1.0}
    for score, better in scores["better"].items():
        column = [c for c in parsed(page).cells if not c["track"] and c["score"] == score]
        shown = {c["row"]: c["value"].replace(MINUS, "-") for c in column}
        known = {row: float(text) for row, text in shown.items() if text != DASH}
        best = {c["row"] for c in column if c["best"]}
        if len(set(known.values())) < 2:
            continue
        goal = ideal[better]
        if math.isinf(goal):
            top = min(known.values()) if goal < 0 else max(known.values())
            wanted = {row for row, value in known.items() if value == top}
        else:
            nearest = min(abs(value - goal) for value in known.values())
            wanted = {row for row, value in known.items() if abs(value - goal) == nearest}
        assert best == wanted or (not best and len(wanted) == len(known)), score
    assert page.count('aria-label="best"') == sum(c["best"] for c in parsed(page).cells) > 5


def test_every_number_of_the_verdicts_is_in_scores_json(page: str, scores: dict[str, Any]) -> None:
    verdicts = re.findall(r'<p class="verdict[^"]*">(.*?)</p>', page, re.DOTALL)
    assert len(verdicts) == len(scores["rows"]) - 1
    values = list(leaves(scores))
    for said in verdicts:
        texts = [t for t in numbers(re.sub("<[^>]+>", " ", said)) if "." in t]
        assert len(texts) >= 2
        for text in texts:
            assert any(rounds_to(value, text) for value in values), text
    assert all("95% interval over tracks" in said for said in verdicts)


@pytest.mark.parametrize(
    ("difference", "words", "kind"),
    [
        ([-0.3, -0.4, -0.1], "smaller error", "better-than"),
        ([0.3, 0.1, 0.4], "larger error", "worse-than"),
        ([-0.3, -0.4, 0.1], "not told apart", ""),
        (None, "smaller error on these tracks", ""),
    ],
)
def test_better_and_worse_are_said_by_an_interval_only(
    scores: dict[str, Any], difference: list[float] | None, words: str, kind: str
) -> None:
    told = copy.deepcopy(scores)
    told["model"]["rmse"], told["bicubic"]["rmse"] = 3.0, 3.3
    told["intervals"]["model_minus"]["bicubic"]["rmse"] = difference
    found = verdict(material(told), "bicubic")
    assert found["head"] == f"Against bicubic: {words}"
    assert found["kind"] == kind


def test_what_is_equal_as_far_as_shown_is_not_called_smaller(scores: dict[str, Any]) -> None:
    told = copy.deepcopy(scores)
    for rows in (told, *told["tracks"].values()):
        rows["bicubic_means"]["rmse"] = rows["model"]["rmse"] = 2.8511
        rows["model"]["rmse"] -= 1e-5
    told["intervals"]["model_minus"]["bicubic_means"]["rmse"] = [-1e-5, -2e-5, -1e-6]
    found = verdict(material(told), "bicubic_means")
    assert found["head"] == "Against bicubic_means: the same error"
    told["intervals"]["model_minus"]["bicubic_means"]["rmse"] = None
    found = verdict(material(told), "bicubic_means")
    assert "Smaller on 0 of 2 tracks" in found["text"]


def material(scores: dict[str, Any]) -> Material:
    nothing = storyboard.Board([], None, [])
    return Material("run", "tempogan", scores, [], "", {}, {}, nothing, "eddy")


def test_the_summary_says_what_was_trained_and_judged(page: str) -> None:
    lead = re.search(r'<p class="lead">(.*?)</p>', page, re.DOTALL)
    assert lead
    for words in ("tempogan", "1 track (202101)", "2 whole tracks (202102 and 202103)", "20 km"):
        assert words in lead[1]
    assert "intervals rest on 2 tracks only" in page
    words = re.sub(r"<[^>]+>", "", page)
    assert "cli evaluate RUN --on test, then cli report RUN --on test." in words
    assert "<code><span>cli</span> <span>evaluate</span>" in page


def test_one_track_has_no_interval_and_says_so(home: Path) -> None:
    done = report.report(home / "run", on="test")
    assert done.file.name == "report-test.html"
    text = done.file.read_text(encoding="utf-8")
    assert "Only one track was scored" in text
    assert not any("interval" in cell for cell in parsed(text).cells)
    assert "chosen by its RMSE on these eval tracks" not in text


def test_the_same_input_gives_the_same_bytes(home: Path, page: str, tmp_path: Path) -> None:
    again = report.report(home / "run", out=tmp_path / "again.html")
    assert again.file.read_text(encoding="utf-8") == page
    assert again.size == len(page.encode())


def test_nothing_is_fetched_and_every_image_has_a_text(page: str) -> None:
    images = parsed(page).images
    given = [image for image in images if "src" in image]
    assert len(given) > 20
    assert all((image["src"] or "").startswith("data:image/") for image in given)
    assert all(image["alt"] for image in given)
    assert len(images) - len(given) == 2  # the slider's, which its script fills
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert not re.findall(r"url\(|@import", page)
    assert len(re.findall(r'<svg class="chart[^>]*aria-label="[^"]{20,}', page)) > 8


def test_settings_software_and_licence_are_told(page: str, home: Path) -> None:
    for words in (
        "doi:10.20783/DIAS.664",
        "CC BY 4.0",
        "log_every_steps: 1",
        json.loads((home / "run" / "about.json").read_text())["torch"],
    ):
        assert words in page


def test_what_is_drawn_is_what_was_scored(home: Path, scores: dict[str, Any]) -> None:
    """The fields behind the pictures have the RMSE that scores.json gives for their frame."""
    store = opened(home / "WP.zarr")
    answers = Answers(checkpoint.load(checkpoint.in_run(home / "run", "best")), "cpu")
    frames = choice.scored(scores["by_frame"])
    assert len(frames) == 7
    for frame in frames:
        fields = storyboard.restored(store, answers, frame, ["bicubic", "model"])
        for row in ("bicubic", "model"):
            rmse = float(np.sqrt(np.nanmean((fields[row] - fields["truth"]) ** 2)))
            assert rmse == pytest.approx(frame.rmse[row], rel=1e-4)


def test_a_picture_can_be_read_back_to_half_a_kelvin(home: Path, page: str) -> None:
    source = re.search(r'id="still-0-truth"[^>]*src="([^"]+)"', page)
    title = re.search(r"<h3>(\d{6}) · (\S+ \S+) UTC", page)
    assert source
    assert title
    track = opened(home / "WP.zarr").track(title[1])
    when = datetime.fromisoformat(title[2]).replace(tzinfo=UTC).timestamp()
    truth = track.checked(track.times.tolist().index(int(when)), 1)[0, 0]
    look = pictures.look({"units": "K", "long_name": "", "valid_min": 150.0, "valid_max": 330.0})
    levels = np.linspace(look.low, look.high, pictures.LEVELS)
    colours = [tuple(c) for c in pictures.coloured(levels[None], look)[0].tolist()]
    assert len(set(colours)) == len(colours)
    value = dict(zip(colours, levels, strict=True))
    read = np.array([[value[tuple(c)] for c in row] for row in decoded(source[1]).tolist()])
    step = levels[1] - levels[0]
    assert np.abs(read - np.clip(truth, look.low, look.high)).max() <= step / 2 + 1e-4


def test_without_scores_it_says_to_evaluate_first(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run", ignore=lambda *_: ["report.html"])
    (run / "scores.json").unlink()
    with pytest.raises(UserError, match=r"run `cli evaluate .*run` first"):
        report.report(run)
    (run / "scores.json").write_text('{"model": {"rmse": 1')
    with pytest.raises(UserError, match=r"run `cli evaluate .*run` again"):
        report.report(run)
    with pytest.raises(UserError, match="no such run folder"):
        report.report(tmp_path / "nothing")
    assert not (run / "report.html").exists()


def test_scores_of_another_checkpoint_are_refused(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    told = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**told, "epoch": told["epoch"] + 1}))
    with pytest.raises(UserError, match="run `cli evaluate"):
        report.report(run)


def test_scores_of_another_step_of_the_same_epoch_are_refused(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    told = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**told, "step": told["step"] - 1}))
    with pytest.raises(UserError, match=r"scored after step .* run `cli evaluate"):
        report.report(run)


def test_other_pixels_at_the_same_hours_are_refused(home: Path, tmp_path: Path) -> None:
    """The scores beside them would not be theirs."""
    stronger = {"hours": 7, "wind": (60.0, 110.0)}
    storms = [
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), **stronger),
        Storm("202103", datetime(2021, 8, 2, tzinfo=UTC), **stronger),
    ]
    write_tree(tmp_path / "WP", storms, size=48)
    out = tmp_path / "page.html"
    with pytest.raises(
        UserError, match=r"WP: frame \d+ of 202102 has other scores now; run `cli evaluate .* again"
    ):
        report.report(home / "run", store_path=tmp_path / "WP", out=out)
    assert not out.exists()


def test_the_store_that_was_scored_is_the_one_that_is_shown(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    shutil.copytree(home / "WP.zarr", tmp_path / "moved.zarr")
    evaluate(
        run,
        on="test",
        store_path=tmp_path / "moved.zarr",
        split_path=home / "WP.split.json",
        resamples=100,
    )
    text = report.report(run, on="test").file.read_text(encoding="utf-8")
    assert f"<dt>store</dt><dd>{(tmp_path / 'moved.zarr').resolve()}</dd>" in text


def test_both_conversions_are_told(home: Path, scores: dict[str, Any], tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    (run / "scores.json").write_text(json.dumps({**scores, "trained_manifest_hash": "c0ffee"}))
    text = report.report(run).file.read_text(encoding="utf-8")
    assert "<dt>trained on conversion</dt><dd>c0ffee</dd>" in text
    assert f"<dt>scored on conversion</dt><dd>{scores['manifest_hash']}</dd>" in text


def test_what_is_undefined_says_what_it_needs(scores: dict[str, Any]) -> None:
    def said(of: dict[str, Any]) -> str:
        return " ".join(each["text"] for each in meanings(material(of)))

    holed = copy.deepcopy(scores)
    for row in holed["rows"]:
        holed[row]["temporal_std_ratio"] = None
    assert "undefined here, as it needs three consecutive frames" in said(holed)
    for row in holed["rows"]:
        holed[row]["temporal_std_ratio"] = 1.0
    assert "three consecutive frames; undefined" not in said(holed)
    assert "it needs three" not in said(holed)


def test_one_conversion_is_told_once(page: str, scores: dict[str, Any]) -> None:
    said = f"<dt>trained and scored on conversion</dt><dd>{scores['manifest_hash']}</dd>"
    assert said in page
    assert "<dt>scored on conversion</dt>" not in page


def logged(*steps: int, **values: float) -> list[dict[str, Any]]:
    said = {"loss/content": 0.0306, "loss/d_fake": -1.25, "lr/generator": 1e-4, **values}
    return [{"step": step, "epoch": 1, **said} for step in steps]


VALIDATED = {"validation/rmse_model": 2.5, "validation/rmse_bicubic": 2.75}


def test_a_training_of_one_line_is_told_in_words(scores: dict[str, Any]) -> None:
    log = [*logged(12), {"step": 12, "epoch": 1, **VALIDATED}]
    told = training(dataclasses.replace(material({**scores, "epoch": 1}), log=log))
    assert told["losses"] == []
    assert told["once"] == "content 0.0306, d_fake \N{MINUS SIGN}1.25"
    (validation,) = told["scores"]  # no learning rate of one point
    assert "one validation only" in validation["note"]
    assert "stroke thin" not in validation["svg"]  # which would hide the points
    bicubic = re.search(r'<g class="line-2">.*?</g>', validation["svg"])
    assert bicubic
    assert re.search(r'class="stroke"[^>]* d="M[^"]*L', bicubic[0])  # level from step 0 on
    assert ">0</text>" in validation["svg"]
    assert not re.search(r">1[12]\.\d</text>", validation["svg"])  # no step 11.6


def test_a_training_of_a_few_lines_shows_where_they_lie(scores: dict[str, Any]) -> None:
    log = [
        *logged(6, 12),
        {"step": 6, "epoch": 1, **VALIDATED},
        {"step": 12, "epoch": 2, **VALIDATED},
    ]
    told = training(dataclasses.replace(material({**scores, "epoch": 1}), log=log))
    assert told["once"] == ""
    assert [plot["title"] for plot in told["scores"]] == ["Validation", "Learning rate"]
    assert "vertical line is epoch 1" in told["scores"][0]["note"]
    assert told["losses"][0]["svg"].count('<path d="M-3,0a') == 2  # a dot each


def test_a_log_that_goes_on_from_another_begins_where_it_begins(scores: dict[str, Any]) -> None:
    told = training(dataclasses.replace(material(scores), log=logged(1200, 1600, 2000)))
    assert ">0</text>" not in told["scores"][0]["svg"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"on": "eval"}, "on these eval tracks"),
        ({"on": "test"}, "on these test tracks"),
        ({"on": "test", "chosen_on": ["202103", "202109"]}, r"on 1 of these tracks \(202103\)"),
        ({"on": "eval", "chosen_on": ["202109"]}, None),
        ({"on": "eval", "checkpoint": "last"}, None),
    ],
)
def test_who_chose_the_checkpoint_is_said_by_the_tracks_not_their_name(
    scores: dict[str, Any], told: dict[str, Any], words: str | None
) -> None:
    notes = " ".join(summary(material({**scores, **told}))["notes"])
    assert ("was chosen by its RMSE" in notes) == (words is not None)
    assert re.search(words or "", notes)


def test_tracks_without_a_usable_frame_are_named(scores: dict[str, Any]) -> None:
    lead = summary(material({**scores, "tracks_left_out": ["202107"]}))["what"]
    assert "1 track without a usable frame left out (202107)" in lead


def test_what_spectra_leave_out_and_what_is_not_given_is_said(
    page: str, scores: dict[str, Any]
) -> None:
    assert scores["curves"]["spectrum"]["images"] == 7
    assert "All pixels but missing ones of 7 frames" in page
    assert "spectra: of 7 images without a missing pixel" in page
    assert "LPIPS and tLP are not given" in page


def test_a_mean_logit_is_not_called_a_loss(page: str, scores: dict[str, Any]) -> None:
    names = ("content", "generator", "d_real_spatial", "d_fake_spatial", "d_real", "d_fake")
    log = [{"step": n, "epoch": 1, **{f"loss/{name}": 0.5 for name in names}} for n in (1, 2)]
    told = training(dataclasses.replace(material(scores), log=log))
    charts = {f["title"]: re.search('aria-label="([^"]*)"', f["svg"])[1] for f in told["losses"]}
    assert list(charts) == list(names)
    for name, said in charts.items():
        assert ("mean logit" in said) == name.startswith(("d_real", "d_fake"))
    assert "d_real and d_fake are no losses" in told["note"]
    assert "d_real" not in page  # the run ended before its discriminators joined


def test_scores_of_which_a_part_is_missing_are_refused(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    told = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**told, "task": "forecast"}))
    with pytest.raises(UserError, match=r"past is missing or damaged.*evaluate .* again"):
        report.report(run)


def test_another_store_is_refused(home: Path, tmp_path: Path) -> None:
    storms = [Storm(id, datetime(2021, 7, 10, tzinfo=UTC), hours=7) for id in ("202102", "202103")]
    write_tree(tmp_path / "WP", storms, size=48)
    with pytest.raises(
        UserError, match=r"is not that of 2021-07-09 .* run `cli evaluate .*run` with"
    ):
        report.report(home / "run", store_path=tmp_path / "WP")


def test_a_raw_tree_serves_as_the_store(home: Path, page: str, tmp_path: Path) -> None:
    done = report.report(home / "run", store_path=home / "WP", out=tmp_path / "raw.html")
    text = done.file.read_text(encoding="utf-8")
    for pattern in (r'id="still-0-model"[^>]*src="([^"]+)"', r'<circle class="here"[^>]*>'):
        found, wanted = re.search(pattern, text), re.search(pattern, page)
        assert found
        assert wanted
        assert found[0] == wanted[0]


def test_out_must_be_a_page(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.html"):
        report.report(home / "run", out=tmp_path / "a.pdf")
    (tmp_path / "a.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        report.report(home / "run", out=tmp_path / "a.html")


def test_the_command(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    words = ["report", str(home / "run"), "--out", str(out), "--frames", "1", "--device", "cpu"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert out.is_file()
    assert re.search(r"3 frames, and a loop of 5; [\d.]+ (MB|MiB|kB)", said.stdout)
    assert str(out) in said.stdout.replace("\n", "")


# --- in a browser


@pytest.fixture
def tab(new_tab: Any, home: Path, page: str) -> Iterator[Any]:
    """The page in a tab."""
    made = new_tab()
    made.goto((home / "run" / "report.html").as_uri())
    yield made
    made.close()


def clip(tab: Any) -> float:
    """Per cent of the left picture that is cut off at its right."""
    style = tab.evaluate("getComputedStyle(document.querySelector('.layer.left')).clipPath")
    return float(re.search(r"inset\(0(?:px)? (?:calc\()?([\d.]+)%", style)[1])


def test_no_error_and_no_request(tab: Any) -> None:
    tab.wait_for_timeout(300)
    tab.click("#loop-play")
    tab.wait_for_timeout(700)
    assert tab.faults == []
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.id)"
    assert tab.evaluate(broken) == []
    assert tab.evaluate("[...document.images].filter(i => !i.alt).length") == 0


def test_the_slider_moves_by_mouse_and_by_keyboard(tab: Any) -> None:
    assert clip(tab) == 50
    tab.locator("#compare-box").scroll_into_view_if_needed()
    box = tab.locator("#compare-box").bounding_box()
    y = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + 0.5 * box["width"], y)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.8 * box["width"], y, steps=5)
    tab.mouse.up()
    assert clip(tab) == pytest.approx(20, abs=2)
    before = clip(tab)
    tab.focus("#compare-range")
    for _ in range(4):
        tab.keyboard.press("ArrowLeft")
    assert clip(tab) > before
    assert tab.get_attribute("#compare-range", "aria-valuetext").endswith("the rest tempogan")


def test_the_slider_shows_what_is_selected(tab: Any) -> None:
    for side, what in (("left", "truth"), ("right", "coarse")):
        tab.select_option(f"#compare-{side}", what)
        tab.select_option("#compare-frame", "1")
        shown = tab.get_attribute(f"#compare-img-{side}", "src")
        assert shown == tab.get_attribute(f"#still-1-{what}", "src")


def test_the_scrubber_changes_pictures_time_and_place(tab: Any) -> None:
    def seen() -> tuple[str, ...]:
        return (
            tab.get_attribute(".screen[data-what=model]", "src"),
            tab.get_attribute(".screen[data-what=model]", "alt"),
            tab.inner_text("#loop-label"),
            tab.get_attribute(".map .here", "cx"),
        )

    first = seen()
    assert "2021-07-09 00:00 UTC · HMW8" in first[2]
    tab.focus("#loop-range")
    tab.keyboard.press("ArrowRight")
    second = seen()
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert "2021-07-09 01:00 UTC (1 h later)" in second[2]
    tab.click("#loop-play")
    tab.wait_for_function(
        "old => document.getElementById('loop-label').textContent !== old", arg=second[2]
    )
    tab.click("#loop-play")
    rested = seen()
    tab.wait_for_timeout(600)
    assert seen() == rested


def test_the_pointer_reads_kelvin(tab: Any, home: Path) -> None:
    image = tab.locator("#still-0-truth")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    i, j = 10, 31  # row, column of 48
    tab.mouse.move(
        box["x"] + (j + 0.5) / 48 * box["width"], box["y"] + (i + 0.5) / 48 * box["height"]
    )
    said = tab.inner_text("#readout")
    id, when = re.search(r"(\d{6}) · (\S+ \S+) UTC", tab.inner_text(".still h3 >> nth=0")).groups()
    track = opened(home / "WP.zarr").track(id)
    seconds = datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()
    truth = track.checked(track.times.tolist().index(int(seconds)), 1)[0, 0, i, j]
    kelvin = float(re.search(r"([\d.]+) K", said)[1])
    assert kelvin == pytest.approx(truth, abs=0.31)  # half a step, and rounding
    assert "°C" in said


def test_a_phone_does_not_scroll_sideways(tab: Any) -> None:
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_print_hides_the_controls_and_keeps_the_pictures(tab: Any) -> None:
    tab.emulate_media(media="print")
    controls = tab.evaluate(
        "[...document.querySelectorAll('input, button, select, nav')]"
        ".filter(e => !e.closest('.compare') && e.offsetParent).length"
    )
    assert controls == 0
    assert tab.locator(".screen").first.is_visible()
    assert tab.locator("#still-0-model").is_visible()


def test_without_scripts_the_pictures_are_still_there(browser: Any, home: Path, page: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((home / "run" / "report.html").as_uri())
    assert plain.locator("#still-0-model").is_visible()
    assert plain.locator(".screen").count() == 4
    context.close()
