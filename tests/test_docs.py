"""docs/: what the pages say of files, of code and of errors is so."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import typer
import xarray as xr
import yaml
from numcodecs.zstd import Zstd
from PIL import Image
from typer.testing import CliRunner

import cli
import models
from models import Geometry
from pipeline import (
    atomic,
    checkpoint,
    convert,
    demands,
    health,
    loader,
    manifest,
    room,
    settings,
    sources,
    split,
    store,
    store_writer,
    tasks,
    train,
    verify,
)
from pipeline.checkpoint import Checkpoint
from pipeline.convert import ConvertSettings
from pipeline.errors import UserError
from pipeline.sources.grids import Grid
from pipeline.sources.options import asked
from pipeline.sources.synthetic import Storm, write_tree

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
TYPHOONS = [
    Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=10, bad_pixels=(7,)),
    Storm("202102", datetime(2021, 7, 5, tzinfo=UTC), hours=9, gaps=(2, 5, 8), blank=(4,)),
    Storm("202103", datetime(2021, 7, 9, tzinfo=UTC), hours=10, latitude=21.0),
]

torch.set_num_threads(1)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return [body for of, body in FENCED.findall(page(name)) if of == language]


def rows(name: str, *heads: str) -> list[list[str]]:
    """The cells of the tables whose first columns have these heads."""
    found: list[list[str]] = []
    inside = False
    for line in FENCED.sub("", page(name)).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif inside and set(line) - set("|-"):
            found.append(cells)
        elif tuple(cells[: len(heads)]) == heads:
            inside = True
    assert found, f"docs/{name} has no table with the heads {heads}"
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def named(name: str, *heads: str) -> set[str]:
    """What the first cells of a table name."""
    return {word for cells in rows(name, *heads) for word in quoted(cells[0])}


# --- STORE.md ---------------------------------------------------------------------------------


class Reader:
    """A store by docs/STORE.md alone: json, struct, numpy, crc32c, and zstd for what is so packed.

    Nothing of eddy and nothing of Zarr is used in here.
    """

    def __init__(self, path: Path) -> None:
        data = (path / "zarr.json").read_bytes()
        self.path, self.root = path, self.metadata(data)
        self.attrs = self.root["attributes"]
        if self.attrs.get("format_version") != 2:
            raise ValueError("not finished, or of another version")
        bare = {k: v for k, v in self.attrs.items() if k != "digest"}
        text = json.dumps({**self.root, "attributes": bare}, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode("ascii")).hexdigest() != self.attrs["digest"]:
            raise ValueError("the root fails its digest")
        for place, copy in self.root["consolidated_metadata"]["metadata"].items():
            own = self.metadata((path / place / "zarr.json").read_bytes())
            if own != {k: v for k, v in copy.items() if k != "consolidated_metadata"}:
                raise ValueError(f"{place} is not as its copy")

    @staticmethod
    def metadata(data: bytes) -> Any:
        found = json.loads(data)
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        if text.encode() != data:
            raise ValueError("metadata are not as they were written")
        return found

    @staticmethod
    def sound(data: bytes) -> bytes:
        (crc,) = struct.unpack("<I", data[-4:])
        if google_crc32c.value(data[:-4]) != crc:
            raise ValueError("a crc is wrong")
        return data[:-4]

    def about(self, place: str) -> Any:
        return json.loads((self.path / place / "zarr.json").read_bytes())

    def array(self, place: str) -> Any:
        about = self.about(place)
        shape = about["shape"]
        assert about["chunk_grid"]["configuration"]["chunk_shape"] == [max(1, n) for n in shape]
        if 0 in shape:
            return np.empty(shape, about["data_type"])
        data = self.sound(self.path.joinpath(place, "c", *["0"] * len(shape)).read_bytes())
        if about["data_type"] != "string":
            return np.frombuffer(data, np.dtype(about["data_type"]).newbyteorder("<")).reshape(
                shape
            )
        (count,), at, found = struct.unpack_from("<I", data), 4, []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, at)
            found.append(data[at + 4 : at + 4 + length].decode("utf-8"))
            at += 4 + length
        assert at == len(data)
        return found

    def frames(self, id: str) -> np.ndarray:
        about = self.about(f"{id}/frames")
        T, C, H, W = about["shape"]
        data = (self.path / id / "frames/c/0/0/0/0").read_bytes()
        packed = self.attrs["settings"]["codec"] == "zstd"
        h, w = (min(128, H), min(128, W)) if packed else (H, W)
        across, down = -(-W // w), -(-H // h)
        n = T * down * across
        how = about["codecs"][0]["configuration"]
        assert how["chunk_shape"] == [1, C, h, w]
        outer = about["chunk_grid"]["configuration"]["chunk_shape"]
        assert outer == [T, C, down * h, across * w]
        index = np.frombuffer(self.sound(data[-(16 * n + 4) :]), "<u8").reshape(n, 2)
        if packed:
            crc = self.about(id)["attributes"]["shard_crc32c"]
            if f"{google_crc32c.value(data):08x}" != crc:
                raise ValueError("the shard's crc is wrong")
        else:
            assert len(data) == T * (4 * C * H * W + 4) + 16 * T + 4
        assert index[0, 0] == 0  # one after the other without a gap
        assert (index[1:, 0] == index[:-1].sum(1)).all()
        assert index[-1].sum() + 16 * n + 4 == len(data)
        out = np.empty((T, C, down * h, across * w), np.float32)
        for k, (offset, length) in enumerate(index.tolist()):
            chunk = data[offset : offset + length]
            values = np.frombuffer(Zstd().decode(chunk) if packed else self.sound(chunk), "<f4")
            t, row, column = k // (down * across), k // across % down, k % across
            tile = slice(row * h, row * h + h), slice(column * w, column * w + w)
            out[t, :, *tile] = values.reshape(C, h, w)
        assert np.isnan(out[:, :, H:]).all()
        assert np.isnan(out[:, :, :, W:]).all()
        return out[:, :, :H, :W]

    def triplets(self) -> list[tuple[str, int]]:
        both = self.array("triplets/track").tolist(), self.array("triplets/frame").tolist()
        return [(self.attrs["tracks"][track], frame) for track, frame in zip(*both, strict=True)]

    def expected_triplets(self) -> list[tuple[str, int]]:
        """By the rule, from times and flags."""
        found = []
        for id in self.attrs["tracks"]:
            step = self.about(id)["attributes"]["step_minutes"] * 60
            times, flag = self.array(f"{id}/time"), self.array(f"{id}/flag")
            for i in range(1, len(times) - 1):
                near = slice(i - 1, i + 2)
                if (np.diff(times[near]) == step).all() and not flag[near].any():
                    found.append((id, i))
        return found


def converted(raw: Path, target: Path, *, codec: store.Codec = "none", **words: Any) -> Path:
    how = ConvertSettings(codec=codec, options=asked(**words))
    return convert.convert(raw, target, how, manifests=target.parent / "m", workers=1).store


def fields(path: Path, name: str, units: str, oblong: float = 1.0) -> Path:
    """NetCDF of one variable on a grid, with all that is passed on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    data = xr.Dataset(
        {name: (("time", "latitude", "longitude"), random.random((4, 6, 7)), {"units": units})},
        coords={
            "time": np.datetime64("2023-06-01T00", "ns") + np.arange(4) * np.timedelta64(1, "h"),
            "latitude": 50 - 0.25 * np.arange(6) * oblong,
            "longitude": 5 + 0.25 * np.arange(7),
        },
        attrs={"license": "free", "references": "none", "acknowledgement": "all"},
    )
    data["latitude"].attrs["units"] = "degrees_north"
    data["longitude"].attrs["units"] = "degrees_east"
    data.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, small."""
    home = tmp_path_factory.mktemp("stores")
    write_tree(home / "WP", TYPHOONS, size=48)
    random = np.random.default_rng(1)
    for number in range(1, 5):
        file = home / f"frames/train/clip/frame_{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 11), np.uint8)).save(file)
    digits = random.integers(0, 256, (40, 28, 28), np.uint8)
    header = struct.pack(">4I", 0x803, *digits.shape)
    (home / "mnist").mkdir()
    packed = gzip.compress(header + digits.tobytes())
    (home / "mnist/t10k-images-idx3-ubyte.gz").write_bytes(packed)
    radar = xr.Dataset(
        {"rain": (("time", "y", "x"), random.random((4, 5, 6)), {"units": "mm"})},
        coords={
            "time": np.datetime64("2023-06-01T00", "ns") + np.arange(4) * np.timedelta64(1, "h"),
            "y": (
                "y",
                4.0 - np.arange(5),
                {"standard_name": "projection_y_coordinate", "units": "km"},
            ),
            "x": (
                "x",
                1.0 + np.arange(6),
                {"standard_name": "projection_x_coordinate", "units": "km"},
            ),
        },
    )
    (home / "radar").mkdir()
    radar.to_netcdf(home / "radar/r.nc", engine="h5netcdf")
    fields(home / "rain/a.nc", "tp", "m")
    fields(home / "oblong/a.nc", "t2m", "K", oblong=2.0)
    picture = {"value_range": "150,330", "units": "K"}
    clips = {"clips": 4, "clip_frames": 4, "image_size": 32}
    wide = converted(home / "WP", home / "zstd.zarr", codec="zstd")
    return {
        "typhoons": converted(home / "WP", home / "WP.zarr"),
        "zstd": wide,
        "rain": converted(home / "rain", home / "rain.zarr"),
        "finer": converted(home / "rain", home / "finer.zarr", resolution=0.125),
        "oblong": converted(home / "oblong", home / "oblong.zarr"),
        "radar": converted(home / "radar", home / "radar.zarr"),
        "pictures": converted(home / "frames", home / "frames.zarr", **picture),
        "digits": converted(home / "mnist", home / "digits.zarr", **clips),
    }


@pytest.mark.parametrize("kind", ["typhoons", "zstd", "rain", "radar", "pictures", "digits"])
def test_a_reader_by_the_page_alone_reads_a_store(stores: dict[str, Path], kind: str) -> None:
    reader, opened = Reader(stores[kind]), store.open_store(stores[kind])
    assert reader.attrs["tracks"] == opened.ids
    for track in opened:
        id = track.id
        np.testing.assert_array_equal(reader.frames(id), track.checked(0, len(track.times)))
        assert reader.array(f"{id}/time").tolist() == track.times.tolist()
        assert reader.array(f"{id}/flag").tolist() == track.flag.tolist()
        assert reader.array(f"{id}/channel") == [c["name"] for c in reader.attrs["channels"]]
        assert reader.array(f"{id}/statistic") == list(track.statistics)
    ids, middle = opened.triplets()
    told = [(opened.ids[i], int(m)) for i, m in zip(ids, middle, strict=True)]
    assert reader.triplets() == told == reader.expected_triplets()


def test_triplets_leave_out_gaps_and_flagged_frames(stores: dict[str, Path]) -> None:
    reader = Reader(stores["typhoons"])
    assert [m for id, m in reader.triplets() if id == "202101"] == [1, 2, 3, 4, 5]  # 7 is flagged
    assert not [m for id, m in reader.triplets() if id == "202102"]  # gaps
    assert reader.array("202101/flag").tolist() == [0] * 7 + [1] + [0] * 2
    assert 2 in reader.array("202102/flag").tolist()


def test_tiles_beyond_the_edge(tmp_path: Path) -> None:
    """Frames that no whole number of tiles of 128 covers, in both codecs."""
    write_tree(tmp_path / "WP", [Storm("202101", hours=3)], size=160)
    for codec in store.CODECS:
        made = converted(tmp_path / "WP", tmp_path / f"{codec}.zarr", codec=codec)
        found = Reader(made).frames("202101")
        assert found.shape == (3, 1, 160, 160)
        np.testing.assert_array_equal(found, store.Track(made, "202101").checked(0, 3))


def flipped(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One typhoon in each codec, to be copied and damaged."""
    home = tmp_path_factory.mktemp("sound")
    write_tree(home / "WP", TYPHOONS[:1], size=32)
    made = {c: converted(home / "WP", home / f"{c}.zarr", codec=c) for c in store.CODECS}
    for path in made.values():
        everything(Reader(path))
        assert not verify.verify(path, workers=1).faults
    return made


