"""The commands of both READMEs, run as they are written: by bash, in order, one after the other.

They run in a folder made as a reader's would be: the clone's configs/, data/WP and the other data
that the page speaks of, and the environment's `cli` and `eddy`. Three things are not the reader's:

- the data is invented, and its frames are 128 pixels wide;
- the settings files have fewer steps, smaller crops and narrower networks, by SMALLER alone;
- `make` is only asked what it would do (what it would do is tested in test_cli.py).

What is not run at all is in NOT_RUN, each with its reason.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import xarray as xr
import yaml

import cli
from pipeline.sources.synthetic import Storm, write_tree
from pipeline.sources.synthetic_world import World, described

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
BIN = Path(sys.executable).parent  # of the environment; its own link, not what that leads to

NOT_RUN = {
    "cli convert data/WP data/WP.zarr --scheduler tcp://host:8786": "there is no such scheduler",
    "cli --install-completion": "writes into the start-up files of the shell",
}

# Fewer steps, smaller crops, narrower networks
BRIEF = {"training.epochs": 1, "training.validation_crops": 2}
SMALLER: dict[str, dict[str, Any]] = {
    "tempogan.yaml": {
        "model.width": 8, "model.n_residual_blocks": 1, "model.warmup_steps": 2,
        "training.patch_size": 64,
    },
    "tempogan_cpu.yaml": {
        "model.width": 8, "model.n_residual_blocks": 1, "model.warmup_steps": 2,
        "training.crops_per_window": 1,
    },
    "tempogan_eddy.json": {
        "model.width": 8, "model.n_residual_blocks": 1, "training.patch_size": 64,
    },
    "srgan_precipitation.yaml": {
        "model.width": 8, "model.n_residual_blocks": 1, "model.fine_width": 4,
        "model.discriminator_width": 4, "model.discriminator_hidden": 8, "model.pretrain_steps": 2,
    },
    "simvp_typhoon.yaml": {"model.hid_s": 4, "model.hid_t": 8, "model.n_t": 2},
    "upstream.yaml": {"model.hidden": [4, 6, 8], "upstream.seeds": 1, "upstream.resamples": 100},
}  # fmt: skip


# ---- what a page says


@dataclass(frozen=True)
class Part:
    """A shell block, or the whole commands in the sentences and tables between two blocks."""

    commands: tuple[str, ...]
    block: str = ""  # as it is written


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parts(text: str) -> Iterator[Part]:
    """In the page's order; of a command in a sentence only its first place."""
    seen: set[str] = set()
    end = 0
    for match in [*FENCED.finditer(text), None]:
        between = whole(text[end : match.start() if match else None])
        if new := tuple(c for c in dict.fromkeys(between) if c not in seen):
            yield Part(new)
            seen |= {*new}
        if match and match[1] == "sh":
            joined = match[2].replace("\\\n", " ").splitlines()
            lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in joined]
            given = tuple(" ".join(line.split()) for line in lines if line)
            yield Part(given, match[2])
            seen |= {*given}
        end = match.end() if match else end


def whole(prose: str) -> list[str]:
    """Inline commands with all that they need: no `cli convert`, `cli export RUN`, `--mode ...`."""
    found = (" ".join(code.split()) for code in INLINE.findall(prose))
    return [code for code in found if code.startswith("cli ") and is_whole(shlex.split(code)[1:])]


@cache
def eddy() -> Any:
    return typer.main.get_command(cli.app)


def is_whole(words: list[str]) -> bool:
    if len(words) == 1 and words[0][0] != "-":
        return False  # `cli convert`: a name
    if any(re.fullmatch(r"[A-Z]+", word) for word in words):
        return False  # `cli export RUN`: any run
    command = eddy()
    while words and (sub := getattr(command, "commands", {}).get(words[0])):
        command, words = sub, words[1:]
    try:
        command.make_context("", list(words))
    except Exception as error:  # a mistake is not taken for a name: running it shows it
        return type(error).__name__ != "MissingParameter"  # `cli infer --mode check`: an option
    return True


