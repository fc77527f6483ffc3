"""Windows: T consecutive usable frames at one step, and nothing else."""

import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import store, windows
from pipeline.loader import windows_of

HOUR = 3600


@st.composite
def tracks(draw):
    """Times with gaps and mixed steps, and which frames are usable."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 7]), max_size=40))
    times = np.cumsum([draw(st.integers(0, 10**6)), *steps]) * HOUR
    usable = draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    return times, np.array(usable, bool)


@given(tracks(), st.integers(1, 6))
def test_windows_are_exactly_the_runs_of_usable_frames_at_the_usual_step(track, length):
    times, usable = track
    step = windows.usual_step(times)
    expected = [
        first
        for first in range(len(times) - length + 1)
        if usable[first : first + length].all()
        and (np.diff(times[first : first + length]) == step).all()
    ]
    assert windows.starts(times, usable, length).tolist() == expected


@given(tracks(), st.integers(1, 6), st.booleans())
def test_one_more_frame_in_front_shifts_the_windows_by_one(track, length, usable_too):
    times, usable = track
    step = windows.usual_step(times) or HOUR
    longer = np.concatenate([[times[0] - step], times])
    before = windows.starts(times, usable, length)
    after = windows.starts(longer, np.concatenate([[usable_too], usable]), length)
    assert set(before + 1) <= set(after) <= {0, *(before + 1)}


@given(tracks(), st.integers(-(10**9), 10**9))
def test_a_later_clock_changes_nothing(track, shift):
    times, usable = track
    np.testing.assert_array_equal(
        windows.starts(times, usable, 3), windows.starts(times + shift, usable, 3)
    )


IDS = ["197801", "202101", "202107"]
HOURS = st.dictionaries(st.integers(0, 15), st.booleans(), min_size=1, max_size=8)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(IDS), HOURS, min_size=1))
def test_from_files_to_the_triplet_index(tiny, tracks):
    """tracks: of each id the hours that have a file, and whether it is fit for use."""
    shutil.rmtree(tiny.home)
    spoiled = np.full((16, 16), -19.1)
    for id, hours in tracks.items():
        for hour, fit in hours.items():
            tiny.write(hour, id, None if fit else spoiled)
    done = tiny.conversion()
    expected = []
    for number, (id, hours) in enumerate(sorted(tracks.items())):
        there = sorted(hours)
        steps = Counter(np.diff(there).tolist())
        step = min(steps, key=lambda s: (-steps[s], s), default=0)
        gaps = [(a, b) for a, b in pairwise(there) if b - a != step]
        assert done.records[id]["gaps"] == [[*map(iso, gap)] for gap in gaps]
        assert done.records[id]["flagged"] == list(hours.values()).count(False)
        for i, (a, b, c) in enumerate(zip(there, there[1:], there[2:], strict=False)):
            if b - a == c - b == step and hours[a] and hours[b] and hours[c]:
                expected.append((number, i + 1))
    opened = store.open_store(done.store)
    found = np.stack(opened.triplets(), axis=1)
    assert found.tolist() == [list(triplet) for triplet in expected]
    np.testing.assert_array_equal(windows_of(list(opened), 3), found - (0, 1))
    assert done.triplets == len(expected)


def iso(hour: int) -> str:
    return str(np.datetime64("2021-07-19T00", "s") + np.timedelta64(hour, "h"))


def test_a_gap_ends_a_window():
    times = np.array([0, 1, 2, 5, 6, 7, 8]) * HOUR  # 2 -> 5 h is a gap
    assert windows.starts(times, np.ones(7, bool), 3).tolist() == [0, 3, 4]


def test_a_three_hourly_track_has_windows_at_three_hours():
    times = np.arange(5) * 3 * HOUR
    assert windows.usual_step(times) == 3 * HOUR
    assert windows.starts(times, np.ones(5, bool), 3).tolist() == [0, 1, 2]


def test_steps_are_not_mixed():
    times = np.array([0, 3, 6, 7, 8, 9, 10]) * HOUR  # 3-hourly at first, then hourly
    assert windows.starts(times, np.ones(7, bool), 3).tolist() == [2, 3, 4]


def test_of_equally_frequent_steps_the_shorter_counts():
    assert windows.usual_step(np.array([0, 3, 6, 7, 8]) * HOUR) == HOUR


def test_few_frames():
    assert windows.usual_step(np.array([7])) == 0
    assert windows.starts(np.array([7]), np.array([True]), 3).tolist() == []
    assert windows.starts(np.array([7]), np.array([True]), 1).tolist() == [0]
    assert windows.starts(np.array([7]), np.array([False]), 1).tolist() == []
    assert windows.starts(np.array([], np.int64), np.array([], bool), 1).tolist() == []


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame, not 0"):
        windows.starts(np.arange(3), np.ones(3, bool), 0)
