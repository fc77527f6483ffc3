"""What all pages share: one sheet of colours and letters, for light, dark, phones and paper."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import inspection, pages
from pipeline.sources import synthetic
from pipeline.sources.synthetic import Storm


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an inspection."""
    home = tmp_path_factory.mktemp("pages")
    storms = [Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=6, blank=(2,), gaps=(4,))]
    synthetic.write_tree(home / "WP", storms, size=32)
    done = inspection.inspect(home / "WP", pictures=True)
    inspection.write(done, None, home / "WP.html", "enhanced")
    return home / "WP.html"


@pytest.mark.parametrize("name", ["report.html", "inspect.html", "upstream.html"])
def test_every_page_has_the_shared_sheet_and_both_schemes(name: str) -> None:
    environment = pages.environment()
    assert environment.loader
    text = environment.loader.get_source(environment, name)[0]
    assert '{% include "page.css" %}' in text
    assert '<meta name="color-scheme" content="light dark">' in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "#" not in style  # colours are the sheet's: of both schemes


def test_what_is_typed_is_code_of_whole_words_and_nothing_gets_in() -> None:
    assert pages.coded("a <b> `cli report RUN`, c") == (
        "a &lt;b&gt; <code><span>cli</span> <span>report</span> <span>RUN</span></code>, c"
    )
    assert pages.coded("`<script>`") == "<code><span>&lt;script&gt;</span></code>"
    assert pages.coded("one ` alone") == "one ` alone"


def test_the_page_of_an_inspection_says_what_is_bright(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Cold cloud is coloured" in text
    assert "Cold cloud is bright" not in text
    assert 'alt="brightness temperature' in text


def colours(tab: Any, of: str) -> tuple[str, str]:
    found = tab.evaluate(
        "of => { const s = getComputedStyle(document.querySelector(of));"
        " return [s.backgroundColor, s.color]; }",
        of,
    )
    return tuple(found)


def brightness(colour: str) -> float:
    """Of rgb(a, b, c): 0 to 255."""
    return sum(map(float, colour[4:-1].split(","))) / 3


def test_it_is_dark_where_the_reader_wants_that_and_light_on_paper(
    page: Path, new_tab: Any
) -> None:
    tab = new_tab()
    tab.goto(page.as_uri())
    for scheme, media, dark in (
        ("light", "screen", False),
        ("dark", "screen", True),
        ("dark", "print", False),
    ):
        tab.emulate_media(media=media, color_scheme=scheme)
        ground, ink = map(brightness, colours(tab, "body"))
        assert (ground < 60) is dark
        assert (ink > 200) is dark
        nothing = brightness(colours(tab, ".hours")[0])  # where there is no frame
        assert (nothing < 60) is dark
    assert tab.faults == []


def test_nothing_is_wider_than_a_phone(page: Path, new_tab: Any) -> None:
    tab = new_tab()
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