def makes(part: Part) -> bool:
    return any(command.split()[0] == "make" for command in part.commands)


TYPHOONS = [  # seasons as in the commands; forecasts need 24 hours, and 36 where they are judged
    Storm("200301", datetime(2003, 7, 19, tzinfo=UTC), 24, wind=(85, 105)),
    Storm("201102", datetime(2011, 9, 3, tzinfo=UTC), 24, latitude=24.0, longitude=150.0),
    Storm("201604", datetime(2016, 10, 3, tzinfo=UTC), 36, heading=30.0, wind=(60, 90)),
    Storm("202107", datetime(2021, 8, 1, tzinfo=UTC), 12, heading=340.0, wind=(40, 60)),
]


# ---- the reader's folder


def write_home(home: Path) -> None:
    """All that the commands find before the first of them runs."""
    write_tree(home / "data/WP", TYPHOONS, size=128)
    (home / "NEW").mkdir()
    for file in sorted((home / "data/WP/image/202107").iterdir())[:3]:
        shutil.copy(file, home / "NEW")
    write_archive(home / "data/WP", home / "WP.tar.gz", parts=2)
    write_rain(home)
    write_weather(home / "data/fields")
    write_digits(home / "mnist/t10k-images-idx3-ubyte.gz")
    shutil.copytree(ROOT / "configs", home / "configs")
    for name, smaller in SMALLER.items():
        make_smaller(home / "configs" / name, smaller)
    shutil.copy(home / "configs/tempogan.yaml", home / "my.yaml")
    activate = home / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"export PATH={shlex.quote(str(BIN))}:$PATH\n", encoding="utf-8")


def write_archive(tree: Path, target: Path, parts: int) -> None:
    """WP.tar.gz00, WP.tar.gz01 ..., as the release comes."""
    with tarfile.open(target, "w:gz") as archive:
        archive.add(tree, tree.name)
    data = target.read_bytes()
    target.unlink()
    each = -(-len(data) // parts)
    for number in range(parts):
        part = data[number * each : (number + 1) * each]
        target.with_name(f"{target.name}{number:02}").write_bytes(part)


def write_rain(home: Path) -> None:
    """data/era5, a day of each of five months; forecast.nc of cells twice as large."""
    (home / "data/era5").mkdir()
    for month in range(5, 10):
        rain(f"2024-{month:02}-01", 24, 0.25).to_netcdf(
            home / f"data/era5/2024{month:02}.nc", engine="h5netcdf"
        )
    rain("2025-06-01", 3, 0.5).to_netcdf(home / "forecast.nc", engine="h5netcdf")


def rain(day: str, hours: int, degrees: float) -> xr.Dataset:
    """As ERA5's `tp`: metres in an hour, showers that drift over 8 x 10 degrees."""
    south, west = np.arange(0, 8 + degrees, degrees), np.arange(0, 10 + degrees, degrees)
    y, x = np.meshgrid(south, west, indexing="ij")
    random = np.random.default_rng(int(day.replace("-", "")))
    places = random.uniform((0, 0, 0.3), (8, 10, 1.2), (6, 3))
    mm = [
        sum(3 * np.exp(-((y - r) ** 2 + (x - c - 0.2 * hour) ** 2) / w**2) for r, c, w in places)
        for hour in range(hours)
    ]
    metres = np.where(np.array(mm) > 0.05, mm, 0).astype(np.float32) / 1000
    about = {"units": "m", "long_name": "Total precipitation"}
    return xr.Dataset(
        {"tp": (("valid_time", "latitude", "longitude"), metres, about)},
        coords={
            "valid_time": np.datetime64(day, "ns") + np.arange(hours) * np.timedelta64(1, "h"),
            "latitude": ("latitude", 55 - south, {"units": "degrees_north"}),
            "longitude": ("longitude", 5 + west, {"units": "degrees_east"}),
        },
    )


def write_weather(folder: Path) -> None:
    """As configs/upstream.yaml asks: every 12 hours, a month of each of four seasons.

    A world whose rain comes from the west, moved to 95 to 140 E; its weather on two levels.
    """
    world = described(World(rows=16, columns=16, steps=240))
    world = world.assign_coords(longitude=world.longitude + 15)
    world = world.interp(longitude=np.arange(95, 140.1, 0.5), latitude=np.arange(40, 24.9, -0.5))
    random = np.random.default_rng(0)
    wet, wind, calm = world.moisture, world.wind, random.normal(size=world.wind.shape)
    shown = {  # name -> values, units
        "dpt": (270 + 1000 * wet, "K"),
        "gph": (5000 + calm + 0 * wind, "m"),
        "tem": (280 + calm + 0 * wind, "K"),
        "u": (wind, "m s-1"),
        "v": (calm + 0 * wind, "m s-1"),
    }
    level = xr.DataArray([850.0, 500.0], dims="level", attrs={"units": "hPa"})
    fields = {
        name: values.expand_dims(level=level, axis=1).assign_attrs(units=units)
        for name, (values, units) in shown.items()
    }
    made = xr.Dataset({**fields, "rain": world.rain})
    made["longitude"].attrs["units"] = "degrees_east"
    made["latitude"].attrs["units"] = "degrees_north"
    folder.mkdir()
    for season in range(4):
        part = made.isel(time=slice(60 * season, 60 * (season + 1)))
        part = part.assign_coords(time=part.time + np.timedelta64(60 * season, "D"))
        part.to_netcdf(folder / f"{season}.nc", engine="h5netcdf")


def write_digits(path: Path) -> None:
    """Sixty of 28x28, in MNIST's own form."""
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    path.parent.mkdir()
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">4i", 0x803, *images.shape) + images.tobytes())


