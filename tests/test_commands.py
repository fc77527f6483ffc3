"""What the commands say of themselves: help, pages, completion, --json, dry runs, being stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import cli
from pipeline import progress, shipped
from pipeline.commands import completion, help, screen

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-c", "import cli; cli.app(prog_name='cli')"]
TINY = {
    "model": {"name": "tempogan", "n_residual_blocks": 1, "width": 8, "warmup_steps": 2},
    "training": {
        "patch_size": 32,
        "batch_size": 2,
        "epochs": 1,
        "validation_crops": 2,
        "sample_every_epochs": 0,
    },
}


def run(*words: object, columns: int = 80) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(cli.app, [str(word) for word in words])


def everything() -> list[tuple[Any, Any]]:
    """Every command and group of commands, each with its context."""
    group: Any = typer.main.get_command(cli.app)
    context = typer.Context(group, info_name="cli")
    return [(group, context), *help.commands_of(group, context)]


EVERYTHING = everything()
NAMES = [context.command_path for _, context in EVERYTHING]


# --- --help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_help_fits_and_ends_in_examples(name: str, columns: int) -> None:
    result = run(*name.split()[1:], "--help", columns=columns)
    assert result.exit_code == 0
    before, _, examples = result.stdout.partition("\n Examples\n")
    assert max(len(line.rstrip()) for line in before.splitlines()) <= columns
    assert "…" not in before
    assert re.search(rf"^   {name}( |$)", examples, re.MULTILINE) or name == "cli"
    assert "<bool>" not in before
    assert "<list" not in before


@pytest.mark.parametrize(("command", "context"), EVERYTHING, ids=NAMES)
def test_examples_are_commands_that_are_understood(command: Any, context: Any) -> None:
    group: Any = EVERYTHING[0][0]
    examples = [line for line in command.examples if line.startswith("cli ")]
    assert examples
    for line in examples:
        words = line.split(">")[0].split()[1:]
        each = group
        while isinstance(each, help.Group):
            each = each.commands[words.pop(0)]
        each.make_context(each.name, words)


@pytest.mark.parametrize(("command", "context"), EVERYTHING, ids=NAMES)
def test_every_option_says_what_it_is_and_what_its_value_is(command: Any, context: Any) -> None:
    page = help.page_of(command, context)
    for parameters in page.panels.values():
        for each in parameters:
            assert each.help.endswith((".", "?")), each.name
            assert not each.value or each.value == each.value.upper() or "|" in each.value, each
    if not isinstance(command, help.Group):
        assert len(page.about[0]) <= 72, "one line in the list of commands"
        assert len(page.panels.get(help.PLAIN, [])) <= 12, "more belong into a panel of their own"


def test_the_list_is_in_the_order_of_work() -> None:
    shown = run("--help").stdout
    order = ["demo", "inspect", "convert", "verify", "split", "train", "settings", "evaluate",
             "report", "compare", "infer", "export", "upstream"]  # fmt: skip
    rows = re.findall(r"^│ (\w+) .*│$", shown, re.MULTILINE)
    assert rows == order, "each in one line of 80 characters"
    assert "cli demo" in shown.split("─ Start here")[0]


def test_help_has_no_colour_that_vanishes_on_white() -> None:
    shown = subprocess.run(
        [*CLI, "convert", "--help"], capture_output=True, text=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"},
    ).stdout  # fmt: skip
    codes = {c for found in re.findall(r"\x1b\[([\d;]*)m", shown) for c in found.split(";")}
    assert "1" in codes  # bold: it is coloured at all
    assert not codes & {"2", "33", "36", "37", "90", "93", "96", "97"}  # dim, yellow, cyan, greys


def test_version_and_no_arguments() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"{cli.pipeline.software()}\n")
    assert run().exit_code == 2
    assert "Usage: cli [OPTIONS] COMMAND" in run().output.replace("root", "cli")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evalute", "Did you mean 'evaluate'"),
        ("settings chekc", "Did you mean 'check'"),
        ("train --dryrun", "--dry-run"),
        ("evaluate", "Missing argument 'RUN'. As in: cli evaluate runs/first"),
        ("report a b", "unexpected extra argument(s) (b). As in: cli report runs/first"),
        ("convert --codec lz4", "'none', 'zstd'"),
    ],
)
def test_a_slip_of_the_keyboard_is_answered(words: str, told: str) -> None:
    result = run(*words.split(), columns=200)
    assert result.exit_code == 2
    assert told in result.stderr


# --- docs/commands ------------------------------------------------------------------------------


def made_pages() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs/commands/make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_the_pages_are_what_help_says() -> None:
    pages = made_pages()
    folder = ROOT / "docs/commands"
    assert {file.name for file in folder.glob("*.md")} == pages.keys(), "run `make docs`"
    for name, text in pages.items():
        assert (folder / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"
    named = {f"{'-'.join(name.split()[1:])}.md" for name in NAMES[1:]}
    assert {"README.md", *named} == pages.keys()


def test_links_of_the_pages_lead_somewhere() -> None:
    folder = ROOT / "docs/commands"
    for file in folder.glob("*.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
            assert (folder / link).is_file(), f"{file.name}: {link}"


# --- completion ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store's root, a raw tree, two runs and a settings file."""
    home = tmp_path_factory.mktemp("place")
    (home / "data/WP.zarr").mkdir(parents=True)
    attributes = {"attributes": {"tracks": ["202107", "202110"]}}
    (home / "data/WP.zarr/zarr.json").write_text(json.dumps(attributes))
    (home / "data/WP/image/198702").mkdir(parents=True)
    (home / "runs/first/checkpoints").mkdir(parents=True)
    for name in ("epoch-0010", "pretrained"):
        (home / f"runs/first/checkpoints/{name}.ckpt").touch()
    (home / "runs/none").mkdir()
    (home / "runs/second").mkdir()
    (home / "runs/second/settings.yaml").touch()
    (home / "mine.yaml").touch()
    return home


