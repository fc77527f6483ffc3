"""What is wrong with settings: all of it at once, by line, and what may be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, field_validator
from typer.testing import CliRunner, Result

import cli
from pipeline import settings, settings_file
from pipeline.errors import UsageError, UserError


def faults(text: str, folder: Path, *overrides: str) -> list[str]:
    """Of a file of that text, without its name."""
    file = folder / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        settings.check(file, overrides)
    return [str(fault).replace(f"{file}: ", "") for fault in error.value.args]


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [str(word) for word in words])


# All at once


def test_the_faults_of_all_sections_are_told_together(tmp_path: Path) -> None:
    found = faults(
        "model: {widht: 3}\ntask: {factor: 0}\ndata: 4\nscaling: {knd: auto}\n"
        "training: {lr: fast, epoch: 3}\nepochs: 3",
        tmp_path,
    )
    assert [fault.partition(";")[0].partition(": ")[0] for fault in found] == [
        "unknown setting model.widht",
        "task.factor",
        "data is 4",
        "unknown setting scaling.knd",
        "training.lr",
        "unknown setting training.epoch",
        "unknown setting epochs",
    ]


def test_an_unknown_model_hides_no_other_fault(tmp_path: Path) -> None:
    name, epoch = faults("model: {name: unet, width: 3}\ntraining: {epoch: 3}", tmp_path)
    assert name.startswith("model.name: no model 'unet'; the models are")
    assert epoch == "unknown setting training.epoch; did you mean training.epochs?"


def test_an_experiment_s_faults_are_told_with_those_of_its_training(tmp_path: Path) -> None:
    found = faults("upstream: {regio: [0, 1, 0, 1]}\ntraining: {epoch: 3}", tmp_path)
    assert [fault.split()[-1] for fault in found] == [
        "required",
        "required",
        "upstream.region?",
        "training.epochs?",
    ]


def test_a_window_that_does_not_follow_is_told_with_the_rest(tmp_path: Path) -> None:
    found = faults("model: {name: simvp}\ntraining: {sequence_length: 3, epoch: 3}", tmp_path)
    assert found[0].startswith("training.sequence_length is 3; a forecast's window is")
    assert "training.epochs?" in found[1]


def test_check_has_a_line_for_each_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: {widht: 2}\ntraining: {epoch: 2}")
    for words in (("settings", "check"), ("train",)):
        result = run(*words, tmp_path / "bad.yaml")
        assert result.exit_code == 2
        lines = result.stderr.splitlines()
        assert [line.rpartition(" ")[2] for line in lines] == ["model.width?", "training.epochs?"]
        assert all(line.startswith(f"Error: {tmp_path / 'bad.yaml'}: ") for line in lines)


def test_several_faults_are_one_sentence_to_those_who_quote_them() -> None:
    assert str(UserError("a is b", "c is d")) == "a is b; c is d"
    assert str(UserError("a is b")) == "a is b"


def test_what_a_validator_says_is_told_without_pydantic_s_words() -> None:
    class Odd(BaseModel):
        side: int

        @field_validator("side")
        @classmethod
        def _odd(cls, side: int) -> int:
            raise ValueError(f"{side} is even; take an odd one")

    with pytest.raises(UsageError) as error:
        settings.section(Odd, {"side": 4}, "part", {"part.side": "a.yaml"})
    assert str(error.value) == "a.yaml: part.side: 4: 4 is even; take an odd one"


# What may be meant


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=3", "training.epochs"),  # a setting without its section
        ("epoch=3", "training.epochs"),
        ("width=3", "model.width"),
        ("name=srgan", "model.name"),
        ("factor=2", "task.factor"),
        ("model.epochs=3", "training.epochs"),  # in another
        ("training.factor=3", "task.factor"),
        ("training.batchsize=3", "training.batch_size"),
    ],
)
def test_a_suggestion_is_a_whole_key(override: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        settings.load(None, [override])
    key = override.partition("=")[0]
    assert str(error.value) == f"--set {override}: unknown setting {key}; did you mean {meant}?"


def test_where_nothing_is_near_all_are_named() -> None:
    with pytest.raises(UsageError, match=r"scaling has kind$"):
        settings.load(None, ["scaling.zzz=3"])
    with pytest.raises(UsageError, match=r"lie in the sections .*`cli settings show` lists them"):
        settings.load(None, ["zzz=3"])


def test_settings_of_another_model_are_told_whose_they_are(tmp_path: Path) -> None:
    whole = settings.explained(settings.load(None)[0]).replace("name: tempogan", "name: simvp")
    arch, model, task = faults(whole, tmp_path)
    assert arch.startswith("model.arch: 'residual'")
    assert model.startswith("model.n_residual_blocks, model.width, ")
    assert model.endswith(
        " are settings of tempogan, not of simvp; leave them out (`cli settings show --model simvp`"
        " shows what it has)"
    )
    assert task.startswith("task.factor, ")
    assert "settings of super-resolution, not of simvp" in task
    (levels,) = faults("model: {levels: 3}", tmp_path)
    assert levels.startswith("model.levels is a setting of st_rainnet, not of tempogan; leave it o")


# One setting under two names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("training: {lr_g: 1.0e-4, lr_of: {generator: 2.0e-4}}", "training.lr_of.generator is 0.0"),
        ("training: {lr_of: {generator: 2.0e-4}, lr_g: 1.0e-4}", "training.lr_g is 0.0001"),
        ("model: {upsample_factor: 2}\ntask: {factor: 4}", "model.upsample_factor is 2 and task.f"),
        ("device: cpu\ntraining: {device: cuda}", "device is 'cpu' and training.device is 'cuda'"),
    ],
)
def test_two_names_of_one_setting_that_differ_are_refused(
    text: str, told: str, tmp_path: Path
) -> None:
    (fault,) = faults(text, tmp_path)
    assert told in fault
    assert "two names of one setting; leave one of them out" in fault


@pytest.mark.parametrize(
    "text",
    ["{lr_g: 1.0e-4, lr_of: {}}", "{lr_of: {}, lr_g: 1.0e-4}",
     "{lr_g: 1.0e-4, lr_of: {generator: 1.0e-4}}"],
)  # fmt: skip
def test_two_names_that_do_not_contradict_are_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"training: {text}")
    made, _ = settings.load(tmp_path / "c.yaml")
    assert made.training.lr_of == {"generator": 1e-4}
    made, _ = settings.load(tmp_path / "c.yaml", ["training.lr_g=1"])  # which goes first
    assert made.training.lr_of == {"generator": 1}


# Files that cannot be read


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model:\n  name: simvp\n   arch: gsta", "line 3, column 8: a colon too many"),
        ("training\n  lr: 1", "line 2, column 5: a colon too many; or the line above lacks one"),
        ("training:\n  lr: 1\n ema: 2", "line 3, column 2: indented otherwise than the lines"),
        ("training:\n\tlr: 1", "line 2, column 1: a tab; indent with spaces"),
        ("training:\n  lr: 1\n  ema\ndata: {}", "line 3, column 3: no colon with a space behind"),
        ("data: {store: 'a}", "line 1, column 15: a quotation mark that nothing closes"),
        ("training: {lr: 1", "line 1, column 11: a bracket that nothing closes"),
        ("data: {store: @a}", "line 1, column 15: a value that begins so needs quotation marks"),
        ("data: !!python/none x", "line 1, column 7: a tag"),
        ("a: \x01", "character 4 is none that YAML allows"),
    ],
)
def test_a_file_is_unreadable_in_a_line_and_for_a_reason(
    text: str, told: str, tmp_path: Path
) -> None:
    (fault,) = faults(text, tmp_path)
    assert fault.startswith(f"not readable as YAML or JSON ({told}")
    assert fault.endswith(")")
    assert not any(word in fault for word in ("block", "<", "scanning", "token", "tag:yaml"))


def test_json_is_unreadable_in_a_line_too(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{\n  "training": {"lr": 1,}\n}')
    with pytest.raises(UsageError, match=r"JSON \(line 2, column 2\d: [a-z]"):
        settings_file.read(file)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UsageError, match=r"byte 8 is not UTF-8; save it as UTF-8\)"):
        settings_file.read(file)


# What is shown can be used


@pytest.mark.parametrize("only", ["model.hid_s", "model", "task.past", "task", "training"])
def test_what_is_shown_of_a_part_is_a_file_of_its_own(only: str, tmp_path: Path) -> None:
    file = tmp_path / "part.yaml"
    shown = run("settings", "show", "--model", "simvp", "--set", "task.past=3", "--only", only)
    file.write_text(shown.stdout)
    made = settings.check(file).settings
    assert made.model_name == ("tempogan" if only == "training" else "simvp")
    assert "sequence_length" not in shown.stdout


def test_a_window_is_shown_where_it_is_named_itself() -> None:
    key = "training.sequence_length"
    alone = run("settings", "show", "--model", "simvp", "--set", "task.past=3", "--only", key)
    assert yaml.safe_load(alone.stdout) == {"training": {"sequence_length": 15}}


def test_of_the_usual_model_a_part_needs_no_name() -> None:
    shown = run("settings", "show", "--only", "model.width")
    assert yaml.safe_load(shown.stdout) == {"model": {"width": 64}}


def test_only_is_the_same_for_changes(tmp_path: Path) -> None:
    words = ("settings", "show", "--changed", "--set", "training.lr=1", "--set", "training.ema=0")
    shown = run(*words, "--only", "training.lr")
    assert "training.lr " in shown.stdout
    assert "ema" not in shown.stdout
    wrong = run(*words, "--only", "training.lrr")
    assert wrong.exit_code == 2
    assert "training.lrr: no setting of tempogan; did you mean training.lr?" in wrong.stderr


def test_what_is_changed_is_only_looked_for_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(settings, "changed", lambda of: asked.append(of) or {})
    assert run("settings", "show").exit_code == 0
    assert not asked
    run("settings", "show", "--changed")
    run("settings", "show", "--json", tmp_path / "s.json")
    assert len(asked) == 2


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = settings_file.read
    monkeypatch.setattr(settings_file, "read", lambda file: reads.append(file) or read(file))
    for words in (("check", "tempogan"), ("show", "tempogan"), ("check", "upstream")):
        assert run("settings", *words).exit_code == 0
        assert len(reads) == 1, words
        reads.clear()


def test_a_shown_forecast_takes_another_past(tmp_path: Path) -> None:
    """Its window follows: neither the shown file nor a run's own hold it against that."""
    made, _ = settings.load(None, ["model.name=simvp"])
    (tmp_path / "shown.yaml").write_text(settings.explained(made))
    settings.write(tmp_path / "settings.yaml", made)
    for name in ("shown.yaml", "settings.yaml"):
        other, _ = settings.load(tmp_path / name, ["task.past=3"])
        assert other.training.sequence_length == 15
    with pytest.raises(UsageError, match=r"training\.sequence_length is 24"):
        settings.load(tmp_path / "settings.yaml", ["task.past=3", "training.sequence_length=24"])