def make_smaller(file: Path, words: Mapping[str, Any]) -> None:
    """The settings file with these instead of its own."""
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    for key, value in {**BRIEF, **words}.items():
        section, name = key.split(".")
        settings[section][name] = value
    file.write_text(json.dumps(settings), encoding="utf-8")  # and so is this


# ---- running it


@dataclass(frozen=True)
class Ran:
    """A block or a command in a sentence; told: which command failed, and what was printed."""

    part: Part
    home: Path
    code: int
    told: str


def run(script: str, home: Path) -> tuple[int, str]:
    """By `bash -e`; at a command's failure it says which. Exit code, and all that was printed."""
    own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-e", "-c", f"trap 'echo \"FAILED ($?): $BASH_COMMAND\"' ERR\n{script}"],
        cwd=home,
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def run_each(part: Part, home: Path) -> list[Ran]:
    """Commands of sentences: each for itself, whatever became of the one before."""
    todo = [command for command in part.commands if command not in NOT_RUN]
    return [Ran(Part((command,)), home, *run(command, home)) for command in todo]


def copied(home: Path, number: int) -> Path:
    """The folder as it is now, with a second run: to be changed by other commands meanwhile."""
    copy = home.with_name(f"{home.name}-{number}")
    shutil.copytree(home, copy)
    if (copy / "runs/first").exists():
        shutil.copytree(copy / "runs/first", copy / "runs/second")
    return copy


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    """All of the page: the blocks in order, and beside them, in copies, what stands in between.

    A block that fails is the last.
    """
    home = tmp_path_factory.mktemp("reader") / "eddy"
    write_home(home)
    done: list[Ran] = []
    with ThreadPoolExecutor(1) as beside:
        between = []
        for number, part in enumerate(parts(read(ENGLISH))):
            if not part.block:
                between.append(beside.submit(run_each, part, copied(home, number)))
            elif not makes(part):
                done.append(Ran(part, home, *run(part.block, home)))
                if done[-1].code:
                    break
        return done + [one for each in between for one in each.result()]