def offered(place: Path, line: str) -> list[str]:
    """What bash would be offered at the end of a line."""
    words = [*line.split(), ""] if line.endswith(" ") else line.split()
    asked = {
        "_CLI_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    with contextlib.chdir(place):
        done = CliRunner(env=asked).invoke(cli.app, prog_name="cli")
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("cli eval", ["evaluate"]),
        ("cli convert --dry", ["--dry-run"]),
        ("cli convert --codec ", ["none", "zstd"]),
        ("cli evaluate ", ["runs/first", "runs/second"]),
        ("cli compare runs/first runs/s", ["runs/second"]),
        ("cli evaluate runs/first --checkpoint ", ["best", "epoch-0010", "last",
         "pretrained"]),
        ("cli split ", ["data/WP.zarr"]),
        ("cli split data/WP.zarr --eval-ids ", ["202107", "202110"]),
        ("cli split data/WP.zarr --eval-ids 202107,", ["202107,202110"]),
        ("cli infer runs/first data/WP --id ", ["198702"]),
        ("cli train tempogan_c", ["tempogan_cpu"]),
        ("cli train mi", ["mine.yaml"]),
        ("cli train --set training.batch", ["training.batch_size=8"]),
        ("cli train --set training.opt", [f"training.optimizer={n}" for n in ("adam", "adamw")]),
        ("cli settings show --only model.lambda_adv_s", ["model.lambda_adv_s"]),
        ("cli settings show --model s", ["simvp", "srgan", "st_rainnet"]),
    ],
)  # fmt: skip
def test_the_shell_is_offered(place: Path, line: str, among: list[str]) -> None:
    assert offered(place, line) == among


def test_completion_offers_nothing_where_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "S.zarr").mkdir()
    (tmp_path / "S.zarr/zarr.json").write_text("{not JSON")
    for line in ("cli split S.zarr --eval-ids ", "cli evaluate ", "cli evaluate /root/none/"):
        assert offered(tmp_path, line) == []


