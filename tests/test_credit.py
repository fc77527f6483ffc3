"""Whose data a picture shows is read back from each kind of file, by what people use to read it."""

import io
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline import credit, pictures, software
from pipeline.credit import ARTIST, COPYRIGHT, DESCRIPTION, NOBODY, SOFTWARE, Credit
from pipeline.sources.digital_typhoon import ATTRS

RADAR = {
    "title": "Radar",
    "source": "17 Radargeräte",  # Latin-1
    "acknowledgement": "気象台\n2023",  # not Latin-1; two lines
    "license": "free",
}
OURS = Credit.of(ATTRS, title="202107: finer")
BOTH = Credit.of(ATTRS, RADAR)
NII = "Digital Typhoon Dataset (National Institute of Informatics), doi:10.20783/DIAS.664"
LINK = "https://creativecommons.org/licenses/by/4.0/"
IMAGE = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)


def test_of_a_store_all_that_its_licence_asks_for():
    assert OURS.title == "202107: finer"
    assert OURS.author == NII
    assert OURS.source == ATTRS["source"]
    assert OURS.copyright == f"{NII}, CC BY 4.0, {LINK}"
    assert OURS.line == f"Data: {NII}, CC BY 4.0; processed by {software()}"


def test_of_two_stores_each_with_its_own_licence():
    assert BOTH.title == f"{ATTRS['title']}; Radar"
    assert BOTH.author == f"{NII}; 気象台 2023"
    assert BOTH.copyright == f"{NII}, CC BY 4.0; 気象台 2023, free, {LINK}"
    assert Credit.of(ATTRS, ATTRS) == Credit.of(ATTRS)  # said once


@pytest.mark.parametrize(
    ("attrs", "author"),
    [
        ({"attribution": "A", "references": "R", "source": "S"}, "A"),
        ({"references": "R", "source": "S", "acknowledgement": "K"}, "K"),
        ({"references": "R", "source": "S"}, "R"),
        ({"source": "S", "title": "T"}, "S"),
        ({"title": "T"}, ""),
    ],
)
def test_who_is_named(attrs, author):
    made = Credit.of(attrs)
    assert (made.author, made.rights) == (author, author)
    assert bool(made.line) == bool(author)


@pytest.mark.parametrize(
    ("licence", "link"),
    [
        ("CC BY 4.0", LINK),
        ("CC-BY-4.0", LINK),
        ("cc by-nc-sa 3.0 (unported)", "https://creativecommons.org/licenses/by-nc-sa/3.0/"),
        ("Licence to use Copernicus Products", ""),
        ("", ""),
    ],
)
def test_where_a_licence_is(licence, link):
    assert credit.link(licence) == link


def test_what_goes_with_the_data():
    assert credit.rights({**ATTRS, **RADAR, "pixel_km": 5.0}) == {
        "title": "Radar",
        "license": "free",
        "attribution": NII,
        "acknowledgement": "気象台 2023",
    }


def test_a_png_of_pixels_and_of_a_figure(tmp_path):
    figure = Figure((1, 1))
    for path in (
        pictures.write(tmp_path / "pixels.png", IMAGE, BOTH, "epoch 1"),
        pictures.saved(tmp_path / "figure.png", figure, BOTH, "epoch 1"),
    ):
        with Image.open(path) as image:
            image.load()
            assert image.text == {
                "Title": BOTH.title,
                "Description": "epoch 1",
                "Author": BOTH.author,
                "Source": BOTH.source,
                "Copyright": BOTH.copyright,
                "Software": software(),
            }
    with Image.open(tmp_path / "pixels.png") as image:
        assert np.array_equal(np.asarray(image), IMAGE)


@pytest.mark.parametrize("exact", [True, False])
def test_a_picture_of_a_page(exact):
    file = pictures.encoded(IMAGE, exact=exact, credit=BOTH)
    with Image.open(io.BytesIO(file)) as image:
        told = {tag: value.encode("latin-1").decode() for tag, value in image.getexif().items()}
    assert told == {
        DESCRIPTION: BOTH.title,
        ARTIST: BOTH.author,
        COPYRIGHT: BOTH.copyright,
        SOFTWARE: software(),
    }
    bare = pictures.encoded(IMAGE, exact=exact)
    with Image.open(io.BytesIO(bare)) as image:
        assert not image.getexif()  # nobody is named, and no byte is spent


def test_a_gif(tmp_path):
    path = tmp_path / "a.gif"
    pictures.animation(path, [IMAGE, IMAGE[::-1]], credit=BOTH)
    with Image.open(path) as image:
        lines = image.info["comment"].decode().splitlines()
        assert image.n_frames == 2
    assert lines == [
        f"Title: {BOTH.title}",
        f"Author: {BOTH.author}",
        f"Source: {BOTH.source}",
        f"Copyright: {BOTH.copyright}",
        f"Software: {software()}",
    ]
    assert path.read_bytes().count(b"Copyright: ") == 1  # not with every frame


def test_an_mp4(tmp_path):
    path = tmp_path / "a.mp4"
    pictures.animation(path, [IMAGE] * 3, credit=BOTH)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", path]
    told = subprocess.run(command, capture_output=True).stderr.decode()
    found = dict(re.findall(r"^ {4}(\w+) *: (.*)$", told, re.MULTILINE))
    assert found["title"] == BOTH.title
    assert found["artist"] == BOTH.author
    assert found["copyright"] == BOTH.copyright
    assert found["comment"] == f"{BOTH.source}; made by {software()}"


def test_nobody_is_named_where_nobody_is_known(tmp_path):
    assert NOBODY.png() == {"Software": software()}
    assert NOBODY.line == ""
    assert NOBODY.ffmpeg() == ["-metadata", f"comment=made by {software()}"]