@pytest.mark.parametrize("codec", store.CODECS)
@pytest.mark.parametrize(
    ("file", "at"),
    [
        ("202101/frames/c/0/0/0/0", 700),
        ("202101/frames/c/0/0/0/0", -30),
        ("202101/time/c/0", 3),
        ("202101/statistics/c/0/0", -2),
        ("zarr.json", 40),
        ("202101/frames/zarr.json", 20),
    ],
)
def test_that_reader_finds_a_changed_bit_as_verify_does(
    sound: dict[str, Path], tmp_path: Path, codec: store.Codec, file: str, at: int
) -> None:
    made = shutil.copytree(sound[codec], tmp_path / "WP.zarr")
    flipped(made / file, at)
    with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
        everything(Reader(made))
    assert verify.verify(made, workers=1).faults


def everything(reader: Reader) -> None:
    for id in reader.attrs["tracks"]:
        reader.frames(id)
        for place in reader.root["consolidated_metadata"]["metadata"]:
            if place.startswith(f"{id}/") and not place.endswith("/frames"):
                reader.array(place)


def test_the_reader_on_the_page_reads_a_store(stores: dict[str, Path]) -> None:
    (code,) = blocks("STORE.md", "python")
    page_reader: dict[str, Any] = {}
    exec(compile(code, "docs/STORE.md", "exec"), page_reader)
    path = stores["typhoons"]
    opened = store.open_store(path)
    assert page_reader["triplets"](path) == Reader(path).triplets() != []
    for track in opened:
        expected = track.checked(0, len(track.times))
        for i in range(len(track.times)):
            np.testing.assert_array_equal(page_reader["frame"](path / track.id, i), expected[i])
        times = page_reader["small"](path / track.id / "time")
        assert times.tolist() == track.times.tolist()
    empty = store_writer.write_triplets
    empty(path.parent / "none", np.empty((0, 2), np.int32))
    assert page_reader["small"](path.parent / "none/track").tolist() == []


