"""The synthetic tree has the release's form, and its storms move as storms do."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.sources.synthetic import (
    HEADER,
    Storm,
    calibration,
    demo_storms,
    frames,
    write_tree,
)

FAULTY = Storm(gaps=(3, 4), blank=(5,), bad_pixels=(6, 7), truncated=(8,))


def tree_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def drawn(storm: Storm, **options) -> list[np.ndarray]:
    return [frame for _, frame in frames(storm, **options)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("dataset", "long_name", "units"),
    [
        ("Infrared", b"Brightness temperature", b"K (kelvin)"),
        ("infrared", b"temperature", b"kelvin"),
    ],
)
def test_a_file_has_the_release_form(tmp_path, dataset, long_name, units):
    (path,) = write_tree(tmp_path, [Storm(hours=1)], size=288, dataset=dataset)
    assert path.relative_to(tmp_path) == Path("image/202101/2021071900-202101-HMW8-1.h5")
    with h5py.File(path) as file:
        assert list(file) == [dataset]
        data = file[dataset]
        assert data.shape == (288, 288)
        assert data.dtype == np.dtype("<f8")
        assert data.chunks == (256, 256)
        assert (data.compression, data.compression_opts, data.shuffle) == ("gzip", 9, False)
        assert dict(data.attrs) == {"long_name": long_name, "units": units}
        assert data.attrs["units"].dtype.kind == "S"
        np.testing.assert_array_equal(data[()], drawn(Storm(hours=1), size=288)[0])


def test_the_best_track_has_a_row_for_every_hour(tmp_path):
    write_tree(tmp_path, [Storm(gaps=(3,), wind=(25, 70))], size=32)
    lines = (tmp_path / "metadata/202101.csv").read_text().splitlines()
    assert (
        lines[0]
        == HEADER
        == (
            "year,month,day,hour,grade,lat,lng,pressure,wind,dir50,long50,short50,"
            "dir30,long30,short30,landfall,intp,file_1,mask_1,mask_1_pct"
        )
    )
    rows = rows_of(tmp_path / "metadata/202101.csv")
    hours = [datetime(*(int(r[k]) for k in ("year", "month", "day", "hour"))) for r in rows]  # noqa: DTZ001
    assert {(b - a).seconds for a, b in pairwise(hours)} == {3600}
    assert all(r["intp"] == str(int(int(r["hour"]) % 6 != 0)) for r in rows)
    with_image = [r for r in rows if r["file_1"]]
    assert len(with_image) == 11  # 12 hours less a gap
    assert len(rows) >= 12 + 2 * 6  # the margin before and after
    assert with_image[0]["file_1"] == "2021071900-202101-HMW8-1.h5"
    assert {r["mask_1"] for r in rows if not r["file_1"]} == {""}
    assert rows[0]["grade"] == "2"
    assert rows[0]["wind"] == "0"  # a depression's, in the JMA's best track
    assert rows[-1]["grade"] == "5"
    assert 900 < float(rows[-1]["pressure"]) < float(rows[0]["pressure"]) < 1010


def test_metadata_json_counts_the_images(tmp_path):
    write_tree(tmp_path, [Storm(gaps=(0,), start=datetime(2021, 7, 19, 20, tzinfo=UTC))], size=16)
    assert json.loads((tmp_path / "metadata.json").read_text()) == {
        "202101": {
            "id": "202101",
            "number": 1,
            "season": 2021,
            "name": None,
            "images": 11,
            "start": "2021-07-19",
            "end": "2021-07-20",
        }
    }


def test_longitudes_wrap_at_180(tmp_path):
    write_tree(tmp_path, [Storm(longitude=179.8, heading=90, turn=0)], size=16)
    longitudes = [float(row["lng"]) for row in rows_of(tmp_path / "metadata/202101.csv")]
    assert max(longitudes) > 179
    assert min(longitudes) < -178
    assert -180 <= min(longitudes) <= max(longitudes) < 180


@pytest.mark.parametrize(("satellite", "levels"), [("GMS3", 256), ("MTS1", 1024), ("HMW8", 1024)])
def test_values_come_from_the_calibration(satellite, levels):
    table = calibration(satellite)
    assert len(table) == levels
    steps = np.diff(table)
    assert (np.diff(steps) < 1e-5).all()  # finer where it is warm; six digits
    (frame,) = drawn(Storm(satellite=satellite, hours=1), size=64)
    assert np.isin(frame, table).all()
    assert len(np.unique(frame)) > levels / 8
    assert len(np.unique(frame.astype(np.float32))) == len(np.unique(frame))  # none lost
    assert 180 < frame.min() < 225
    assert 285 < frame.max() < 300


def test_known_steps_of_the_calibration():
    # MTS1 in the release: 0.11 K at 298 K, 0.41 K at 200 K; GMS3: 0.48 K at 297 K
    at = {s: (t := calibration(s), np.diff(t)) for s in ("MTS1", "GMS3")}
    step = {(s, k): float(d[np.searchsorted(t, k)]) for s, (t, d) in at.items() for k in (200, 298)}
    assert step["MTS1", 298] == pytest.approx(0.11, rel=0.1)
    assert step["MTS1", 200] == pytest.approx(0.41, rel=0.15)
    assert step["GMS3", 298] == pytest.approx(0.48, rel=0.15)


def test_faults_appear_where_asked(tmp_path):
    write_tree(tmp_path, [FAULTY], size=64)
    files = {p.name[8:10]: p for p in (tmp_path / "image/202101").iterdir()}
    assert sorted(files) == ["00", "01", "02", "05", "06", "07", "08", "09", "10", "11"]
    with pytest.raises(OSError, match="truncated"):
        h5py.File(files["08"])
    seen = dict(frames(FAULTY, size=64))
    assert np.unique(seen[5]).size == 1
    assert files["05"].stat().st_size < 0.7 * files["00"].stat().st_size
    rows = {r["file_1"][8:10]: r for r in rows_of(tmp_path / "metadata/202101.csv") if r["file_1"]}
    for hour, frame in seen.items():
        lost, fringe = frame == -19.1, frame > 330
        if hour in FAULTY.bad_pixels:
            assert 0.15 < lost.mean() < 0.22
            assert not lost[: 64 * 2 // 3].any()
            assert lost[-1].all()
            assert 0 < fringe.sum() < 20
            assert frame[fringe].max() < 338
        else:
            assert not lost.any()
            assert not fringe.any()
        row = rows[f"{hour:02}"]
        assert int(row["mask_1"]) == (lost | fringe).sum()
        assert float(row["mask_1_pct"]) == pytest.approx(100 * (lost | fringe).mean(), abs=1e-4)


def test_the_same_seed_gives_the_same_bytes_whatever_stands_beside(tmp_path):
    storms = [FAULTY, Storm("202102", hours=3)]
    write_tree(tmp_path / "a", storms, size=32)
    write_tree(tmp_path / "b", storms[::-1], size=32)
    a, b = tree_of(tmp_path / "a"), tree_of(tmp_path / "b")
    assert a.pop("metadata.json") != b.pop("metadata.json")  # in the order asked
    assert a == b
    write_tree(tmp_path / "c", storms[:1], size=32)
    c = tree_of(tmp_path / "c")
    assert {name: data for name, data in a.items() if "202101" in name}.items() <= c.items()


def test_seeds_and_storms_differ():
    one = Storm(hours=1)
    first, other_seed, other_id = (
        drawn(storm, size=32, seed=seed)[0]
        for storm, seed in ((one, 0), (one, 1), (replace(one, id="202102"), 0))
    )
    assert np.corrcoef(first.ravel(), other_seed.ravel())[0, 1] < 0.9
    assert np.corrcoef(first.ravel(), other_id.ravel())[0, 1] < 0.9


def test_channels_make_a_tree_of_v3(tmp_path):
    storms = [
        Storm(hours=2),
        Storm("199601", hours=1, satellite="GMS5"),
        Storm("202102", hours=1, latitude=-15, satellite="GMS3"),
    ]
    written = write_tree(tmp_path, storms, size=16, channels=(1, 2, 3, 4))
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        *(
            f"{c}/WP/image/202101/202107190{hour}-202101-HMW8-{c}.h5"
            for c in (1, 2, 3, 4)
            for hour in (0, 1)
        ),
        *(f"{c}/WP/image/199601/2021071900-199601-GMS5-{c}.h5" for c in (1, 2, 3)),
        "1/AU/image/202102/2021071900-202102-GMS3-1.h5",  # which had one channel
    ]
    with h5py.File(written[0]) as file:
        assert list(file) == ["Data"]
        np.testing.assert_array_equal(file["Data"], drawn(Storm(hours=2), size=16)[0])
    row = next(r for r in rows_of(tmp_path / "3/WP/metadata/202101.csv") if r["file_3"])
    assert row["file_3"] == "2021071900-202101-HMW8-3.h5"
    assert row["mask_3"] == "0"
    assert json.loads((tmp_path / "1/AU/metadata.json").read_text()).keys() == {"202102"}
    warm = [drawn(Storm(hours=1), size=32, channel=c)[0].max() for c in (1, 2, 3, 4)]
    assert warm[2] < 255 < warm[1] < warm[0] < warm[3]  # water vapour hides the ground


def test_months_regroup_the_same_files(tmp_path):
    storm = Storm(start=datetime(2021, 7, 31, 20, tzinfo=UTC), hours=8)
    by_id = write_tree(tmp_path / "id", [storm], size=16)
    by_month = write_tree(tmp_path / "month", [storm], size=16, image_folders="month")
    assert [p.name for p in by_id] == [p.name for p in by_month]
    assert [p.read_bytes() for p in by_id] == [p.read_bytes() for p in by_month]
    assert [p.parent.name for p in by_month] == ["202107"] * 4 + ["202108"] * 4


def test_metadata_may_be_left_out(tmp_path):
    write_tree(tmp_path, [Storm(hours=1)], size=16, metadata=False)
    assert [p.name for p in tmp_path.iterdir()] == ["image"]


def test_progress_is_called_once_per_image(tmp_path):
    calls = []
    write_tree(tmp_path, [Storm(hours=9, step_hours=3)], size=16, progress=lambda: calls.append(1))
    assert len(calls) == 3  # hours 0, 3, 6


def turn_between(before: np.ndarray, after: np.ndarray) -> int:
    """Degrees counter-clockwise by which rings around the centre have turned; best correlation."""
    size = len(before)
    theta = np.radians(np.arange(360))
    radius = np.linspace(0.08, 0.16, 8)[:, None] * size
    row = np.rint((size - 1) / 2 - radius * np.sin(theta)).astype(int)
    column = np.rint((size - 1) / 2 + radius * np.cos(theta)).astype(int)
    rings = [f[row, column] - f[row, column].mean(1, keepdims=True) for f in (before, after)]
    a, b = (np.fft.rfft(r) for r in rings)
    shift = int(np.fft.irfft((b * np.conj(a)).sum(0)).argmax())
    return shift if shift < 180 else shift - 360


@pytest.mark.parametrize(("latitude", "sense"), [(18.0, 1), (-18.0, -1)])
def test_storms_turn_cyclonically(latitude, sense):
    sky = drawn(Storm(hours=6, latitude=latitude, wind=(90, 100)), size=128)
    turns = [sense * turn_between(a, b) for a, b in pairwise(sky)]
    assert all(0 < turn < 30 for turn in turns), turns


def test_the_sky_changes_smoothly():
    sky = drawn(Storm(hours=13), size=64)
    alike = [np.corrcoef(sky[0].ravel(), frame.ravel())[0, 1] for frame in sky]
    assert alike[1] > alike[3] > alike[6]
    assert alike[1] > 0.8  # in the release 0.90 after an hour, 0.66 after six
    errors = [np.sqrt(np.mean((a - b) ** 2)) for a, b in pairwise(sky)]
    assert min(errors) > 2  # kelvin
    assert max(errors) < 3 * min(errors)  # no generation of texture appears at once


def test_fine_structure_is_there_to_be_learnt():
    (frame,) = drawn(Storm(hours=1), size=256)
    blocks = frame.reshape(64, 4, 64, 4).mean((1, 3))
    lost = frame - np.kron(blocks, np.ones((4, 4)))
    assert 2.5 < lost.std() < 9  # kelvin


def test_the_demo_has_a_gap_a_blank_frame_and_lost_lines():
    storms = demo_storms(9)
    assert len({storm.id for storm in storms}) == len(storms) == 4
    assert len({storm.id[:4] for storm in storms}) > 1
    assert any(storm.gaps for storm in storms)
    assert any(storm.blank for storm in storms)
    assert any(storm.bad_pixels for storm in storms)


@pytest.mark.parametrize(
    ("storm", "complaint"),
    [
        (Storm(id="2021-7"), "six digits"),
        (Storm(satellite="../x"), "capitals"),
        (Storm(start=datetime(2021, 7, 19)), "UTC"),  # noqa: DTZ001
        (Storm(start=datetime(2021, 7, 19, 0, 30, tzinfo=UTC)), "full hour"),
        (Storm(latitude=80.0), "latitude is 80"),
        (Storm(hours=0), "hours"),
        (Storm(hours=2, gaps=(0, 1)), "every hour is a gap"),
        (Storm(blank=(12,)), "blank names hours without an image: 12"),
    ],
)
def test_impossible_storms_are_refused(tmp_path, storm, complaint):
    with pytest.raises(UserError, match=complaint):
        write_tree(tmp_path, [storm], size=16)


def test_all_faults_of_a_request_come_at_once(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"not an empty folder.*size is 8.*repeat"):
        write_tree(tmp_path, [Storm(), Storm()], size=8)
    with pytest.raises(
        UserError, match=r"seed is -1.*dataset is 'x'.*image_folders is 'y'.*no storms"
    ):
        write_tree(tmp_path / "new", [], seed=-1, dataset="x", image_folders="y")
    with pytest.raises(UserError, match=r"channels are \[1, 5\], expected some of \[1, 2, 3, 4\]"):
        write_tree(tmp_path / "new", [Storm()], channels=(1, 5))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
