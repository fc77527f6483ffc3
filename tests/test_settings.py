"""Settings explain themselves: in files, to editors, wherever eddy is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

import cli
import models
from pipeline import explanations, settings, settings_file, settings_schema, shipped, tasks
from pipeline.errors import UsageError
from pipeline.experiment.plan import UpstreamSettings

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(file for file in CONFIGS.iterdir() if file.name != shipped.SCHEMA)
MODELS = models.names()
KINDS = [
    settings.RunSettings,
    settings.DataSettings,
    settings.ScalingSettings,
    settings.TrainSettings,
    UpstreamSettings,
    *tasks.SETTINGS.values(),
    *(models.find(name).Settings for name in MODELS),
]
stem = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def of_model(name: str, *more: str) -> settings.RunSettings:
    return settings.load(None, [f"model.name={name}", *more])[0]


def reloaded(text: str, folder: Path) -> settings.RunSettings:
    (folder / "again.yaml").write_text(text)
    return settings.load(folder / "again.yaml")[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_setting_says_what_it_means(kind: type[BaseModel]) -> None:
    silent = [key for key, field in kind.model_fields.items() if not field.description]
    assert not silent, f"write a docstring below {', '.join(silent)}"
    for key, field in kind.model_fields.items():
        told = explanations.meaning(field)
        assert told.endswith((".", ")")), key
        if type(None) in get_args(field.annotation):
            assert "null" in told, f"{key}: what does null mean?"


def test_without_source_settings_are_told_without_their_meaning(tmp_path: Path) -> None:
    """pydantic reads the docstrings from it, with python -OO too."""
    source = (
        "from pydantic import BaseModel\n"
        "from typing import Literal\n"
        "class Kind(BaseModel, use_attribute_docstrings=True):\n"
        "    way: Literal['a', 'b'] = 'a'\n"
        "    'Said nowhere.'\n"
        "    size: int = 3\n"
        "    'Nor this.'\n"
    )
    here: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(source, "<no file>", "exec", dont_inherit=True), here)
    kind = here["Kind"]
    meanings = {key: explanations.meaning(field) for key, field in kind.model_fields.items()}
    assert meanings == {"way": "a | b", "size": ""}
    told = explanations.section("kind", "", kind().model_dump(), meanings)
    assert told == "kind:\n  way: a   # a | b\n  size: 3\n"
    assert settings_schema.section("kind", kind, None)["properties"]["size"] == {
        "default": 3,
        "type": "integer",
    }


@stem
def test_an_explained_file_loads_back_to_the_same(file: Path, tmp_path: Path) -> None:
    made = settings.check(file).settings
    text = settings.explained(made)
    assert reloaded(text, tmp_path) == made
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for key in ("  epochs:", "  seed:", "  name:"):
        assert sum(line.startswith(key) for line in lines) == 1
    assert "#" in next(line for line in lines if line.startswith("  epochs:"))  # behind it: it fits


def test_a_comment_stands_behind_or_above_and_names_the_words() -> None:
    lines = settings.explained(of_model("simvp")).splitlines()
    at = next(i for i, line in enumerate(lines) if line.lstrip().startswith("schedule:"))
    assert lines[at - 3].startswith("  # constant | cosine | halve | onecycle. How the learning")
    assert lines[at] == "  schedule: cosine"
    (optimizer,) = (line for line in lines if line.startswith("  optimizer:"))
    assert optimizer.split("  # ")[1].startswith("adam | adamw. ")
    assert "# true | false | rotations." in "\n".join(lines)
    assert lines[0].startswith("# SimVP: ")
    assert lines[1:3] == ["model:", "  name: simvp".ljust(len(lines[2].split("#")[0])) + "# "
                          + " | ".join(models.names())]  # fmt: skip


def test_an_experiment_is_explained_whole(tmp_path: Path) -> None:
    found = settings.check(CONFIGS / "upstream.yaml", ["upstream.seeds=2"])
    text = settings.explained(found.settings, upstream=found.upstream)
    assert text.startswith("# What is compared with what. Boxes:")
    (tmp_path / "again.yaml").write_text(text)
    again = settings.check(tmp_path / "again.yaml")
    assert (again.settings, again.upstream) == (found.settings, found.upstream)
    some = settings.explained(found.settings, ["upstream.seeds"], found.upstream)
    assert yaml.safe_load(some) == {"upstream": {"seeds": 2}}


def test_words_that_yaml_would_read_otherwise_come_back(tmp_path: Path) -> None:
    made = of_model(
        "simvp",
        "task.targets=['on']",
        "data.split='#1.json'",
        "task.inputs=['on','a: b']",
        "training.device='1e3'",
        "data.store='no'",
        "training.compile=off",
    )
    assert made.task.inputs == ("on", "a: b")
    assert reloaded(settings.explained(made), tmp_path) == made


@stem
def test_what_a_file_changes_is_enough_to_make_it_again(file: Path, tmp_path: Path) -> None:
    made = settings.check(file).settings
    changed = settings.changed(made)
    assert reloaded(settings.explained(made, only=changed), tmp_path) == made
    plain = made.model_dump(mode="json")
    for key, (value, default) in changed.items():
        section, _, name = key.partition(".")
        assert plain[section][name] == value != default


@pytest.mark.parametrize("name", MODELS)
def test_a_model_as_it_comes_changes_its_name_at_most(name: str) -> None:
    default = settings.RunSettings().model_name
    expected = {} if name == default else {"model.name": (name, default)}
    assert settings.changed(of_model(name)) == expected


def test_a_default_is_what_leaving_the_line_out_gives() -> None:
    eddy = of_model("tempogan", "model.arch=eddy", "model.consistent=true", "model.warmup_steps=0")
    assert settings.changed(eddy) == {
        "model.arch": ("eddy", "residual"),
        "model.consistent": (True, False),  # residual's default, not eddy's
    }
    longer = of_model("simvp", "task.past=3")
    assert longer.training.sequence_length == 15
    assert "training.sequence_length" not in settings.changed(longer)
    deep = of_model("st_rainnet", "model.levels=3", "model.hidden=[4,4,4]")  # go together only
    assert settings.changed(deep)["model.levels"] == (3, 2)


def test_only_some_are_explained() -> None:
    made = of_model("simvp", "training.lr=0.1")
    text = settings.explained(made, only=["training.lr", "scaling"])
    assert yaml.safe_load(text) == {"scaling": {"kind": "auto"}, "training": {"lr": 0.1}}
    with pytest.raises(
        UsageError, match=r"training\.lrr: no setting of simvp; did you mean tr.*lr\?"
    ):
        settings.explained(made, only=["training.lrr"])
    assert settings.explained(made, only=[]) == ""


def test_check_says_what_a_file_is(tmp_path: Path) -> None:
    found = settings.check(CONFIGS / "tempogan_cpu.yaml", ["training.epochs=3"])
    assert (found.settings.training.epochs, found.upstream, found.notes) == (3, None, [])
    (tmp_path / "c.json").write_text('{"training": {"num_workers": 4}, "$schema": "x"}')
    (note,) = settings.check(tmp_path / "c.json").notes
    assert note.startswith("training.num_workers has no effect: ")
    found = settings.check(Path("upstream"), ["upstream.seeds=2"])
    assert found.file == shipped.files()["upstream"]
    assert isinstance(found.upstream, UpstreamSettings)
    assert found.upstream.seeds == 2
    assert found.settings.training.patch_size is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "training: {epoch: 3}",
            r"unknown setting training\.epoch; did you mean training\.epochs\?",
        ),
        ("upstream: {region: [0, 1, 0, 1], upstreem: 3}", r"did you mean upstream\.upstream\?"),
        ("upstream: {region: [0,1,0,1], upstream: [1,2,0,1]}", "tempogan does not forecast"),
        ("training:\n  lr: 1\n  ema: 0\n  lr: 2", r"lr is given twice in one section"),
        ("training: {lr: 1}\ntraining: {ema: 0}", r"training is given twice"),
    ],
)
def test_check_refuses_what_its_command_would(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=told) as error:
        settings.check(tmp_path / "c.yaml")
    if "forecast" not in told:  # which is of all settings together
        assert str(error.value).startswith(str(tmp_path / "c.yaml"))


def test_a_key_that_json_repeats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"training": {"lr": 1, "lr": 2}}')
    with pytest.raises(UsageError, match=r"c\.json: .*lr is given twice"):
        settings.load(tmp_path / "c.json")


# The schema for editors


@pytest.fixture(scope="module")
def judge() -> jsonschema.Draft7Validator:
    made = settings_schema.schema()
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


def complaints(judge: jsonschema.Draft7Validator, tree: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in judge.iter_errors(tree)]


def test_the_schema_in_configs_is_the_schema() -> None:
    kept = (CONFIGS / shipped.SCHEMA).read_text(encoding="utf-8")
    assert kept == settings_schema.text(), (
        "settings have changed: cli settings schema --out configs/settings.schema.json"
    )


@stem
def test_every_config_is_valid_and_names_the_schema(
    file: Path, judge: jsonschema.Draft7Validator
) -> None:
    text = file.read_text(encoding="utf-8")
    tree = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    assert not complaints(judge, tree)
    if file.suffix == ".json":
        assert tree["$schema"] == shipped.SCHEMA
    else:
        assert text.startswith(f"# yaml-language-server: $schema={shipped.SCHEMA}\n")


@pytest.mark.parametrize("name", MODELS)
def test_all_resolved_settings_are_valid(name: str, judge: jsonschema.Draft7Validator) -> None:
    """As a run's settings.yaml holds them."""
    assert not complaints(judge, yaml.safe_load(settings.text(of_model(name))))