def test_the_reader_on_the_page_finds_damage(sound: dict[str, Path], tmp_path: Path) -> None:
    (code,) = blocks("STORE.md", "python")
    page_reader: dict[str, Any] = {}
    exec(compile(code, "docs/STORE.md", "exec"), page_reader)
    made = shutil.copytree(sound["none"], tmp_path / "WP.zarr")
    flipped(made / "202101/frames/c/0/0/0/0", 4 * 32 * 32 + 4 + 9)
    page_reader["frame"](made / "202101", 0)
    with pytest.raises(ValueError, match="damaged"):
        page_reader["frame"](made / "202101", 1)
    store_writer.begin(made)
    with pytest.raises(ValueError, match="not finished"):
        page_reader["triplets"](made)


def nodes_of(path: Path) -> dict[str, Any]:
    return {
        "/".join(file.parent.relative_to(path).parts): json.loads(file.read_bytes())
        for file in path.rglob("zarr.json")
    }


def test_every_attribute_exists_and_every_one_that_exists_is_on_the_page(
    stores: dict[str, Path],
) -> None:
    root, track = named("STORE.md", "root attribute"), named("STORE.md", "track attribute")
    source = named("STORE.md", "source attribute")
    in_roots: set[str] = set()
    in_tracks: set[str] = set()
    for path in stores.values():
        nodes = nodes_of(path)
        attrs = nodes[""]["attributes"]
        assert root <= set(attrs), path  # of each store
        in_roots |= set(attrs)
        for id in attrs["tracks"]:
            of = set(nodes[id]["attributes"])
            assert track - {"shard_crc32c"} <= of
            assert ("shard_crc32c" in of) == (path.stem == "zstd")
            in_tracks |= of
    assert in_roots - root <= source
    assert in_tracks - track - {"title", "source"} <= source
    assert in_roots | in_tracks >= source


def test_an_unfinished_root_has_what_the_page_says(tmp_path: Path) -> None:
    store_writer.begin(tmp_path / "S.zarr")
    attrs = json.loads((tmp_path / "S.zarr/zarr.json").read_bytes())["attributes"]
    assert set(attrs) == named("STORE.md", "unfinished root attribute")


def test_every_array_exists_and_every_one_that_exists_is_on_the_page(
    stores: dict[str, Path],
) -> None:
    told = {
        (name, cells[1], dims.strip())
        for cells in rows("STORE.md", "array", "data type")
        for name, dims in zip(quoted(cells[0]), many(cells[2], len(quoted(cells[0]))), strict=True)
    }
    found = set()
    for path in stores.values():
        ids = Reader(path).attrs["tracks"]
        for place, node in nodes_of(path).items():
            id, _, name = place.partition("/")
            if id in ids and name:
                found.add((name, node["data_type"], ", ".join(node["dimension_names"])))
    assert found == told
    always = {
        n for cells in rows("STORE.md", "array") if cells[3] == "always" for n in quoted(cells[0])
    }
    for path in stores.values():
        for id in Reader(path).attrs["tracks"]:
            assert always <= {folder.name for folder in (path / id).iterdir()}


def many(cell: str, count: int) -> list[str]:
    """The dimensions of each array of a row."""
    return cell.split(";") if ";" in cell else [cell] * count


def test_what_the_page_lists_within_attributes_is_there(stores: dict[str, Path]) -> None:
    by_name = {quoted(cells[0])[0]: cells for cells in rows("STORE.md", "root attribute")}
    attrs = Reader(stores["finer"]).attrs
    assert set(quoted(by_name["settings"][2])) == set(attrs["settings"])
    assert set(quoted(by_name["channels"][2])) == set(attrs["channels"][0])
    by_name = {quoted(cells[0])[0]: cells for cells in rows("STORE.md", "track attribute")}
    record = json.loads(Reader(stores["rain"]).about("2023")["attributes"]["record"])
    assert set(quoted(by_name["record"][2])) == set(record)
    flag = Reader(stores["rain"]).about("2023/flag")["attributes"]
    bits = {int(cells[0]): quoted(cells[1])[0] for cells in rows("STORE.md", "bit")}
    assert bits == dict(zip(flag["flag_masks"], flag["flag_meanings"].split(), strict=True))
    statistic = next(c for c in rows("STORE.md", "array") if c[0] == "`statistic`")
    assert tuple(quoted(statistic[4])[:5]) == store.STATISTICS
    versions = [int(cells[0]) for cells in rows("STORE.md", "version")]
    assert max(versions) == store.FORMAT_VERSION
    assert f"format version {store.FORMAT_VERSION}" in page("STORE.md").splitlines()[0]