def promised(command: str) -> list[str]:
    """What a command of eddy makes by its own words: patterns below the folder it runs in."""
    verb, *words = shlex.split(command)[1:]
    options = dict(pairwise([*words, ""]))
    first = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    places = [word.rstrip("/") for word in words[:first]]
    if options.keys() & {"--dry-run", "--show"}:
        return []
    if verb == "convert":
        return [f"{places[1]}/zarr.json", f"data_manifest/{Path(places[1]).stem}.json"]
    if verb == "split":
        return [f"data_manifest/{Path(places[0]).stem}.split.json"]
    if verb == "train":
        run = options.get("--run", "runs/tempogan-*")
        return [f"{run}/settings.yaml", f"{run}/metrics.jsonl", f"{run}/checkpoints/last.ckpt"]
    if verb == "infer":
        out = Path(options["--out"])
        return [str(out), f"{out.with_suffix('')}/*.png", str(out.with_suffix(".mp4"))]
    return {
        "evaluate": [f"{places[0]}/scores.json", f"{places[0]}/scores.csv"] if places else [],
        "report": [f"{places[0]}/report.html"] if places else [],
        "export": [f"{places[0]}/export/model.safetensors"] if places else [],
        "compare": ["comparison/comparison.json", "comparison/*.png"],
        "upstream": [f"{options.get('--out')}/upstream.html"],
    }.get(verb, [])


def there(home: Path, pattern: str) -> bool:
    return any(file.stat().st_size for file in home.glob(pattern))


@pytest.mark.slow
def test_every_command_runs_as_written(ran: list[Ran]) -> None:
    failed = [one.told for one in ran if one.code]
    assert not failed, "\n\n" + "\n\n".join(failed)
    assert len(ran) > 10


@pytest.mark.slow
def test_what_they_make_is_there(ran: list[Ran]) -> None:
    wanted = [
        (one.home, pattern)
        for one in ran
        for command in one.part.commands
        if command.startswith("cli ")
        for pattern in promised(command)
    ]
    assert len(wanted) > 20
    assert not [pattern for home, pattern in wanted if not there(home, pattern)]


@pytest.mark.slow
def test_what_sentences_and_comments_say_of_a_run_is_there(ran: list[Ran]) -> None:
    """`runs/first/samples`, or `# runs/first/report.html: scores ...`."""
    text = read(ENGLISH)
    comments = " ".join(re.findall(r"#.*", "".join(shell for _, shell in FENCED.findall(text))))
    inline = " ".join(code for code in INLINE.findall(FENCED.sub("", text)) if " " not in code)
    named = {*re.findall(r"\bruns/first/[\w./]*\w", f"{comments} {inline}")}
    assert named
    home = ran[0].home
    assert not {path for path in named if not (home / path).exists()}


@pytest.mark.slow
def test_products_hold_what_they_are_said_to(ran: list[Ran]) -> None:
    """Kelvin or mm; by `--mode check` bicubic and the truth beside the model."""
    home = ran[0].home
    outs = [
        (home / options["--out"], "--mode" in options)
        for one in ran
        for command in one.part.commands
        if command.startswith("cli infer ") and one.home == home
        for options in [dict(pairwise([*shlex.split(command), ""]))]
    ]
    assert len(outs) > 2
    for file, checked in outs:
        with xr.open_dataset(file) as opened:
            fields = {k: v for k, v in opened.items() if v.ndim == 3}
            assert len(fields) == (3 if checked else 1), file
            for field in fields.values():
                kelvin = field.attrs["units"] == "K"
                assert kelvin or field.attrs["units"] == "mm"
                low, high = float(field.min()), float(field.max())
                assert (150 < low < high < 330) if kelvin else (0 <= low < high < 50), file
                assert not field.isnull().any()