GOOD = [
    "{}",
    "model: {arch: eddy}\ntask: {factor: 2}",  # the default model
    "model: {name: simvp}\ntask: {past: 3}",
    "training: {compile: on, patch_size: null, augment: rotations, lr_of: {generator: 1.0e-4}}",
    "training: {lr_g: 0.1, num_workers: 4, lambda_adv_s: 0}\ndevice: cpu",
    "model: {upsample_factor: 4, in_channels: 1}",
    "data: {split: a.json, read_ahead: off}",
]
BAD = {
    "training: {batchsize: 4}": "batchsize",
    "traning: {}": "traning",
    "training: {batch_size: four}": "four",
    "training: {batch_size: 0}": "0",
    "training: 4": "4",
    "training: {optimizer: sgd}": "sgd",
    "model: {name: simpv}": "simpv",
    "model: {widht: 3}": "widht",
    "model: {name: simvp, lambda_adv_s: 0}": "lambda_adv_s",
    "model: {name: simvp}\ntask: {factor: 4}": "factor",
    "model: {name: simvp, upsample_factor: 4}": "upsample_factor",
    "model: {name: simvp}\ntraining: {lambda_adv_s: 0}": "False schema",
    "task: {past: 3}": "past",
    "upstream: {region: [1, 2, 3]}": "short",
    "upstream: {controls: [nothing]}": "nothing",
}


