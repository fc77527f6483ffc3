"""Which format reads what, lists of files, and options in a user's words."""

import json
from pathlib import Path

import pytest

from pipeline import sources
from pipeline.errors import UsageError, UserError
from pipeline.sources import archive, filelist, options
from pipeline.sources.options import Options, asked


def test_numbers_in_names_sort_as_numbers(tmp_path):
    for name in ("b_10.nc", "b_2.nc", "a/z.nc", "b_1.NC", "._b_1.nc", "x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(p.relative_to(tmp_path)) for p in filelist.files(tmp_path, (".nc",))]
    assert found == ["a/z.nc", "b_1.NC", "b_2.nc", "b_10.nc"]


def test_a_link_that_leads_back_ends_the_walk(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nc").touch()
    (tmp_path / "in/back").symlink_to(tmp_path)
    assert len(list(filelist.below(tmp_path, (".nc",)))) == 1


LISTS = {
    "{}": "expected a JSON array of file names",
    "[]": "expected a JSON array of file names",
    "[1]": "expected a JSON array of file names",
    '[""]': "expected a JSON array of file names",
    "[": "not a readable JSON file",
    "[" * 100_000: "not a readable JSON file",
    '["gone.nc", "gone2.nc"]': r"names .*gone.nc, which is not there \(nor are 1 more\)",
    '["there.txt"]': "no raw frames found",
}


@pytest.mark.parametrize(("text", "told"), LISTS.items(), ids=range(len(LISTS)))
def test_a_bad_list_is_refused_in_a_sentence(tmp_path, text, told):
    (tmp_path / "there.txt").touch()
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        sources.scan(path)


def test_a_list_keeps_its_order_and_names_each_file_once(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.nc").touch()
    path = tmp_path / "list.json"
    path.write_text(json.dumps(["c.nc", "a.nc", "c.nc", str(tmp_path / "b.nc")]))
    assert [p.name for p in filelist.files(path, (".nc",))] == ["c.nc", "a.nc", "b.nc"]


def test_a_list_of_typhoon_images_is_a_source_too(tiny):
    files = tiny.track(hours=range(4))
    path = tiny.root / "some.json"
    path.write_text(json.dumps([str(file.relative_to(tiny.root)) for file in files[:3]]))
    (track,) = sources.scan(path).tracks
    assert (track.id, len(track.frames)) == ("202101", 3)


def test_typhoon_images_know_few_options(tiny):
    tiny.track(hours=range(3))
    with pytest.raises(UsageError, match="digital_typhoon, which has no --regi"):
        sources.scan(tiny.root, asked(variable=["infrared"], region="0,1,0,1"))
    with pytest.raises(UsageError, match=r"no channel tp; there are infrared, .*, 4 for --variabl"):
        sources.scan(tiny.root, asked(variable=["tp", "infrared"]))


def test_every_option_has_its_word_and_some_format_knows_it():
    assert set(options.WORDS) == set(Options.model_fields)
    known = set().union(*(sources.find(name).OPTIONS for name in sources.FORMATS))
    assert known == set(Options.model_fields)


def test_words_become_options():
    made = asked(
        variable=["tp,t2m", "sp"],
        levels="1000, 925",
        region="-10,20.5,0,30",
        accumulate="1d",
        covers="30min",
        step="6 h",
        value_range="150,330",
        track_by="10d",
    )
    assert made.variables == ("tp", "t2m", "sp")
    assert made.levels == (1000, 925)
    assert made.region == (-10, 20.5, 0, 30)
    assert (made.accumulate, made.covers, made.step) == (86400, 1800, 21600)
    assert Options(**json.loads(json.dumps(made.given()))) == made
    assert asked() == Options()


BAD = [
    ({"region": "1,2,3"}, r"--region 1,2,3: expected W,E,S,N"),
    ({"region": "0,10,50,40"}, "south below north"),
    ({"region": "0,1000,0,1"}, "longitudes within"),
    ({"region": "a,b,c,d"}, "expected W,E,S,N"),
    ({"levels": "1000,x"}, "expected numbers"),
    ({"levels": "1000,1000"}, "names one of them twice"),
    ({"levels": "nan"}, "expected numbers"),
    ({"resolution": 0.0}, "--resolution 0: expected degrees"),
    ({"accumulate": "soon"}, "--accumulate soon: expected a duration"),
    ({"accumulate": "0h"}, "expected a duration"),
    ({"accumulate": "90min"}, "expected whole hours"),
    ({"track_by": "fortnight"}, "--track-by fortnight: expected one of day, week"),
    ({"value_range": "1"}, "two values, of black and of white"),
    ({"start": "yesterday"}, "--start yesterday: expected a UTC time"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=range(len(BAD)))
def test_words_that_mean_nothing_are_refused(words, told):
    with pytest.raises(UsageError, match=told):
        asked(**words)


def test_durations_are_said_as_people_say_them():
    said = [options.said(s) for s in (600, 3600, 86400, 864_000, 90)]
    assert said == ["10 min", "1 h", "24 h", "10 d", "90 s"]


def test_nothing_there_names_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"H5 files named like .*NetCDF files, or folders of frame"):
        sources.scan(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        sources.scan(Path(tmp_path / "gone"))


def test_what_is_hidden_is_not_looked_at(tmp_path):
    for name in ("a.nc", ".b.nc", ".cache/c.nc", "__MACOSX/d.nc", "in/e.nc", "in/.trash/f.nc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {str(p.relative_to(tmp_path)) for p in filelist.below(tmp_path, (".nc",))}
    assert found == {"a.nc", "in/e.nc"}
    assert filelist.is_litter("x/._y")
    assert not filelist.is_litter("./x/../y")


def test_what_is_left_out_of_a_folder_is_counted_in_one_note(tiny):
    tiny.track(hours=range(3))
    beside = ("README.md", "LICENSE", "a.csv", "Thumbs.db", ".DS_Store", "s.zarr/0.0", "WP.tar.gz")
    for name in (*beside, "WP.tar.gz.00", "WP.tar.gz01", "image/202101/info.txt"):
        (tiny.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tiny.root / name).touch()
    quiet = sources.scan(tiny.root)
    for name in ("x.nc", "in/y.NC", "z.tif", "image/202101/w.h5.part"):
        (tiny.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tiny.root / name).touch()
    release = sources.scan(tiny.root)
    told = f"{tiny.root} is read as digital_typhoon; not of that form, left out: "
    (note,) = (note for note in release.notes if note not in quiet.notes)
    assert note.startswith(told + "2 .nc, ")
    assert set(note.removeprefix(told).split(", ")) == {"2 .nc", "1 .tif", "1 .part"}
    assert not any("left out" in note for note in quiet.notes)
    assert release.problems == quiet.problems == ()


def test_a_second_download_beside_the_first_is_told_to_be_left_out(tmp_path):
    """wget's a.nc.1; of an archive the same ending is a part's."""
    for name in ("a.nc", "a.nc.1", "b.NC.2", "a.nc-aa", "c.tar.gz.1"):
        (tmp_path / name).touch()
    left_out = filelist.others(tmp_path, (".nc", ".nc4"))
    assert sorted(left_out) == ["a.nc-aa", "a.nc.1", "b.NC.2", "c.tar.gz.1"]
    assert filelist.counted(left_out) == "1 .gz.1, 1 .nc-aa, 1 .nc.1, 1 .nc.2"
    archived = filelist.others(tmp_path, (".h5", ".tar", ".tgz", ".tar.gz"))
    assert sorted(archived) == ["a.nc", "a.nc-aa", "a.nc.1", "b.NC.2"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("WP.tar.gz", True),
        ("WP.tar.gz.01", True),
        ("WP.tgz-ab", True),
        ("WP.tar.gz.md5", True),
        ("SUMS.SHA256", True),
        ("WP.h5", False),
        ("image", False),
        ("a.nc.1", False),
    ],
)
def test_a_name_tells_whether_it_belongs_to_an_archive(name, told):
    assert archive.belongs(Path("of") / name) is told


HELD = {
    ("a.tif", "b.tif", "c.md"): "; it holds 2 .tif, 1 .md$",
    ("era5.nc.gz",): "; it holds 1 .gz: unpack what is packed first$",
    ("era5.nc.part",): "; it holds 1 .part: a download is not finished$",
    ("era5.h5",): "; it holds 1 .h5: NetCDF that is called otherwise must end in .nc$",
    ("era5",): "; it holds 1 without an ending: NetCDF that is called otherwise must end in .nc$",
    ("metadata/202101.csv",): "; it holds 1 .csv: tables alone are no frames: give the folder that",
    ("a.a", "b.b", "c.c", "d.d", "e.e", "f.f"): "1 .d, 2 more$",
    (".hidden.nc",): "; the folder is empty, or all in it is hidden$",
}


@pytest.mark.parametrize(("names", "told"), HELD.items(), ids=range(len(HELD)))
def test_where_nothing_is_recognised_it_is_said_what_is_there(tmp_path, names, told):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=told):
        sources.scan(tmp_path)


def test_a_file_that_is_not_recognised_is_told_of_alone(tmp_path):
    cases = {"a.nc.bz2": "; unpack what is packed first$", "b.tif": "; it is a file .tif"}
    for name, told in cases.items():
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=told):
            sources.scan(tmp_path / name)


def test_every_format_says_the_endings_that_it_reads():
    for name in sources.FORMATS:
        assert sources.find(name).ENDINGS