@pytest.mark.slow
def test_the_store_is_what_the_page_says(ran: list[Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python block, and its comments word for word."""
    (body,) = [body for language, body in FENCED.findall(read(ENGLISH)) if language == "python"]
    monkeypatch.chdir(ran[0].home)
    names: dict[str, Any] = {}
    exec(compile(body, ENGLISH, "exec"), names)
    ds = names["ds"]
    frames, track = re.findall(r"^ds\.\w+ +# (.*)", body, re.MULTILINE)
    dims, dtype = re.findall(r"^\(([^)]+)\) (\w+), kelvin", frames)[0]
    assert ", ".join(ds.frames.dims) == dims
    assert ds.frames.dtype == dtype
    assert ds.frames.attrs["units"] == "K"
    measured = re.findall(r"(\w+) \((\w+)\)", track)
    assert {name: ds[name].attrs["units"] for name, _ in measured} == dict(measured)
    for name in ("latitude", "longitude", "grade"):
        assert name in body
        assert ds[name].dims == ("time",)


# ---- what needs no running


def test_both_languages_have_the_same_commands() -> None:
    english, chinese = ([part.commands for part in parts(read(p))] for p in (ENGLISH, CHINESE))
    assert english == chinese
    assert {language for language, _ in FENCED.findall(read(ENGLISH))} <= {"sh", "python", ""}


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_has_the_page_s_targets() -> None:
    does = {"demo": "cli demo", "test": "python -m pytest"}
    lines = [c for part in parts(read(ENGLISH)) if makes(part) for c in part.commands]
    assert not [line for line in lines if not line.startswith("make ") and line not in NOT_RUN]
    targets = [line.split()[1] for line in lines if line.startswith("make ")]
    assert {*does} <= {*targets}
    for target in targets:
        asked = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "pip install" in done.stdout
        assert does.get(target, "") in done.stdout.splitlines()[-1]


def test_only_what_is_on_the_page_is_left_out() -> None:
    named = {command for part in parts(read(ENGLISH)) for command in part.commands}
    assert not {*NOT_RUN} - named


def test_no_two_commands_write_one_file() -> None:
    """Who goes through the whole page has them in one folder, and the second is refused."""
    commands = {command for part in parts(read(ENGLISH)) for command in part.commands}
    outs = Counter(out for c in commands for out in re.findall(r"--out ([^ ]+)", c))
    assert outs
    assert not [out for out, count in outs.items() if count > 1]


def test_no_settings_file_is_trained_as_it_is() -> None:
    """For hours: those that commands name are made smaller."""
    commands = [command for part in parts(read(ENGLISH)) for command in part.commands]
    named = {name for c in commands for name in re.findall(r"configs/([\w.]+)", c)}
    assert named
    assert not named - {*SMALLER}


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("cli report runs/first", "cli report runs/frist"),
        ("--eval-ids 2015-2018", "--eval-id 2015-2018"),
        ("`cli verify data/WP.zarr`", "`cli verify data/PW.zarr`"),
        ("`cli verify data/WP.zarr`", "`cli verfy data/WP.zarr`"),
    ],
)
def test_a_changed_command_is_another(was: str, becomes: str) -> None:
    text = read(CHINESE)
    assert was in text
    changed = list(parts(text.replace(was, becomes)))
    assert [p.commands for p in changed] != [p.commands for p in parts(read(ENGLISH))]
    assert any(becomes.strip("`") in c for part in changed for c in part.commands)


def test_names_and_options_are_no_commands() -> None:
    said = (
        "`cli convert`, `cli export RUN`, `cli COMMAND --help`, `cli infer --mode check`, `--help`"
    )
    assert not whole(said)
    assert whole(said + " `cli infer NEW/\nout --out a.nc`") == ["cli infer NEW/ out --out a.nc"]


def test_the_command_that_failed_is_named(tmp_path: Path) -> None:
    code, told = run("echo one  # of three\ncd nowhere # words\necho never\n", tmp_path)
    assert code == 1
    assert told.startswith("one\n")
    assert "nowhere: No such file" in told
    assert told.endswith("FAILED (1): cd nowhere\n")
    assert run("true", tmp_path) == (0, "")