# --- EXTENDING.md -----------------------------------------------------------------------------


def example(path: str) -> str:
    """The code that the page has for a file."""
    text = page("EXTENDING.md")
    assert f"`{path}`:\n\n```python\n" in text
    return text.split(f"`{path}`:\n\n```python\n")[1].split("```\n")[0]


def put_in_place(
    monkeypatch: pytest.MonkeyPatch, package: ModuleType, folder: Path, path: str
) -> None:
    """As if that file of the page lay in the package."""
    file = folder / Path(path).name
    file.write_text(example(path), encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{file.stem}", raising=False)
    monkeypatch.setattr(package, file.stem, None, raising=False)  # what the import sets there


@pytest.fixture
def refine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    put_in_place(monkeypatch, models, tmp_path, "models/refine.py")
    yield "refine"
    sys.modules.pop("models.refine", None)


@pytest.fixture
def npy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "code").mkdir()
    put_in_place(monkeypatch, sources, tmp_path / "code", "pipeline/sources/npy.py")
    monkeypatch.setattr(sources, "FORMATS", (*sources.FORMATS, "npy"))
    yield "npy"
    sys.modules.pop("pipeline.sources.npy", None)


def contract() -> list[Callable[[str], None]]:
    """The tests that every model passes, as functions of its name."""
    spec = importlib.util.spec_from_file_location("contract", ROOT / "tests/test_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    every = vars(module).values()
    return [of for of in every if any(m.args[0] == "name" for m in marks(of))]


def marks(of: object) -> list[Any]:
    return [m for m in getattr(of, "pytestmark", ()) if m.name == "parametrize"]


def test_the_model_on_the_page_keeps_the_contract(refine: str) -> None:
    assert refine in models.names()
    tests = contract()
    assert len(tests) >= 9
    for of in tests:
        of(refine)


def test_the_model_on_the_page_sees_as_far_as_it_says(refine: str) -> None:
    model = models.build(refine, Geometry(x=(1, 1, 16, 16), y=(1, 1, 64, 64)), {})
    x = torch.randn(1, 1, 1, 16, 16, requires_grad=True)
    model(x)[..., 32:36, 32:36].abs().sum().backward()  # what it says of pixel 8, 8 of x
    rows_seen, columns_seen = (x.grad[0, 0, 0] != 0).nonzero(as_tuple=True)
    assert rows_seen.min() == columns_seen.min() == 8 - model.reach
    assert rows_seen.max() == columns_seen.max() == 8 + model.reach


def test_the_model_on_the_page_refuses_a_geometry(refine: str) -> None:
    with pytest.raises(ValueError, match="no whole number of times"):
        models.build(refine, Geometry(x=(3, 1, 10, 10), y=(3, 1, 32, 32)), {})


def test_the_model_on_the_page_trains(refine: str, stores: dict[str, Path], tmp_path: Path) -> None:
    (text,) = blocks("EXTENDING.md", "yaml")
    (tmp_path / "refine.yaml").write_text(text)
    split.split(stores["typhoons"], tmp_path / "s.json", eval_ids=["202103"])
    toy = {
        "training.epochs": 3, "training.patch_size": 32, "training.batch_size": 2,
        "training.crops_per_window": 20, "training.lr": 0.003, "training.sample_every_epochs": 0,
        "training.ema": 0,
    }  # fmt: skip
    chosen, notes = settings.load(tmp_path / "refine.yaml", [f"{k}={v}" for k, v in toy.items()])
    assert not notes
    assert chosen.model == {"name": "refine", **yaml.safe_load(text)["model"]}
    chosen = settings.located(chosen, stores["typhoons"], tmp_path / "s.json")
    done = train.train(chosen, tmp_path / "run")
    assert done.position.step > 100
    assert done.scores["model"] < done.scores["bicubic"]  # it has learnt something
    kept = checkpoint.load(checkpoint.in_run(tmp_path / "run", "best"))
    assert kept.model()(torch.zeros(1, 3, 1, 8, 8)).shape == (1, 3, 1, 32, 32)


def arrays(root: Path) -> dict[str, np.ndarray]:
    """Two folders of hours, as the page's source reads them; kelvin."""
    random = np.random.default_rng(0)
    frames = {
        f"{track}/20210719{hour:02}.npy": random.uniform(200, 300, (12, 10)).astype(np.float32)
        for track in ("one", "two")
        for hour in range(5)
    }
    frames["one/2021071901.npy"][:2, :3] = -19.1
    for name, values in frames.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, values)
    return frames


def test_the_source_on_the_page_converts(npy: str, tmp_path: Path) -> None:
    frames = arrays(tmp_path / "my")
    np.save(tmp_path / "my/two/2021071905.npy", np.zeros((3, 3, 3)))
    np.save(tmp_path / "my/two/notes.npy", np.zeros(3))
    assert sources.format_of(tmp_path / "my") == npy
    done = convert.convert(
        tmp_path / "my", tmp_path / "S.zarr", ConvertSettings(), manifests=tmp_path, workers=1
    )
    assert [p.split(":")[0].rsplit("/", 1)[1] for p in done.problems] == [
        "notes.npy", "2021071905.npy",
    ]  # fmt: skip
    assert done.triplets == 1 + 3  # hour 1 of `one` is flagged
    for track in store.open_store(tmp_path / "S.zarr"):
        told = np.stack([frames[f"{track.id}/20210719{hour:02}.npy"] for hour in range(5)])
        told[told < 150] = np.nan
        np.testing.assert_array_equal(track.frames[:, 0], told)
        assert np.diff(track.times).tolist() == [3600] * 4
    checked = verify.verify(tmp_path / "S.zarr", source=tmp_path / "my", workers=1)
    assert checked.equal == 10


