"""A conversion that cannot fit is refused before anything is written, and no other."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import cli
from pipeline import convert, room, sources
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings
from pipeline.sources.options import NONE

FRAME = 4 * 16 * 16  # bytes of one of Tiny's


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """Makes the disk as large as is said, and plain whatever the tests run on."""

    def disk(free: int, total: int = 10**9) -> None:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: SimpleNamespace(free=free, total=total)
        )

    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/vda / ext4 rw 0 0\n")
    monkeypatch.setattr(room, "MOUNTS", mounts)
    return disk


def run(*words: object):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_what_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    (tmp_path / "c").write_bytes(b"4567")
    assert room.taken(tmp_path) == 7
    assert room.taken(tmp_path / "c") == 4
    assert room.taken(tmp_path / "absent") == 0


def test_what_is_free_is_told_of_a_place_that_is_not_there_yet(tmp_path, disk):
    real = shutil.disk_usage(tmp_path).total
    assert 0 < (room.free(tmp_path / "x" / "y") or 0) < real
    disk(5)
    assert room.free(tmp_path / "x") == 5
    disk(0, total=0)  # as some network disks say
    assert room.free(tmp_path) is None


def test_too_small_a_disk_is_refused_before_anything_is_written(tiny, disk):
    tiny.track()
    tiny.track("202102")
    disk(9 * FRAME)
    with pytest.raises(UserError) as caught:
        tiny.conversion("S.zarr")
    assert str(caught.value) == (
        f"{tiny.home / 'S.zarr'}: about 12.3 kB are to be written, and its disk has 9.22 kB free; "
        "free some space, or choose a place on another disk, or take --codec zstd, about 4.1 kB"
    )
    assert not (tiny.home / "S.zarr").exists()
    disk(3 * FRAME)  # not even packed
    with pytest.raises(UserError, match=r"on another disk$"):
        tiny.conversion("S.zarr")
    disk(12 * FRAME)
    assert tiny.conversion("S.zarr").triplets == 8


def test_only_what_is_new_counts(tiny, disk):
    tiny.track()
    tiny.conversion("S.zarr")
    tiny.track("202102")
    disk(6 * FRAME)
    assert tiny.conversion("S.zarr").reused == ["202101"]
    disk(0)
    tiny.conversion("S.zarr")  # all is there
    tiny.conversion("S.zarr", max_missing=0.5, replace=True)  # takes the place of what it replaces
    with pytest.raises(UserError, match=r"are to be written.*on another disk$"):
        tiny.conversion("T.zarr")


def test_what_a_killed_conversion_left_comes_free(tiny, disk):
    tiny.track()
    left = tiny.home / "S.zarr" / ".202101.host.1.abc.tmp"
    left.mkdir(parents=True)
    (left / "frames").write_bytes(bytes(4 * FRAME))
    disk(2 * FRAME)
    assert len(tiny.conversion("S.zarr").records) == 1


def test_packed_frames_are_only_doubted(tiny, disk, capsys):
    tiny.track()
    disk(3 * FRAME)
    tiny.conversion("S.zarr", codec="zstd")
    assert "are to be written" not in capsys.readouterr().err
    disk(FRAME)
    tiny.conversion("T.zarr", codec="zstd")
    assert "about 2.05 kB are to be written, and its disk has 1.02 kB" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["zfs", "nfs4", "overlay", ""])
def test_only_a_disk_that_tells_and_packs_nothing_is_refused(tiny, disk, monkeypatch, capsys, kind):
    tiny.track()
    disk(0, total=0)
    tiny.conversion("S.zarr")
    disk(0)
    mounts = tiny.home / "mounts"
    monkeypatch.setattr(room, "MOUNTS", mounts)
    folder = str(tiny.home.resolve()).replace(" ", "\\040")
    if kind:
        mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntank {folder} {kind} rw 0 0\n")
    else:  # as where there is no such list
        monkeypatch.setattr(room, "MOUNTS", Path("/nowhere"))
    capsys.readouterr()
    tiny.conversion("T.zarr")
    assert "are to be written" in capsys.readouterr().err
    monkeypatch.setattr(room, "MOUNTS", mounts)
    mounts.write_text(f"/dev/vda / zfs rw 0 0\n/dev/vdb {folder} ext4 rw 0 0\n")
    with pytest.raises(UserError, match="are to be written"):
        tiny.conversion("U.zarr")


def test_a_dry_run_tells_what_is_free_and_what_is_lacking(tiny, disk):
    tiny.track()
    target = tiny.home / "S.zarr"
    disk(50_000)
    result = run("convert", tiny.root, target, "--dry-run")
    assert f"Free      50 kB on the disk of {target}" in result.stdout
    assert "are to be written" not in result.stderr
    disk(1000)
    result = run("convert", tiny.root, target, "--dry-run")
    assert result.exit_code == 0
    assert (
        f"Note: {target}: about 6.14 kB are to be written, and its disk has 1 kB" in result.stderr
    )
    assert not target.exists()


def test_sizes_are_of_the_tracks_that_are_asked_for(tiny):
    tiny.track()
    tiny.track("202102", range(2))
    release = sources.scan(tiny.root, NONE)
    assert convert.uncompressed(release, release.tracks) == 8 * FRAME
    assert convert.uncompressed(release, release.tracks[1:]) == 2 * FRAME
    assert convert.lacking(release, (), tiny.home / "S.zarr", ConvertSettings()) == ""