@pytest.mark.parametrize("text", GOOD)
def test_editors_accept_what_is_loaded(
    text: str, judge: jsonschema.Draft7Validator, tmp_path: Path
) -> None:
    assert not complaints(judge, yaml.safe_load(text))
    reloaded(text, tmp_path)


@pytest.mark.parametrize("text", BAD)
def test_editors_refuse_what_is_refused(
    text: str, judge: jsonschema.Draft7Validator, tmp_path: Path
) -> None:
    found = complaints(judge, yaml.safe_load(text))
    assert found
    assert any(BAD[text] in each for each in found), found
    with pytest.raises(UsageError):
        reloaded(text, tmp_path)


def test_editors_explain_every_key() -> None:
    """Each has a description to show on hover, and each of ours its default."""
    made = settings_schema.schema()
    whole = [made["properties"][name] for name in ("data", "scaling", "training", "upstream")]
    sections = [*whole, *made["definitions"].values()]
    assert len(sections) == 4 + len(models.names()) + 2
    for section in sections:
        for key, its in section["properties"].items():
            if key != "name":
                assert its["description"], key
    training = made["properties"]["training"]["properties"]
    assert training["lr"]["default"] == 5e-4
    assert "training.lr_of.generator" in training["lr_g"]["description"]
    assert "--store" in training["data_root"]["description"]
    assert made["definitions"]["model_simvp"]["properties"]["hid_s"]["default"] == 64
    asked = {*settings_file.ALIASES, *settings_file.WITHOUT_EFFECT}
    said = {f"training.{key}" for key in training} | {*made["properties"]}
    said |= {f"model.{key}" for key in made["definitions"]["model_tempogan"]["properties"]}
    assert asked <= said