def test_the_source_on_the_page_refuses_what_it_cannot_use(npy: str, tmp_path: Path) -> None:
    arrays(tmp_path / "my")
    (tmp_path / "my/three/one").mkdir(parents=True)
    np.save(tmp_path / "my/three/one/2021071900.npy", np.zeros((12, 10), np.float32))
    with pytest.raises(UserError, match="of the same track and hour; move one away"):
        sources.scan(tmp_path / "my")
    np.save(tmp_path / "2021073900.npy", np.zeros((12, 10), np.float32))
    with pytest.raises(UserError, match=r"no usable array; .*2021073900\.npy: name not understood"):
        sources.scan(tmp_path / "2021073900.npy")


def test_the_rooms_that_the_page_names_are_there() -> None:
    prose = FENCED.sub("", page("EXTENDING.md"))
    paths = {p for p in quoted(prose) if re.fullmatch(r"[\w/]+(\.py|/)", p)}
    examples = {"models/refine.py", "pipeline/sources/npy.py"}
    assert examples <= paths
    assert not {p for p in paths - examples if "/" in p and not (ROOT / p).exists()}


# --- FAQ.md, FAQ.zh-CN.md ---------------------------------------------------------------------

WP = Path("data/WP.zarr")
FIRST = Path("runs/first")
ON_CPU = settings.RunSettings(training=settings.TrainSettings(device="cpu"))


class Seen:
    """Of a track what its refusals look at."""

    def __init__(self, id: str, hours: int, y: np.ndarray | None = None) -> None:
        self.id, self.times = id, np.arange(8) * hours * 3600
        self.grid = None if y is None else Grid(y, np.arange(5.0))

    def windows(self, length: int) -> np.ndarray:
        return np.arange(8 - length + 1)


def no_store() -> None:
    store.open_store(Path("data/AU.zarr"))


def wrong_folder() -> None:
    Path("downloads").mkdir()
    sources.scan(Path("downloads"))


def unfinished() -> None:
    store_writer.begin(Path("half.zarr"))
    store.open_store(Path("half.zarr"))


def other_settings() -> None:
    more = ConvertSettings(max_missing=0.05)
    convert.convert(Path("data/WP"), WP, more, manifests=Path("data_manifest"), workers=1)


