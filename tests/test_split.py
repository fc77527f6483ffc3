"""A split divides whole tracks; its statistics see the training tracks alone."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import manifest, split
from pipeline.errors import UsageError, UserError
from pipeline.sources.digital_typhoon import ATTRS
from pipeline.split import chosen, drawn

IDS = ["197801", "201501", "201502", "201601", "201801", "202101", "202107"]


@pytest.fixture
def four(tiny):
    """A store of four tracks with 6, 5, 4 and 3 frames."""
    for number, id in enumerate(["197801", "201501", "202101", "202107"]):
        tiny.track(id, range(6 - number))
    tiny.opened = tiny.store()
    return tiny


def divide(tiny, **options):
    return split.split(tiny.opened.path, tiny.home / "x.split.json", **options)


def written(made: manifest.Split) -> manifest.Split:
    """What its file says: all but the frames of each part."""
    return made.model_copy(update={"frames": {}})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["202107"], ["202107"]),
        (["202107,201501"], ["201501", "202107"]),  # in the store's order
        (["202107", "201501", "202107,202107"], ["201501", "202107"]),
        ([" 202107 , 201501 ,"], ["201501", "202107"]),
        (["2015-2016"], ["201501", "201502", "201601"]),
        (["2016-2018,202107"], ["201601", "201801", "202107"]),
        (["1978-1978"], ["197801"]),
        ([], []),
        ([""], []),
    ],
)
def test_ids_as_people_write_them(asked, expected):
    assert chosen(IDS, asked) == expected


@pytest.mark.parametrize("start", ["", "\ufeff"])  # Notepad begins a file with a mark
def test_ids_from_a_file(tmp_path, start):
    file = tmp_path / "ids.txt"
    file.write_text(f"{start}202107 # last\n\n# none here: 201601\n2015-2015, 197801\r\n", "utf-8")
    assert chosen(IDS, [f"@{file}"]) == ["197801", "201501", "201502", "202107"]
    assert chosen(IDS, ["202101", f"@{file}"])[-2:] == ["202101", "202107"]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="absent: cannot be read as a list of ids"):
        chosen(IDS, [f"@{tmp_path}/absent"])
    (tmp_path / "image").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="image: cannot be read as a list of ids"):
        chosen(IDS, [f"@{tmp_path}/image"])


def test_a_file_that_names_itself_is_no_endless_walk(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text(f"@{file}\n")
    with pytest.raises(UserError, match="no track '@"):
        chosen(IDS, [f"@{file}"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("202108", "no track '202108'; near it: 202107"),
        ("abc", "no track 'abc'; the store has 197801, 201501"),
        ("1990-1999", "no track of seasons 1990-1999; the store has seasons 1978, 2015"),
        ("2018-2015", "2018-2015: the first season must not be after the last"),
        ("202108,299999", "'202108'.*; no track '299999'"),
        ("20210", "no track '20210'; near it: 20210"),
    ],
)
def test_unknown_ids_and_their_neighbours(asked, said):
    with pytest.raises(UserError, match=said):
        chosen(IDS, [asked])


MANY = st.lists(st.integers(0, 60).map("20{:04}".format), unique=True, min_size=2)
SHARES = st.floats(0.001, 0.999)


@given(MANY, SHARES, st.integers(0, 2**32), st.randoms())
def test_a_draw_depends_on_the_ids_and_the_seed_alone(ids, share, seed, shuffling):
    part = drawn(ids, share, seed)
    assert part == sorted(set(part))
    assert set(part) < set(ids)
    assert abs(len(part) - share * len(ids)) <= 1
    other = [*ids]
    shuffling.shuffle(other)
    assert drawn(other, share, seed) == part


@given(MANY, st.data())
def test_asked_in_any_order_and_any_words_ids_are_the_store_s(have, data):
    asked = data.draw(st.lists(st.sampled_from(have)))
    places = sorted(data.draw(st.sets(st.integers(0, len(asked)), max_size=3)) | {0, len(asked)})
    words = [",".join(asked[a:b]) for a, b in pairwise(places)]
    assert chosen(have, words) == [id for id in have if id in asked]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_split_divides_whole_tracks(four, data):
    ids = four.opened.ids
    tests = data.draw(st.lists(st.sampled_from(ids), max_size=2))
    if data.draw(st.booleans()):
        asked = {"eval_fraction": data.draw(SHARES), "seed": data.draw(st.integers(0, 9))}
    else:
        rest = [id for id in ids if id not in tests]
        asked = {"eval_ids": data.draw(st.lists(st.sampled_from(rest), min_size=1))}
    if len({*asked.get("eval_ids", ids[:1]), *tests}) == len(ids):
        return  # nothing would be left to train on
    made = divide(four, test_ids=tests, **asked)
    parts = [made.train, made.eval, made.test]
    assert sorted(id for part in parts for id in part) == ids  # each in one part
    assert all(part == sorted(part) for part in parts)
    assert made.train
    assert made.eval
    assert made.test == sorted(set(tests))
    assert sum(made.triplets.values()) == len(four.opened.triplets()[0])
    again = {key: [*reversed(v)] if key == "eval_ids" else v for key, v in asked.items()}
    other = divide(four, test_ids=[*reversed(tests)], **again)
    assert [other.train, other.eval, other.test] == parts
    assert other.statistics == made.statistics


def test_parts_are_whole_tracks_and_share_none(four):
    made = divide(four, eval_ids=["202101"], test_ids=["1978-1978"])
    assert (made.train, made.eval, made.test) == (["201501", "202107"], ["202101"], ["197801"])
    assert made.triplets == {"train": 3 + 1, "eval": 2, "test": 4}
    assert made.manifest_hash == four.opened.manifest_hash
    assert manifest.read_split(four.home / "x.split.json", four.opened) == written(made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eval_ids": ["202107", "2015-2018"]}, "eval: 202107,2015-2018"),
        (
            {"eval_ids": ["202107"], "test_ids": ["1978-1978,202101"]},
            "eval: 202107; test: 1978-1978,202101",
        ),
        ({"eval_fraction": 0.25, "seed": 3}, "eval: 0.25 of the tracks, seed 3"),
        (
            {"eval_fraction": 0.25, "test_ids": ["1978-1978"]},
            "eval: 0.25 of the tracks, seed 0; test: 1978-1978",
        ),
    ],
)
def test_a_split_says_how_each_part_was_chosen(four, options, said):
    assert divide(four, **options).selected_by == said


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, UsageError, "give --eval-ids or --eval-fraction"),
        ({"eval_ids": ["202101"], "eval_fraction": 0.5}, UsageError, "give one of them"),
        ({"eval_ids": ["202101"], "test_ids": ["2021-2021"]}, UserError, "track 202101 is asked"),
        ({"eval_ids": ["1978-2021"]}, UserError, "no tracks left to train on; all 4"),
        ({"eval_ids": ["197801"], "test_ids": ["2000-2021"]}, UserError, "no tracks left to train"),
        ({"eval_fraction": 0}, UsageError, "between 0 and 1, as 0.1"),
        ({"eval_fraction": 1.0}, UsageError, "between 0 and 1, as 0.1"),
        ({"eval_fraction": float("nan")}, UsageError, "between 0 and 1, as 0.1"),
        ({"eval_fraction": 0.5, "test_ids": ["1978-2020,202101"]}, UserError, "fewer than 2 trac"),
        ({"eval_ids": ["202109"]}, UserError, "near it: 202101, 202107|near it: 202107, 202101"),
    ],
)
def test_a_split_that_cannot_be_writes_nothing(four, options, error, said):
    with pytest.raises(error, match=said):
        divide(four, **options)
    assert not (four.home / "x.split.json").exists()


def test_a_drawn_part_follows_from_the_seed(four):
    drawn = [divide(four, eval_fraction=0.25, seed=seed).eval for seed in range(12)]
    assert {len(ids) for ids in drawn} == {1}
    assert len({ids[0] for ids in drawn}) > 1
    assert drawn == [divide(four, eval_fraction=0.25, seed=seed).eval for seed in range(12)]
    made = divide(four, eval_fraction=0.99, test_ids=["202107"])
    assert len(made.train) == 1  # never all
    assert "202107" not in made.eval


def test_statistics_are_those_of_the_training_tracks_usable_pixels(four):
    for hour, lost in ((0, 1), (1, 200)):
        pixels = four.pixels(hour)
        pixels.flat[:lost] = -19.1
        four.write(hour, "201501", pixels)
    four.opened = four.store()
    found = divide(four, eval_ids=["202101"], test_ids=["197801"]).statistics
    tracks = [four.opened.track(id) for id in ("201501", "202107")]
    frames = np.concatenate([t.frames[t.flag == 0] for t in tracks]).astype(np.float64)
    values = frames[~np.isnan(frames)]
    assert found.count == [len(values)] == [(5 - 1 + 3) * 256 - 1]
    np.testing.assert_allclose(found.mean, [values.mean()], rtol=1e-12)
    np.testing.assert_allclose(found.std, [values.std()], rtol=1e-8)
    assert (found.min, found.max) == ([values.min()], [values.max()])


def test_training_tracks_without_a_usable_frame(tiny):
    tiny.track("202101", range(3))
    tiny.write(0, "202102", np.full((16, 16), 170.0))
    tiny.opened = tiny.store()
    said = "the training tracks 202102 hold no usable frame; set others aside$"
    with pytest.raises(UserError, match=said):
        divide(tiny, eval_ids=["202101"])
    lost = tiny.pixels()
    lost[:8] = np.nan
    tiny.write(1, "202102", lost)
    tiny.opened = tiny.store(replace=True)
    said = said.replace("$", ", or convert with a larger --max-missing$")
    with pytest.raises(UserError, match=said):
        divide(tiny, eval_ids=["202101"])


# published ways


@pytest.fixture
def seasons(tiny):
    """Six tracks of 3 frames; 201601 enters the area in its last frame, 201001 is outside."""
    places = {"200401": "5,20,130", "200501": "3,20,100", "201001": "5,20,99.9"}
    places |= {"201401": "2,20,180", "201601": "4,20,150", "201702": "6,20,-180"}
    for id, place in places.items():
        tiny.track(id, range(3))
        rows = tiny.rows(range(3), f"{place},965,75,0,0")
        if id == "201601":
            rows[2] = rows[2].replace(",4,20,", ",7,20,")
        tiny.table(id, rows)
    tiny.opened = tiny.store()
    return tiny


def test_neurips23_goes_by_seasons_and_leaves_out_what_is_nowhere_inside(seasons):
    made = divide(seasons, preset="neurips23")
    assert (made.train, made.eval) == (["200401"], ["200501", "201401"])
    assert made.test == ["201601", "201702"]  # -180 is 180 degrees east
    assert "published are frames of grade < 7 within 100..180 E" in made.selected_by
    assert "whole tracks: 1 of 15 frames are others and stay in" in made.selected_by
    assert "left out: 201001, without any" in made.selected_by
    assert manifest.read_split(seasons.home / "x.split.json", seasons.opened) == written(made)


def test_hours_without_a_best_track_count_as_others(seasons):
    seasons.table("201702", seasons.rows([0], "5,20,150,965,75,0,0"))
    seasons.opened = seasons.store("T.zarr")
    assert "3 of 15 frames are others" in divide(seasons, preset="neurips23").selected_by


def test_ss_l2_tests_on_the_last_two_seasons(seasons):
    made = divide(seasons, preset="ss-l2")
    assert made.test == ["201601", "201702"]
    assert made.eval == ["201401"]  # the season before them
    assert made.train == ["200401", "200501", "201001"]
    assert made.selected_by == (
        "preset ss-l2: test: the last two seasons, 2016, 2017; eval: the season before them, 2014"
    )
    other = divide(seasons, preset="ss-l2", eval_ids=["200401"])
    assert (other.eval, other.test) == (["200401"], ["201601", "201702"])
    assert other.selected_by.endswith("2016, 2017; eval: 200401")


def test_a_raw_tree_is_divided_as_its_store(seasons):
    of_store = divide(seasons, preset="neurips23")
    of_tree = split.split(seasons.root, seasons.home / "y.split.json", preset="neurips23")
    assert of_tree.selected_by == of_store.selected_by
    assert of_tree.test == of_store.test


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"preset": "neurips23", "eval_ids": ["200401"]}, UsageError, "leave --eval-... out"),
        ({"preset": "neurips23", "test_ids": ["200401"]}, UsageError, "leave --test-ids out"),
        ({"preset": "ss-l2", "eval_ids": ["201601"]}, UserError, "both as eval and as test"),
        ({"preset": "ss-l2", "eval_ids": ["2004-2014"]}, UserError, "no tracks left to train on"),
    ],
)
def test_what_goes_with_no_preset(seasons, options, error, said):
    with pytest.raises(error, match=said):
        divide(seasons, **options)


def test_presets_say_what_a_store_lacks(four):
    with pytest.raises(UserError, match=r"197801, 201501, .* have no best track; convert with"):
        divide(four, preset="neurips23")
    four.opened = four.store("late.zarr", ids=["202101", "202107", "201501"])
    with pytest.raises(UserError, match=r"ss-l2 takes the last two .* are only 2015, 2021"):
        divide(four, preset="ss-l2")
    for id in ("201501", "202101", "202107"):
        four.table(id, four.rows(range(6)))
    four.opened = four.store("tables.zarr", ids=["202101", "202107", "201501"])
    with pytest.raises(UserError, match="no train tracks here: none of seasons before 2005"):
        divide(four, preset="neurips23")


# read again


def test_a_split_says_whose_data_it_divides(four):
    made = divide(four, eval_ids=["202101"])
    file = four.home / "x.split.json"
    content = json.loads(file.read_text())
    said = {name: content.pop(name) for name in ("title", "license", "attribution")}
    assert said == {name: ATTRS[name] for name in said}
    assert not {"references", "acknowledgement"} & set(content)  # of which the store says nothing
    assert manifest.read_split(file, four.opened) == written(made)
    file.write_text(json.dumps(content))  # as an older eddy wrote it
    older = manifest.read_split(file, four.opened)
    assert (older.train, older.license) == (made.train, "")
    conversion = json.loads((four.home / "manifests/S.json").read_text())
    assert {name: conversion[name] for name in said} == said


def test_the_split_of_another_store_is_refused(four):
    divide(four, eval_ids=["202101"])
    other = four.store("other.zarr", max_missing=0.5)
    said = r"divides the store 'S.zarr' of conversion .* but .*other.zarr is .*; run `cli split"
    with pytest.raises(UserError, match=said):
        manifest.read_split(four.home / "x.split.json", other)


def test_a_store_converted_elsewhere_from_the_same_release_is_the_same(four, tmp_path):
    (four.path(0, "202101").with_name("odd.h5")).write_bytes(b"")  # a problem names its path
    here = four.store("here.zarr")
    four.root = four.root.rename(tmp_path / "moved")
    assert four.store("there.zarr").manifest_hash == here.manifest_hash


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda split: split.update(version=2), "version"),
        (lambda split: split.pop("train"), "train: Field required"),
        (lambda split: split.update(more=1), "more: Extra inputs"),
        (lambda split: split["train"].append("202101"), "202101 is in more than one part"),
        (lambda split: split["eval"].append(202101), "eval.1: Input should be a valid string"),
        (lambda split: split["test"].append("202101"), "202101 is in more than one part"),
        (lambda split: split["train"].append("209901"), "no track '209901'"),
    ],
)
def test_a_split_changed_by_hand_is_looked_at(four, change, said):
    divide(four, eval_ids=["202101"])
    file = four.home / "x.split.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"x.split.json: .*{said}"):
        manifest.read_split(file, four.opened)


def test_a_file_that_is_no_split(four):
    with pytest.raises(UserError, match="absent: no split file; run `cli split"):
        manifest.read_split(four.home / "absent", four.opened)
    (four.home / "bad").write_text("{")
    with pytest.raises(UserError, match="bad: not a split file: the file: Invalid JSON"):
        manifest.read_split(four.home / "bad", four.opened)


def test_an_empty_part_says_how_to_fill_it(four):
    made = divide(four, eval_ids=["202101"])
    with pytest.raises(UserError, match="no test tracks; run `cli split` with --test-ids"):
        made.part("test")
    assert made.part("eval") == ["202101"]


def test_the_digest_looks_at_content_alone():
    assert manifest.digest({"a": 1, "b": [2]}) == manifest.digest({"b": [2], "a": 1})
    assert manifest.digest({"a": 1}) != manifest.digest({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.digest(float("nan"))