# The files that come with eddy


def test_every_config_comes_with_a_sentence() -> None:
    told = shipped.names()
    assert set(told) == {file.stem for file in FILES}
    for name, sentence in told.items():
        assert sentence.endswith("."), name
        assert 20 < len(sentence) < 120, name
        assert "\n" not in sentence
        assert not sentence.startswith(("#", "yaml"))
        where = "two CPU cores" if name.endswith("_cpu") or name == "srgan_precipitation" else "GPU"
        assert where in sentence, name


@pytest.mark.parametrize(
    "given",
    ["tempogan_cpu", "tempogan_cpu.yaml", "configs/tempogan_cpu.yaml", "configs/tempogan_cpu"],
)
def test_a_shipped_file_is_found_from_anywhere(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find(Path(given)) == CONFIGS / "tempogan_cpu.yaml"
    assert settings.load(Path(given))[0].training.batch_size == 6
    (tmp_path / given).parent.mkdir(exist_ok=True)
    (tmp_path / given).write_text("training: {batch_size: 7}")  # one's own goes first
    assert shipped.find(Path(given)) == Path(given)
    assert settings.load(Path(given))[0].training.batch_size == 7


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("tempogan_gpu", r"^tempogan_gpu: no such settings file.*did you mean tempogan_cpu or "),
        ("srgan", r"did you mean srgan_precipitation\? srgan is a model, whose defaults --set mo"),
        ("st", r"did you mean st_rainnet or st_rainnet_cpu\? `cli"),
        ("zzz.yaml", r"^zzz\.yaml: no such settings file.*eddy; `cli settings list`"),
        ("settings.schema", "no such settings file"),
        ("mine/tempogan.yaml", r"^mine/tempogan\.yaml: no such.*own say tempogan alone"),
        ("tempogan_eddy.yaml", "for eddy's own say tempogan_eddy alone"),
        (".", "a folder; expected a settings file.*--store"),
    ],
)
def test_a_file_that_is_nowhere_is_a_sentence(
    given: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        shipped.find(Path(given))
    with pytest.raises(UsageError, match=told):
        settings.load(Path(given))


def test_looking_for_a_file_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline import shipped; shipped.names()\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'yaml', 'pandas'} & {*sys.modules}\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", shipped.names())
def test_what_is_shown_of_a_file_is_that_file(name: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["settings", "show", name])
    (tmp_path / "again.yaml").write_text(shown.stdout, encoding="utf-8")
    again, before = (settings.check(path) for path in (tmp_path / "again.yaml", Path(name)))
    assert again.settings == before.settings
    assert again.upstream == before.upstream
    assert not again.notes


def test_a_section_of_nothing_but_comments_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("\ufefftraining:\n  # lr: 1\nmodel:\n  width: 32\n")
    found, _ = settings.load(tmp_path / "s.yaml")
    assert found.training == settings.TrainSettings()
    assert found.model["width"] == 32


def test_a_section_given_by_set_keeps_what_was_given_before() -> None:
    found, _ = settings.load(None, ["training.batch_size=3", "training={lr: 0.1}"])
    assert (found.training.batch_size, found.training.lr) == (3, 0.1)


def test_a_file_of_upstream_is_sent_there() -> None:
    with pytest.raises(UsageError, match="its section upstream is for `cli upstream`"):
        settings.load(Path("upstream"))


def test_a_path_to_nothing_with_a_known_name_is_told_the_name() -> None:
    with pytest.raises(UsageError, match="no such settings file; for eddy's own say tempogan"):
        shipped.find(Path("/nosuch/tempogan.yaml"))