def disk_full() -> None:
    raise UserError(cli.on_disk(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/WP.zarr")))


def disk_too_small() -> None:
    """Of all WP, before there is a store."""
    release = sources.scan(Path("data/WP"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(convert, "uncompressed", lambda *_: int(202e9))
        patched.setattr(convert, "finished_ids", lambda _: [])
        patched.setattr(room, "taken", lambda _: 0)
        patched.setattr(room, "free", lambda _: int(120e9))
        patched.setattr(room, "bounds", lambda _: True)
        convert.refuse_full_disk(release, release.tracks, WP, ConvertSettings())


def pictures_of_what() -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(made("frames/clip/frame_001.png"))
    sources.scan(Path("frames"))


def several_variables() -> None:
    names = {
        name: (("time", "latitude", "longitude"), np.ones((1, 2, 2))) for name in ("tp", "t2m")
    }
    where = {"time": [np.datetime64("2023-06-01", "ns")], "latitude": [1.0, 0.0]}
    data = xr.Dataset(names, coords={**where, "longitude": [0.0, 1.0]})
    data["latitude"].attrs["units"] = "degrees_north"
    data["longitude"].attrs["units"] = "degrees_east"
    data.to_netcdf(made("era5/a.nc"), engine="h5netcdf")
    sources.scan(Path("era5"))


def field(
    path: str, name: str = "t2m", units: str = "K", count: int = 6, **axes: tuple[str, Any, dict]
) -> None:
    """Hourly fields of 4x5 cells; axes: those that are otherwise, by what they are."""
    shape = {"time": count, "latitude": 4, "longitude": 5}
    usual = {
        "time": ("time", np.arange(count), {"units": "hours since 2023-06-01"}),
        "latitude": ("latitude", 50 - 0.25 * np.arange(4), {"units": "degrees_north"}),
        "longitude": ("longitude", 5 + 0.25 * np.arange(5), {"units": "degrees_east"}),
    }
    chosen = {**usual, **axes}
    values = np.random.default_rng(0).random([*shape.values()])
    data = xr.Dataset({name: ([of[0] for of in chosen.values()], values, {"units": units})})
    for dim, values, attrs in chosen.values():
        data[dim] = (dim, values, attrs)
    data.to_netcdf(made(path), engine="h5netcdf")


def no_times() -> None:
    field("fields/a.nc", time=("time", np.arange(6), {}))
    sources.scan(Path("fields"))


def another_calendar() -> None:
    axis = ("time", np.arange(6), {"units": "days since 2000-01-01", "calendar": "noleap"})
    field("cmip.nc", time=axis)
    sources.scan(Path("cmip.nc"))


def one_time_twice() -> None:
    hours = ("time", [0, 1, 1, 2, 3, 4], {"units": "hours since 2023-06-01"})
    field("hourly/a.nc", time=hours)
    sources.scan(Path("hourly"))


def an_ensemble() -> None:
    xr.Dataset(
        {"t2m": (("number", "latitude", "longitude"), np.ones((3, 4, 5)))},
        coords={"latitude": 50 - 0.25 * np.arange(4), "longitude": 5 + 0.25 * np.arange(5)},
    ).to_netcdf("ens.nc", engine="h5netcdf")
    sources.scan(Path("ens.nc"))


def curvilinear() -> None:
    lat, lon = np.meshgrid(50 - 0.25 * np.arange(4), 5 + 0.25 * np.arange(5), indexing="ij")
    of = {"lat": (lat, {"units": "degrees_north"}), "lon": (lon, {"units": "degrees_east"})}
    data = xr.Dataset({name: (("y", "x"), *about) for name, about in of.items()})
    data["t2m"] = (("time", "y", "x"), np.random.default_rng(0).random((6, 4, 5)), {"units": "K"})
    data["time"] = np.datetime64("2023-06-01", "ns") + np.arange(6) * np.timedelta64(1, "h")
    data.to_netcdf("wrf.nc", engine="h5netcdf")
    sources.scan(Path("wrf.nc"))


def no_place() -> None:
    y, x = 50 - 0.25 * np.arange(4), 5 + 0.25 * np.arange(5)
    field("mine.nc", latitude=("y", y, {}), longitude=("x", x, {}))
    sources.scan(Path("mine.nc"))


def rain_without_units() -> None:
    field("rain.nc", "var228", "")
    with xr.open_dataset("rain.nc") as data:
        whole = data.load()
    whole["var228"].attrs = {"code": 228, "table": 128}
    whole.to_netcdf("rain.nc", engine="h5netcdf")
    sources.scan(Path("rain.nc"))


def grib() -> None:
    Path("era5.grib").write_bytes(b"GRIB\0\0\0\1" + bytes(100))
    sources.scan(Path("era5.grib"))


def zip_of_typhoons() -> None:
    with zipfile.ZipFile("WP.zip", "w") as packed:
        packed.writestr("WP/image/202101/2021070100-202101-HMW8-1.h5", b"")
        packed.writestr("WP/metadata/202101.csv", b"")
    sources.scan(Path("WP.zip"))


def web_page() -> None:
    made("saved/era5.nc").write_text("<!DOCTYPE html>")
    with pytest.raises(UserError) as caught:
        sources.scan(Path("saved/era5.nc"))
    raise UserError(str(caught.value).removeprefix("saved/"))


def no_split() -> None:
    manifest.read_split(Path("data_manifest/WP.split.json"), store.open_store(WP))


def split_of_another() -> None:
    file = Path("data_manifest/old.split.json")
    mine = split.split(WP, file, eval_ids=["202103"])
    atomic.write_json(
        file, mine.model_copy(update={"manifest_hash": "6c9e78c52f3a157b"}).model_dump()
    )
    manifest.read_split(file, store.open_store(WP))


def no_test_tracks() -> None:
    split.split(WP, Path("s.json"), eval_ids=["202103"]).part("test")


def no_triplets() -> None:
    loader.Loader([store.open_store(WP).track("202102")], window=3, patch=32, batch=1)


def patch_too_large() -> None:
    loader.crop_size([store.open_store(WP).track("202101")], 128)


def no_such_setting() -> None:
    settings.load(None, ["training.batchsize=8"])


def several_grids() -> None:
    tracks: list[Any] = [
        Seen("2024-01", 1, 50 - 0.25 * np.arange(4)),
        Seen("2024-02", 1, 50 - 0.5 * np.arange(4)),
    ]
    of = tasks.ForecastSettings(area=(5, 6, 49, 50))
    demands.shared_grid(tracks, of)


def several_steps() -> None:
    tracks: list[Any] = [Seen("198702", 3), Seen("202107", 1), Seen("202110", 1)]
    demands.one_step(tracks, 3)


def no_vgg_weights() -> None:
    model = models.build("srgan", Geometry((1, 1, 16, 16), (1, 1, 64, 64)), {"content": "vgg"})
    models.prepare(model)


def gpu_memory() -> None:
    def begun(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "begun", begun)
        train.train(ON_CPU, FIRST)


def no_gpu() -> None:
    checkpoint.usable_device("cuda:9")


def already_trained() -> None:
    made("runs/first/checkpoints/last.ckpt").touch()
    train.train(ON_CPU, FIRST)


def resumed_otherwise() -> None:
    old, now = (settings.load(None, [f"training.batch_size={n}"])[0] for n in (8, 16))
    kept = Checkpoint(old, *[None] * 6)  # type: ignore[arg-type]  # of what is not looked at
    train.refuse_other_run(kept, now, FIRST / "checkpoints/last.ckpt")


def two_trainings() -> None:
    told = "another training is writing here; choose another --run"
    with atomic.claimed(FIRST, told), atomic.claimed(FIRST, told):
        pass


def checkpoint_damaged() -> None:
    file = made("runs/first/checkpoints/best.ckpt")
    file.write_bytes(b"PK\3\4 and then nothing")
    checkpoint.load(file)


def not_finite() -> None:
    shown = ["202101 2021-07-01 03h", "202103 2021-07-09 05h"]
    watch = health.Health(FIRST, lambda *_: shown, overflows=False)
    place = health.Place(step=1240, epoch=3, batches=range(2))
    watch.look([(place, {"player/generator": float("nan")})])


def frame_damaged() -> None:
    shutil.copytree(WP, "damaged.zarr")
    flipped(Path("damaged.zarr/202101/frames/c/0/0/0/0"), 2 * (4 * 48 * 48 + 4) + 9)
    store.Track(Path("damaged.zarr"), "202101").checked(0, 10)


def made(path: str) -> Path:
    """A path in a folder that is there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)


ERRORS = [
    no_store, wrong_folder, unfinished, other_settings, disk_full, disk_too_small,
    pictures_of_what,
    several_variables, no_times, another_calendar, one_time_twice, an_ensemble, curvilinear,
    no_place, rain_without_units, grib, zip_of_typhoons, web_page, no_split, split_of_another,
    no_test_tracks, no_triplets, patch_too_large, no_such_setting, several_grids, several_steps,
    no_vgg_weights, gpu_memory, no_gpu, already_trained, resumed_otherwise, two_trainings,
    checkpoint_damaged, not_finite, frame_damaged,
]  # fmt: skip
LANGUAGES = ["FAQ.md", "FAQ.zh-CN.md"]


@pytest.fixture(scope="module")
def newcomer(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody has data/WP and data/WP.zarr."""
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    raw = stores["typhoons"].parent / "WP"
    shutil.copytree(raw, home / "data/WP")
    how, manifests = ConvertSettings(), home / "data_manifest"
    convert.convert(home / "data/WP", home / WP, how, manifests=manifests, workers=1)
    return home


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_eddy_says_what_the_faq_quotes(
    newcomer: Path, error: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(newcomer)
    with pytest.raises((UserError, ValueError)) as raised:
        error()
    told = re.sub(r"(?<=conversion )[0-9a-f]{12}", "0" * 12, str(raised.value))
    known = [re.sub(r"(?<=conversion )[0-9a-f]{12}", "0" * 12, text) for text in errors_quoted()]
    beginnings = [text.removesuffix(" ...") for text in known if text.endswith(" ...")]
    who = "model srgan: " if error is no_vgg_weights else ""  # as the training that asked it says
    told = f"Error: {who}{told}"
    assert told in known or any(told.startswith(text) for text in beginnings)


def test_the_faqs_ways_out_of_other_files_lead_out(
    newcomer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each snippet of Python makes a file that is read."""
    monkeypatch.chdir(tmp_path)
    for error in (one_time_twice, an_ensemble, curvilinear, no_place):
        with pytest.raises(UserError):
            error()
    Path("hourly/a.nc").rename("a.nc")
    field("text.nc", time=("time", [f"2023-06-0{day}" for day in range(1, 7)], {}))
    prose = FENCED.sub("", page("FAQ.md"))
    inline = [code for code in quoted(prose) if code.startswith("xr.") and "cfgrib" not in code]
    steps = {"dated.nc": 6, "regular.nc": 6, "once.nc": 5, "one.nc": 1, "named.nc": 6}
    for code in [*blocks("FAQ.md", "python"), *inline]:
        (name,) = (name for name in steps if f'to_netcdf("{name}"' in code)
        exec(code, {"xr": xr})
        (track,) = sources.scan(Path(name), asked(start="2023-06-01")).tracks
        assert len(track.frames) == steps.pop(name)
        assert track.grid is not None
        np.testing.assert_allclose(track.grid.y, 50 - 0.25 * np.arange(4))
    assert not steps


def errors_quoted() -> list[str]:
    return [" ".join(text.split()) for text in blocks("FAQ.md", "text")]


def test_the_faq_quotes_nothing_else() -> None:
    assert len(errors_quoted()) == len(ERRORS)
    assert all(text.startswith("Error: ") for text in errors_quoted())


def shape(name: str) -> list[int]:
    prose = FENCED.sub("", page(name))
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def test_both_languages_have_the_same_sections_and_code() -> None:
    one, two = LANGUAGES
    assert shape(one) == shape(two)
    assert len(shape(one)) > 15
    assert FENCED.findall(page(one)) == FENCED.findall(page(two))
    of = [
        [sorted(quoted(part)) for part in re.split(r"^#+ ", FENCED.sub("", page(name)), flags=re.M)]
        for name in LANGUAGES
    ]
    assert of[0] == of[1]


def test_each_language_leads_to_the_other() -> None:
    one, two = LANGUAGES
    assert f"({two})" in page(one).splitlines()[2]
    assert f"({one})" in page(two).splitlines()[0]


# --- RECIPES.md -------------------------------------------------------------------------------


def numbers(cell: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", cell)]


def test_the_sizes_on_the_page_are_those_of_the_format() -> None:
    """Uncompressed: the shards by STORE.md, and little beside them."""
    measured = [cells for cells in rows("RECIPES.md", "", "frames") if len(cells) == 6]
    estimated = [cells for cells in rows("RECIPES.md", "", "frames") if len(cells) == 5]
    assert len(measured) == 4
    for what, frames, _, whole, packed, percent in measured:
        (count,), (megabytes,), (small,) = map(numbers, (frames, whole, packed))
        H, W = map(int, re.findall(r"(\d+)x(\d+)", what)[0])
        shards = count * (4 * H * W + 4 + 16) / 1e6
        assert shards <= megabytes <= 1.06 * shards + 0.1
        assert f"{100 * small / megabytes:.0f} %" == percent
    share = numbers(measured[0][4])[0] / numbers(measured[0][3])[0]
    for _, frames, released, whole, packed in estimated:
        (count,), (raw,), (gigabytes,) = map(numbers, (frames, released, whole))
        size = count * (4 * 512 * 512 + 20) / 1e9
        assert round(size) == gigabytes
        assert numbers(packed) == [round(1.1 * raw), round(share * size)]


def test_a_tree_may_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's commands, each followed by the removal of its part."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in shell_lines(page("RECIPES.md")) if "data/part" in line]
    assert len(lines) == 2
    for line, storm in zip(lines, TYPHOONS[::2], strict=True):
        first, then = (shlex.split(part) for part in line.split("&&"))
        write_tree(Path(first[2]), [storm], size=32)
        assert CliRunner().invoke(cli.app, [*first[1:], "--workers", "1"]).exit_code == 0
        assert then == ["rm", "-r", first[2]]
        shutil.rmtree(then[2])
    assert store.open_store(Path("data/WP.zarr")).ids == ["202101", "202103"]
    assert not verify.verify(Path("data/WP.zarr"), workers=1).faults
    write_tree(Path("data/part3"), [TYPHOONS[0]], size=32)
    next(Path("data/part3").rglob("*.h5")).unlink()
    told = CliRunner().invoke(cli.app, ["convert", "data/part3", *first[3:], "--workers", "1"])
    assert told.exit_code == 1
    assert "202101 has 10 frames, data/part3 has 9" in " ".join(told.output.split())


def test_an_archive_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("indexed_gzip", reason="indexed-gzip is not installed")
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in shell_lines(page("RECIPES.md")) if "downloads/" in line]
    words = shlex.split(line)
    write_tree(Path("WP"), TYPHOONS[:1], size=32)
    with tarfile.open(made(words[2]), "w:gz") as archive:
        archive.add("WP")
    shutil.rmtree("WP")
    done = CliRunner().invoke(cli.app, [*words[1:], "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert store.open_store(Path(words[3])).ids == ["202101"]
    assert Reader(Path(words[3])).attrs["settings"]["codec"] == "zstd"


def own_fields(folder: Path) -> None:
    random = np.random.default_rng(0)
    for month in (1, 2, 3):
        when = np.datetime64(f"2024-0{month}-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
        kelvin = random.normal(280, 5, (4, 32, 36)).astype(np.float32)
        data = xr.Dataset(
            {
                "t2m": (("time", "latitude", "longitude"), kelvin, {"units": "K"}),
                "msl": (("time", "latitude", "longitude"), kelvin * 350, {"units": "Pa"}),
            },
            coords={
                "time": when,
                "latitude": 60 - 0.25 * np.arange(32),
                "longitude": 0.25 * np.arange(36),
            },
        )
        data["latitude"].attrs["units"] = "degrees_north"
        data["longitude"].attrs["units"] = "degrees_east"
        data.to_netcdf(made(str(folder / f"fields/{month}.nc")), engine="h5netcdf")


def own_pictures(folder: Path) -> None:
    random = np.random.default_rng(0)
    for clip in "abc":
        for number in (0, 1, 2, 3, 5, 6):
            grey = random.integers(0, 256, (32, 40), np.uint8)
            Image.fromarray(grey).save(made(str(folder / f"frames/clip_{clip}/{number:03}.png")))


@pytest.mark.parametrize(
    ("heading", "write", "triplets"),
    [
        ("Your own fields in NetCDF", own_fields, 3 * 2),
        ("Your own pictures", own_pictures, 3 * 2),
    ],
)
def test_own_data_as_on_the_page(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heading: str,
    write: Callable[[Path], None],
    triplets: int,
) -> None:
    """Its commands as written, with a smaller network and fewer steps; from convert to report."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (section,) = re.findall(
        rf"^## {heading}\n(.*?)(?=^## |\Z|^Anything)", page("RECIPES.md"), re.M | re.S
    )
    toy = {
        "model.n_residual_blocks": 1, "model.width": 8, "training.epochs": 1,
        "training.batch_size": 2, "training.validation_crops": 2, "training.sample_every_epochs": 0,
    }  # fmt: skip
    more = {
        "convert": ["--workers", "1"],
        "train": [word for key, value in toy.items() for word in ("--set", f"{key}={value}")],
    }
    lines = shell_lines(section)
    verbs = [line.split()[1] for line in lines]
    assert verbs[-5:] == ["convert", "split", "train", "evaluate", "report"]
    for line in lines:
        words = [w.replace("configs/", f"{ROOT}/configs/") for w in shlex.split(line)[1:]]
        dry = "--dry-run" in words
        done = CliRunner().invoke(cli.app, [*words, *([] if dry else more.get(words[0], []))])
        assert done.exit_code == 0, done.output
        assert not dry or not list(Path().glob("*.zarr"))
    (made_store,) = Path().glob("*.zarr")
    assert len(store.open_store(made_store).triplets()[0]) == triplets
    assert list(Path("runs").glob("*/report.html"))


# --- the commands of all pages ----------------------------------------------------------------

PAGES = [*sorted(f"docs/{file.name}" for file in DOCS.glob("*.md")), "README.md", "README.zh-CN.md"]
GROUP: Any = typer.main.get_command(cli.app)
OPTIONS_IN_PROSE = re.compile(r"^cli (\w+)(?: |$)(.*)$", re.DOTALL)


def shell_lines(text: str) -> list[str]:
    """The commands of a page's shell blocks, each on one line, without comments."""
    bodies = [body for language, body in FENCED.findall(text) if language == "sh"]
    joined = "\n".join(bodies).replace("\\\n", " ").splitlines()
    return [line for raw in joined if (line := re.sub(r"(^|\s)#.*", "", raw).strip())]


def commands(text: str) -> list[list[str]]:
    """The words after `cli` in each command of eddy in the shell blocks."""
    found = []
    for line in shell_lines(text):
        plain = re.sub(r"\$\([^)]*\)", "substituted", line.replace("$(which cli)", "cli"))
        for part in re.split(r"&&|\|\||[;|&]", plain):
            words = shlex.split(part)
            if "cli" in words:
                found.append(words[words.index("cli") + 1 :])
    return found


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, in groups within groups, and the words after them."""
    command = GROUP
    while words and (inner := getattr(command, "commands", {}).get(words[0])):
        command, words = inner, words[1:]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        raise KeyError(f"{command.name} has no {words[0]}")
    return command, words


def parse(words: list[str]) -> None:
    """As the command line does; nothing is run. Raises for what it would refuse."""
    command, rest = command_of(words)
    command.make_context(words[0], list(rest))


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_understood(name: str) -> None:
    refused = {}
    for words in commands((ROOT / name).read_text(encoding="utf-8")):
        try:
            parse(words)
        except Exception as error:  # a KeyError, or one of the many kinds that click has
            refused[" ".join(words)] = repr(error)
    assert not refused


def test_commands_are_found_and_a_wrong_one_is_noticed() -> None:
    for name in ("README.md", "docs/TRAINING.md", "docs/CLUSTER.md", "docs/RECIPES.md"):
        assert len(commands((ROOT / name).read_text(encoding="utf-8"))) >= 2, name
    for wrong in ("train --runn x", "convert --codec lz4", "evaluate", "trian x"):
        with pytest.raises(Exception):  # noqa: B017, PT011  # click's own have many kinds
            parse(wrong.split())


@pytest.mark.parametrize("name", PAGES)
def test_options_named_in_sentences_exist(name: str) -> None:
    """Inline, `cli convert ... --max-missing 0.05` need not be whole; its options must exist."""
    prose = FENCED.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for code in quoted(prose):
        match = OPTIONS_IN_PROSE.match(" ".join(code.split()))
        if not match or match[1].isupper():
            continue
        command, _ = command_of([match[1], *match[2].split()])
        options = {option for of in command.params for option in of.opts} | {"--help"}
        assert set(re.findall(r"--[a-z][a-z-]*", match[2])) <= options, code


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/")])
def test_links_lead_somewhere(name: str) -> None:
    prose = FENCED.sub("", (ROOT / name).read_text(encoding="utf-8"))
    targets = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose)}
    relative = {link for link in targets if link and not re.match(r"\w+:", link)}
    assert not {link for link in relative if not (ROOT / name).parent.joinpath(link).is_file()}