def test_completion_loads_nothing_heavy(place: Path) -> None:
    """A shell waits for it: neither torch nor zarr nor yaml is imported, whatever is completed."""
    code = (
        "import atexit, sys, cli;"
        "heavy = {'torch', 'zarr', 'numpy', 'pandas', 'yaml'};"
        "atexit.register(lambda: print('HEAVY', len(heavy & set(sys.modules))));"
        "cli.app(prog_name='cli')"
    )
    for line in ("cli evaluate r", "cli train --set tr", "cli split data/WP.zarr --eval-ids 2"):
        env = {"_CLI_COMPLETE": "complete_bash", "COMP_WORDS": line,
               "COMP_CWORD": str(len(line.split()) - 1)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place, capture_output=True, text=True,
            env={**os.environ, **env},
        )  # fmt: skip
        *found, count = done.stdout.splitlines()
        assert found
        assert count == "HEAVY 0"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_both_names_have_a_script_for(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    for name in ("cli", "eddy"):
        result = CliRunner().invoke(cli.app, ["--show-completion", shell], prog_name=name)
        assert result.exit_code == 0
        assert f"_{name.upper()}_COMPLETE=complete_{shell}" in result.stdout


def test_every_setting_is_offered() -> None:
    from pipeline import settings

    known = completion.schema()
    for model in ("tempogan", "simvp"):
        loaded, _ = settings.load(None, [f"model.name={model}"])
        for name, (_, values) in settings.sections(loaded).items():
            assert {f"{name}.{key}" for key in values} <= known.keys()


# --- what commands do ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    """A run on the shared store."""
    (data / "tiny.yaml").write_text(json.dumps(TINY))
    result = run("train", data / "tiny.yaml", *of(data), "--run", data / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Next      cli evaluate {data / 'run'}"
    return data / "run"


def of(data: Path) -> list[object]:
    return ["--store", data / "WP.zarr", "--split", data / "WP.split.json"]


def last_line(result: Result) -> str:
    return result.stdout.splitlines()[-1]


def as_json(*words: object, code: int = 0) -> dict[str, Any]:
    """What --json - writes: nothing else is on standard output."""
    result = run(*words, "--json", "-")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_json_of_convert(data: Path, tmp_path: Path) -> None:
    words = ("convert", data / "WP", tmp_path / "X.zarr", "--ids", "202101", "--workers", 1,
             "--manifest-dir", tmp_path)  # fmt: skip
    planned = as_json(*words, "--dry-run")
    assert (planned["tracks"], planned["bytes"]) == ({"202101": 10}, 4 * 10 * 48 * 48)
    assert planned["free"] > 0
    assert not list(tmp_path.iterdir())
    done = as_json(*words)
    assert (done["tracks"], done["frames"], done["triplets"]) == (["202101"], 10, 8)
    assert Path(done["manifest"]).is_file()
    assert as_json(*words)["done_before"] == ["202101"]


def test_json_of_verify(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = ("--source", data / "WP", "--workers", 1, "--json", file)
    result = run("verify", data / "WP.zarr", *words)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert (found["sound"], found["frames"], found["frames_equal_to_source"]) == (True, 30, 30)
    assert f"JSON      {file}" in result.stdout
    assert last_line(result) == f"Next      cli split {data / 'WP.zarr'} --eval-ids 202103"


def test_json_that_cannot_be_written_is_refused_first(data: Path, tmp_path: Path) -> None:
    result = run("verify", data / "WP.zarr", "--json", tmp_path)
    assert result.exit_code == 1
    assert "is a folder" in result.stderr
    assert result.stdout == ""


def test_a_dry_split_is_the_split_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    words = ("split", data / "WP.zarr", "--eval-ids", "202103", "--out", tmp_path / "s.json")
    found = as_json(*words, "--dry-run")
    assert (found["train"], found["eval"]) == (["202101", "202102"], ["202103"])
    assert found["file"] is None
    assert not list(tmp_path.iterdir())
    result = run(*words, "--dry-run")
    assert last_line(result) == f"Next      {screen.command(*words)}"
    done = as_json(*words)
    assert {**found, "file": done["file"]} == done
    again = run(*words)
    assert "the split that was there was replaced" in again.stderr
    assert "Note" not in again.stdout
    assert last_line(again).startswith("Next      cli train tempogan_cpu --store ")


@pytest.mark.slow
def test_a_dry_inference_says_what_the_real_one_writes(trained: Path, tmp_path: Path) -> None:
    words = ("infer", trained, trained.parent / "WP/image/202103", "--out", tmp_path / "o.nc",
             "--mode", "check", "--pictures", "2", "--no-animation")  # fmt: skip
    planned = as_json(*words, "--dry-run")
    assert not list(tmp_path.iterdir())
    done = as_json(*words)
    differ = {key for key in done if done[key] != planned[key]}
    assert differ <= {"bytes", "scores", "units", "notes"}
    assert done["first"] == "2021-07-03 00:00 UTC"
    assert done["bytes"] == (tmp_path / "o.nc").stat().st_size
    assert planned["bytes"] == 4 * 10 * 48 * 48 * 3  # model, baseline, truth
    assert done["scores"]["model"]["rmse"] > 0


@pytest.mark.slow
def test_a_dry_training_as_json(data: Path) -> None:
    (data / "tiny.yaml").write_text(json.dumps(TINY))
    found = as_json("train", data / "tiny.yaml", *of(data), "--dry-run", "--memory", "8GB")
    assert found["steps"] == found["steps_per_epoch"] * found["epochs"] == 8  # 16 windows, 2 each
    assert found["bytes_of_gpu"] == 8e9


def test_json_is_not_for_a_training_itself(data: Path) -> None:
    result = run("train", *of(data), "--json", "-")
    assert result.exit_code == 2
    assert "metrics.jsonl" in result.stderr


def test_notes_go_to_standard_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("training: {num_workers: 4}")
    result = run("settings", "check", tmp_path / "odd.yaml")
    assert result.exit_code == 0
    assert "Note: " in result.stderr
    assert "training.num_workers" in result.stderr
    assert "Note" not in result.stdout


def test_only_one_function_says_notes() -> None:
    for file in (ROOT / "pipeline").rglob("*.py"):
        if file.name != "progress.py":
            assert not re.search(r"print\([^)]*Note:", file.read_text(encoding="utf-8")), file


def test_a_stretch_without_steps_is_named_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.working("export"):
        assert capsys.readouterr() == ("", "export ...\n")
    with progress.working("start", in_logs=False), progress.muted(), progress.working("export"):
        assert capsys.readouterr() == ("", "")


def test_a_shell_that_expands_the_parts_of_an_archive(tmp_path: Path) -> None:
    from pipeline.commands.convert import places
    from pipeline.errors import UsageError

    parts = [tmp_path / f"WP.tar.gz0{n}" for n in range(3)]
    store = tmp_path / "WP.zarr"
    assert places(parts, store) == (parts[0], store)
    assert places([parts[0]], store) == (parts[0], store)
    assert places([], Path("WP")) == (Path("WP"), Path("data/WP.zarr"))
    assert places([], None) == (Path("data/WP"), Path("data/WP.zarr"))
    with pytest.raises(UsageError, match=r"WP.tar.gz02: is a part of an archive, not a store"):
        places(parts[:2], parts[2])
    with pytest.raises(UsageError, match="is no part of an archive"):
        places([parts[0], tmp_path / "other"], store)
    parts[2].write_text("precious")
    result = run("convert", *parts)
    assert result.exit_code == 2
    assert f"cli convert {tmp_path / 'WP'}.tar.gz* data/WP.zarr" in result.stderr
    assert parts[2].read_text() == "precious"


# --- cli settings -------------------------------------------------------------------------------


def test_settings_list_names_what_train_takes() -> None:
    result = run("settings", "list", columns=100)
    assert result.exit_code == 0
    for name, sentence in shipped.names().items():
        assert re.search(rf"^{name} ", result.stdout, re.MULTILINE)
        assert sentence.split()[0] in result.stdout


def test_settings_show_can_be_used_again(tmp_path: Path) -> None:
    shown = run("settings", "show", "tempogan_cpu", "--set", "training.lr=1e-3")
    assert shown.exit_code == 0, shown.output
    file = tmp_path / "all.yaml"
    file.write_text(shown.stdout)
    before = as_json("settings", "show", "tempogan_cpu", "--set", "training.lr=1e-3")
    assert as_json("settings", "show", file)["settings"] == before["settings"]
    assert before["settings"]["training"]["lr"] == 1e-3
    assert before["changed"]["training.lr"] == {"value": 0.001, "default": 0.0005}
    changed = run("settings", "show", file, "--changed")
    assert re.search(r"^training.lr +0.001 +0.0005", changed.stdout, re.MULTILINE)
    only = run("settings", "show", "--model", "simvp", "--only", "training.lr")
    assert "lr:" in only.stdout
    assert "epochs:" not in only.stdout


def test_settings_check_has_a_line_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("model: {name: simvp}")
    (tmp_path / "bad.yaml").write_text("training: {batchsize: 2}")
    words = ("settings", "check", tmp_path / "good.yaml", tmp_path / "bad.yaml", "upstream")
    result = run(*words)
    assert result.exit_code == 2
    assert "did you mean training.batch_size" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["Fine", "Fine"]
    assert "upstream" in result.stdout.splitlines()[1]
    assert run("settings", "check", tmp_path / "good.yaml").exit_code == 0


def test_settings_schema_is_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    assert run("settings", "schema", "--out", file).exit_code == 0
    kept = json.loads((shipped.folder() / shipped.SCHEMA).read_text(encoding="utf-8"))
    assert json.loads(file.read_text()) == kept
    assert json.loads(run("settings", "schema").stdout) == kept


# --- stopped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "stage", "told"),
    [
        ("evaluate RUN", "evaluate.evaluate", "no scores were written; the same command starts"),
        ("report RUN", "report.report", "no page was written; the same command starts over"),
        ("compare RUN RUN", "compare.compare", "the same command starts over"),
        ("verify STORE", "verify.verify", "the same command starts over"),
        ("split STORE --eval-ids 202103", "split.split", "nothing was written"),
        ("export RUN", "export.export", "no folder was made"),
        ("inspect STORE", "inspection.inspect", "nothing was written"),
        ("infer RUN STORE --out o.nc", "infer.infer", "o.nc is not written"),
        ("train --run RUN --resume", "train.train", "go on with: cli train --run .*run --resume"),
        ("train DATA --run NEW", "train.train", "nothing was saved yet; the same command starts"),
        ("convert RAW STORE", "convert.convert", "3 finished tracks kept in .*; the same"),
        ("convert RAW NEW", "convert.convert", "no track is finished yet"),
    ],
)
@pytest.mark.parametrize("by", [KeyboardInterrupt, screen.Terminated])
def test_stopped_it_says_how_to_go_on(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    stage: str,
    told: str,
    by: type[BaseException],
) -> None:
    def stop(*args: object, **named: object) -> None:
        raise by

    module, name = stage.split(".")
    monkeypatch.setattr(importlib.import_module(f"pipeline.{module}"), name, stop)
    home = trained.parent
    scored = Path(shutil.copytree(trained, tmp_path / "run"))
    (scored / "scores.json").touch()
    at = {"RUN": scored, "STORE": home / "WP.zarr", "RAW": home / "WP", "NEW": tmp_path / "new"}
    words = words.replace("DATA", " ".join(map(str, of(home))))
    result = run(*(at.get(word, word) for word in words.split()))
    assert result.exit_code == (130 if by is KeyboardInterrupt else 143), result.output
    assert re.search(rf"^Stopped: .*{told}", result.stderr, re.MULTILINE), result.stderr


def stopped(home: Path, number: signal.Signals, until: str, *words: object) -> tuple[int, str]:
    """Start a command, wait until a file is there, stop it: exit code, and all that it said.

    SIGINT goes to all of its processes, as a terminal's Ctrl-C does, SIGTERM to the first.
    """
    process = subprocess.Popen(
        [*CLI, *map(str, words)], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    latest = time.monotonic() + 120
    while not list(home.glob(until)) and process.poll() is None and time.monotonic() < latest:
        time.sleep(0.02)
    (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said
    return process.returncode, said


@pytest.fixture(scope="module")
def long_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree that takes some seconds to convert, of larger frames."""
    from datetime import UTC, datetime

    from pipeline.sources.synthetic import Storm, write_tree

    home = tmp_path_factory.mktemp("long")
    storms = [
        Storm(f"2021{n:02d}", datetime(2021, 7, n, tzinfo=UTC), hours=12, latitude=10.0 + n)
        for n in range(1, 10)
    ]
    write_tree(home / "WP", storms, size=256)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_conversion_goes_on(
    long_work: Path, number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    words = ("convert", long_work / "WP", "X.zarr", "--workers", workers, "--manifest-dir", ".")
    code, said = stopped(tmp_path, number, "X.zarr/2021*", *words)
    assert code == (130 if number is signal.SIGINT else 143), said
    kept = len(list(tmp_path.glob("X.zarr/2021*")))
    assert 1 <= kept < 9
    assert f"Stopped: {kept} finished track" in said
    assert "the same command goes on" in said
    assert not list(tmp_path.glob("X.zarr/.*"))
    again = subprocess.run([*CLI, *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
    assert f"{kept} tracks were done before" in again.stdout, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_stopped_training_goes_on(data: Path, number: signal.Signals, tmp_path: Path) -> None:
    training = {**TINY["training"], "epochs": 500}
    (tmp_path / "long.yaml").write_text(json.dumps({**TINY, "training": training}))
    words = ("train", "long.yaml", *of(data), "--run", "run")
    code, said = stopped(tmp_path, number, "run/checkpoints/last.ckpt", *words)
    assert code == 0, said
    assert "told to stop" in said
    assert said.splitlines()[-1] == "Next      cli train --run run --resume"
    words = ("train", "--run", "run", "--resume", "--set", "training.epochs=1")
    again = subprocess.run([*CLI, *words], cwd=tmp_path, capture_output=True, text=True)
    assert "nothing was left to train" in again.stdout, again.stderr


@pytest.mark.slow
def test_a_stopped_inference_goes_on(long_work: Path, trained: Path, tmp_path: Path) -> None:
    words = ("infer", trained, long_work / "WP/image/202101", "--out", "o.nc", "--no-animation",
             "--tile", 32)  # fmt: skip
    code, said = stopped(tmp_path, signal.SIGINT, ".o.nc.unfinished/*", *words)
    assert code == 130, said
    assert "Stopped: o.nc is not written" in said
    assert not (tmp_path / "o.nc").exists()
    again = subprocess.run([*CLI, *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "12 frames" in again.stdout


@pytest.mark.slow
def test_a_stopped_demo_does_not_go_on_after_its_training(tmp_path: Path) -> None:
    code, said = stopped(tmp_path, signal.SIGINT, "demo/run/metrics.jsonl", "demo")
    assert code == 130, said
    assert "$ cli train" in said
    assert "$ cli evaluate" not in said
    assert "Stopped: demo is unfinished; the same command starts over" in said


@pytest.mark.slow
def test_a_stopped_evaluation_and_verification_leave_nothing(
    long_work: Path, trained: Path, tmp_path: Path
) -> None:
    for words in (("evaluate", trained), ("verify", trained.parent / "WP.zarr")):
        before = sorted(trained.parent.rglob("*"))
        process = subprocess.Popen(
            [*CLI, *map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(1.5)  # it imports torch, or scores
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        if process.returncode == 130:  # else it was quick
            assert "Stopped: " in said
            assert "starts over" in said
        assert sorted(trained.parent.rglob("*")) == before or process.returncode == 0
