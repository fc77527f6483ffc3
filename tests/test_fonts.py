"""Pictures of data whose owners write in other letters than matplotlib's own font has."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from pipeline import fonts, pictures
from pipeline.credit import Credit
from pipeline.pictures import Panel, Scene

CHANNEL = {"long_name": "温度 temperature", "units": "K", "valid_min": 150, "valid_max": 330}
ATTRS = {"attribution": "国家气象中心台风数据集", "license": "CC BY 4.0"}
installed = pytest.mark.skipif(
    not fonts.family_of("国气"), reason="no font with Chinese letters is installed"
)


def scene(credit: Credit) -> Scene:
    field = np.full((8, 8), 250.0)
    return Scene(
        "202107 烟花", "一", [Panel("真值", field)], pictures.look(CHANNEL),
        pictures.error_look(CHANNEL, "difference"), (-20, 20, -20, 20), "km", credit=credit,
    )  # fmt: skip


@pytest.fixture
def no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "family_of", lambda letters: "")


def test_the_usual_font_serves_what_it_can() -> None:
    assert fonts.families("Météo-France, 5 km × 5 km, Росгидромет") == [fonts.OWN]  # noqa: RUF001
    assert fonts.lacking("Data: 国 气,国") == "国气"


@installed
def test_chinese_letters_are_drawn_with_a_font_of_the_system(tmp_path: Path) -> None:
    credit = Credit.of(ATTRS)
    before = list(matplotlib.rcParams["font.family"])
    made = pictures.panels(tmp_path / "a.png", scene(credit), dpi=40)  # a missing glyph would warn
    assert matplotlib.rcParams["font.family"] == before
    assert Image.open(made).text["Author"] == ATTRS["attribution"]  # type: ignore[attr-defined]
    figure = pictures.drawn(scene(credit), 40)
    last = figure.texts[-1]
    assert ATTRS["attribution"] in last.get_text()
    assert last.get_fontfamily() == [fonts.OWN, fonts.family_of(fonts.lacking(credit.line))]


def test_without_such_a_font_letters_are_left_out_and_it_says_so(
    tmp_path: Path, no_font: None
) -> None:
    credit = Credit.of(ATTRS)
    made = pictures.panels(tmp_path / "a.png", scene(credit), dpi=40)  # a missing glyph would warn
    said = Image.open(made).text  # type: ignore[attr-defined]
    assert ATTRS["attribution"] in said["Copyright"]
    assert "烟花" in said["Description"]
    (line,) = fonts.credit_lines(credit, 205)
    assert line.startswith("Data: …, CC BY 4.0 (…: letters that no font here has; the file's")


@installed
def test_wide_letters_take_more_room() -> None:
    latin = Credit.of({"attribution": "a " * 100})
    chinese = Credit.of({"attribution": "国 " * 100})
    (one, *_) = fonts.credit_lines(latin, 100)
    (other, *_) = fonts.credit_lines(chinese, 100)
    assert 90 < len(one) <= 100
    assert 60 < len(other) < 80


def test_a_credit_in_latin_letters_stays_as_it_was() -> None:
    credit = Credit.of({"attribution": "Digital Typhoon", "license": "CC BY 4.0"})
    assert fonts.credit_lines(credit, 205) == credit.lines(205)
    assert fonts.able(credit.line) == credit.line