# Another model, another arch


def test_another_model_keeps_all_but_what_is_the_model_s(tmp_path: Path) -> None:
    made, _ = settings.load(None, ["training.epochs=7", "task.factor=2", "model.width=8"])
    for name, text in (("all", settings.explained(made)), ("run", settings.text(made))):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        other, notes = settings.load(file, ["model.name=simvp"])
        expected, _ = settings.load(None, ["model.name=simvp", "training.epochs=7"])
        assert other == expected
        model, task = notes
        assert model.startswith("model.arch, ")
        assert model.endswith(f": left out, for {file} gives them for the model tempogan")
        assert task.startswith("task.factor, ")
        assert task.endswith("gives them for super-resolution")
        same, notes = settings.load(file, ["model.name=srgan"])  # of the same task
        assert same.task == made.task
        assert same.model == settings.load(None, ["model.name=srgan"])[0].model
        assert len(notes) == 1
    shown = run("settings", "show", "tempogan", "--model", "simvp", "--changed")
    assert shown.exit_code == 0
    assert "training.epochs " in shown.stdout


def test_the_model_that_a_file_has_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {name: tempogan, width: 8}")
    made, notes = settings.load(tmp_path / "c.yaml", ["model.name=tempogan"])
    assert made.model["width"] == 8
    assert not notes
    made, notes = settings.load(tmp_path / "c.yaml", ["model.fine_width=4", "model.name=srgan"])
    assert made.model["fine_width"] == 4  # which was asked for beside it
    assert notes == [
        f"model.width: left out, for {tmp_path / 'c.yaml'} gives them for the model tempogan"
    ]


def test_a_changed_arch_beside_all_that_was_the_old_one_s_is_told(tmp_path: Path) -> None:
    text = settings.explained(settings.load(None)[0])
    file = tmp_path / "c.yaml"
    file.write_text(text.replace("arch: residual", "arch: eddy"))
    _, (note,) = settings.load(file)
    assert note.startswith("model.arch is eddy, but model.lambda_adv_s, ")
    assert note.endswith("are given as residual has them: leave their lines out for those of eddy")
    for sound in (text, "model: {arch: eddy}", "model: {arch: eddy, warmup_steps: 500}"):
        file.write_text(sound)
        assert not settings.load(file)[1]
