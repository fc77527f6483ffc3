"""Settings of a run: one file (YAML; JSON is YAML), overrides, and the words they may use.

Order of precedence: the defaults here and in the model's own Settings, the file, `--set`. What each
setting means is the docstring below it, which `cli settings`, the schema for editors and every
explained file repeat.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

import models
from pipeline import atomic, explanations, manifest, shipped, tasks
from pipeline.errors import UsageError, UserError
from pipeline.paging import ReadAhead
from pipeline.tasks import ForecastSettings, SuperResolutionSettings

# The keys of the TempoGAN specification's config.json, where ours lie elsewhere ...
ALIASES = {
    "model.upsample_factor": "task.factor",
    "model.scale_factor": "task.factor",
    "training.lr_g": "training.lr_of.generator",
    "training.lr_d": "training.lr_of.discriminators",
    "training.lambda_content": "model.lambda_content",
    "training.lambda_adv_s": "model.lambda_adv_s",
    "training.lambda_adv_t": "model.lambda_adv_t",
    "training.save_interval": "training.checkpoint_every_epochs",
    "training.log_interval": "training.log_every_steps",
    "device": "training.device",
}
# ... and those that decide nothing here, each with the reason.
WITHOUT_EFFECT = {
    "model.in_channels": "the channels are measured from the store",
    "model.out_channels": "the channels are measured from the store",
    "training.data_root": "training reads a store; name it with --store",
    "training.num_workers": "the loader maps the store and needs no workers",
    "training.val_interval": "validation runs after every epoch",
    "training.checkpoint_dir": "checkpoints lie in the run folder; name it with --run",
    "training.log_dir": "logs lie in the run folder; name it with --run",
}
# What editors and people may write at the top of a file, and decides nothing.
BESIDE = ("$schema", "$comment")


def on_or_off(given: Any) -> Any:
    """To YAML an unquoted on or off is a truth value."""
    return {True: "on", False: "off"}[given] if isinstance(given, bool) else given


class DataSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Where the data lies, and how it is fetched."""

    store: Path = Path("data/WP.zarr")
    """What cli convert wrote; cli train --store names another."""
    split: Path | None = None
    """What cli split wrote; null: data_manifest/STORE.split.json."""
    threads: NonNegativeInt = 2
    """Threads that cut the next batches during a step; 0: each is cut when asked for."""
    read_ahead: ReadAhead = "auto"
    """Ask the disk for the next batches; auto: where the store is not in memory yet."""

    @field_validator("read_ahead", mode="before")
    @classmethod
    def _of_yaml(cls, given: Any) -> Any:
        return on_or_off(given)

    @property
    def split_file(self) -> Path:
        return self.split or manifest.split_file(manifest.FOLDER, self.store)


class ScalingSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How physical units become numbers near 1."""

    kind: Literal["auto", "range", "log1p", "standard", "weather"] = "auto"
    """range: valid range to -1..1; standard: z-scores of the training tracks; log1p: log of
    1 + value, 0 to 0 and the training tracks' maximum to 1; auto: log1p for rain (mm), range where
    one is known, else standard; weather: log1p for rain, standard for all else."""


class TrainSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """The training loop, whatever the model."""

    epochs: PositiveInt = 100
    """How often every training window is gone through."""
    batch_size: PositiveInt = 8
    """Windows per step, of all devices together; memory grows with it."""
    patch_size: PositiveInt | None = 128
    """Side of a random crop, the store's pixels; null: whole frames. Memory: as its square."""
    sequence_length: PositiveInt = 3
    """Frames per window; of a forecast by itself task.past + task.future."""
    crops_per_window: PositiveInt = 1
    """Crops of each window per epoch; more for small data sets: epochs get longer."""
    augment: Literal[True, False, "rotations"] = True
    """true: one of 8 flips and quarter turns for all frames of a window, of which 4 mirror it: a
    storm then spins as in the other hemisphere; rotations: the 4 that do not; neither of winds."""
    accumulate: PositiveInt = 1
    """Batches per step of the optimizer: as a batch so many times larger, in no more memory."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """What steps every player (generator, discriminators)."""
    weight_decay: NonNegativeFloat = 0.0
    """Of the optimizer; 0: none. adamw's usual: 0.01."""
    lr: PositiveFloat = 5e-4
    """Learning rate of every player; of schedule onecycle the highest."""
    lr_of: dict[str, PositiveFloat] = {}
    """Learning rates by player, instead of lr: {generator: 1.0e-4}."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The optimizer's momentum; schedule onecycle has its own, 0.85 to 0.95."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Memory of the gradients' squares, by which the optimizer scales its steps."""
    schedule: Literal["constant", "cosine", "halve", "onecycle"] = "cosine"
    """How the learning rate goes. cosine: to 1 % of it at the last step; halve: times drop at each
    of the milestones; onecycle: up in the first 30 % of the steps, then down to nothing, beta1 the
    other way."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5,)
    """Of schedule halve: fractions of all steps."""
    drop: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of schedule halve: the factor at each milestone."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of a player's gradient; 0: any."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay per step of the averaged weights, which are judged and used; 0: off."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the networks' arithmetic; bf16 needs about half the memory."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, or one of several: cuda:1."""
    devices: PositiveInt = 1
    """GPUs of this machine; torchrun and SLURM say themselves how many."""
    compile: Literal["off", "on", "graphs"] = "off"
    """on: torch.compile the networks, minutes before the first step; graphs: and replay them as
    CUDA graphs. Where that fails, or changes the losses, training goes on without."""
    seed: NonNegativeInt = 0
    """Of first weights and draws; the same seed, the same training."""
    log_every_steps: PositiveInt = 20
    """Steps between two lines of metrics.jsonl."""
    validation_crops: PositiveInt = 32
    """Of the eval tracks, the same ones every time; more take longer."""
    validate_every_steps: NonNegativeInt = 0
    """Steps between validations, beside every epoch's end; 0: off."""
    checkpoint_every_steps: NonNegativeInt = 1000
    """Steps between saves of last, beside every epoch's end; 0: off."""
    checkpoint_every_epochs: NonNegativeInt = 0
    """Epochs between those kept beside last and best; 0: none."""
    sample_every_epochs: NonNegativeInt = 1
    """Epochs between pictures of a few validation windows; 0: none."""
    patience: NonNegativeInt = 0
    """Epochs without a better score that end a training early; 0: none do."""

    @field_validator("compile", mode="before")
    @classmethod
    def _of_yaml(cls, given: Any) -> Any:
        return on_or_off(given)


class RunSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Everything that decides a training run."""

    model: dict[str, Any] = {"name": "tempogan"}
    """name, and that model's own settings."""
    task: SuperResolutionSettings | ForecastSettings = SuperResolutionSettings()
    """How frames become x and y; of the kind that the model is for."""
    data: DataSettings = DataSettings()
    """Where the data lies, and how it is fetched."""
    scaling: ScalingSettings = ScalingSettings()
    """How physical units become numbers near 1."""
    training: TrainSettings = TrainSettings()
    """The training loop, whatever the model."""

    @field_validator("task", mode="before")
    @classmethod
    def _of_the_model(cls, given: Any, info: ValidationInfo) -> Any:
        kind = models.find(info.data["model"]["name"]).TASK
        return tasks.SETTINGS[kind](**given) if isinstance(given, dict) else given

    @property
    def model_name(self) -> str:
        return str(self.model["name"])

    @property
    def model_settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.model.items() if key != "name"}


def load(
    file: Path | None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> tuple[RunSettings, list[str]]:
    """Read a settings file on top of `base`, apply `KEY=VALUE` overrides, fill in every default.

    Returns the resolved settings and a sentence for each key that has no effect here. Raises
    UsageError for a file that cannot be read, an unknown key (naming those near it) or a bad value.
    """
    given, origins, notes = gathered(file, overrides)
    before = dict(flattened(base or {}))
    if given.get("model.name", before.get("model.name")) != before.get("model.name"):
        before = {k: v for k, v in before.items() if not k.startswith("model.")}
    settings = resolved(nested({**before, **given}), origins)
    return settings, [*notes, *idle(settings, origins)]


def gathered(
    file: Path | None, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """What a file and overrides say, by key joined by dots; who said it; notes. UsageError."""
    given: dict[str, Any] = {}
    notes: list[str] = []
    origins: dict[str, str] = {}  # by key, to blame whoever set it
    for key, value in flattened(read(file) if file else {}):
        origins[put(given, key, value, notes)] = str(file)
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise UsageError(f"--set {item}: expected KEY=VALUE, as in training.batch_size=8")
        for leaf, value in flattened({key.strip(): parsed(text, f"--set {item}")}):
            origins[put(given, leaf, value, notes)] = f"--set {item}"
    return given, origins, notes


def read(file: Path) -> dict[str, Any]:
    """A mapping from a YAML or JSON file, or one that comes with eddy. Raises UsageError."""
    file = shipped.find(file)
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows' editors begin with a mark
        # YAML forbids the tabs that JSON allows
        value = (
            json.loads(text, object_pairs_hook=once)
            if file.suffix == ".json"
            else yaml.load(text, OnceLoader)
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file}: not readable as YAML or JSON ({reason})") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{file}: holds a {type(value).__name__}; expected sections with settings")
    empty = {key for key in RunSettings.model_fields if value.get(key, "") is None}  # all comments
    return {key: its for key, its in value.items() if key not in {*BESIDE, *empty}}


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping without repeated keys, the first of which would be lost. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice} is given twice in one section; leave one of them out")
    return found


class OnceLoader(yaml.SafeLoader):
    """YAML's plain values; a key that is repeated within a mapping is a ValueError."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep=deep)


def of_run(run: Path) -> dict[str, Any]:
    """The resolved settings that a run was started with. Raises UserError where there are none."""
    file = run / "settings.yaml"
    if not file.is_file():
        raise UserError(f"{run}: no training to resume here; leave out --resume to start one")
    return read(file)


def parsed(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{where}: {text!r} is not a YAML value") from None


def put(flat: dict[str, Any], key: str, value: Any, notes: list[str]) -> str:
    """Set one key under the name that it has here, which is returned."""
    ours = ALIASES.get(key, key)
    if key in WITHOUT_EFFECT:
        notes.append(f"{key} has no effect: {WITHOUT_EFFECT[key]}")
    else:
        flat[ours] = value
    return ours


def flattened(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of a nested mapping, keys joined by dots."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves += flattened(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{key}: {section} is a value, not a section")
        inner[leaf] = value
    return tree


def resolved(tree: dict[str, Any], origins: Mapping[str, str]) -> RunSettings:
    """Validated, with the model's own defaults filled in. Raises UsageError."""
    model = tree.get("model") or {}
    if not isinstance(model, dict):
        raise UsageError(f"{blamed(origins, 'model')}: expected settings below model, as in name")
    model = dict(model)
    name = model.pop("name", "tempogan")
    try:
        module = models.find(name)
    except ValueError as error:
        raise UsageError(f"{blamed(origins, 'model.name')}: model.name: {error}") from None
    own = section(module.Settings, model, "model", origins)
    task = section(tasks.SETTINGS[module.TASK], tree.get("task") or {}, "task", origins)
    if isinstance(task, ForecastSettings):
        tree = with_window(tree, task.past + task.future, origins)
    try:
        return RunSettings(
            **{**tree, "model": {"name": name, **own.model_dump(mode="json")}, "task": task}
        )
    except ValidationError as error:
        raise UsageError(sentence(error, origins, "", RunSettings)) from None


def idle(settings: RunSettings, origins: Mapping[str, str]) -> list[str]:
    """A sentence for each setting that was given and that another one leaves nothing to do."""
    usual = TrainSettings.model_fields["beta1"].default
    given = "training.beta1" in origins and settings.training.beta1 != usual
    if settings.training.schedule == "onecycle" and given:
        return ["training.beta1 has no effect: the schedule onecycle has its own, 0.85 to 0.95"]
    return []


def section(kind: type[BaseModel], given: Any, name: str, origins: Mapping[str, str]) -> Any:
    """The settings below `name`. Raises UsageError."""
    if not isinstance(given, dict):
        raise UsageError(
            f"{blamed(origins, name)}: {name} is {given!r}; expected settings below it"
        )
    try:
        return kind(**given)
    except ValidationError as error:
        raise UsageError(sentence(error, origins, f"{name}.", kind)) from None


def with_window(tree: dict[str, Any], frames: int, origins: Mapping[str, str]) -> dict[str, Any]:
    """A forecast's window follows from its task. Raises UsageError for another that was asked."""
    training = tree.get("training") or {}
    if not isinstance(training, dict):
        return tree  # which RunSettings refuses
    key = "training.sequence_length"
    asked = training.get("sequence_length", frames)
    if key in origins and asked != frames:
        raise UsageError(
            f"{origins[key]}: {key} is {asked}; a forecast's window is task.past + task.future, "
            f"{frames} frames: leave it out"
        )
    return {**tree, "training": {**training, "sequence_length": frames}}


def blamed(origins: Mapping[str, str], key: str) -> str:
    """Who set a key, a key below it, or the list that it is an item of."""
    return next(
        (
            origin
            for k, origin in origins.items()
            if f"{k}.".startswith(f"{key}.") or f"{key}.".startswith(f"{k}.")
        ),
        "settings",
    )


def sentence(
    error: ValidationError, origins: Mapping[str, str], prefix: str, known: type[BaseModel]
) -> str:
    """All faults in one line, each with who made it and what was expected."""
    faults = []
    for fault in error.errors():
        where, kind = [str(part) for part in fault["loc"]], fault["type"]
        key = (prefix + ".".join(where)).rstrip(".")
        blame = blamed(origins, key)
        told = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
        if kind == "extra_forbidden":
            fields = section_fields(known, where[:-1])
            near = difflib.get_close_matches(where[-1], fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
            told = f"unknown setting {key}; {hint}"
            if key == "upstream":
                told = "its section upstream is for `cli upstream`, which takes this file"
        elif kind == "model_type":
            told = f"{key} is {fault.get('input')!r}; expected settings below it"
        elif kind == "value_error" and isinstance(fault.get("input"), Mapping):
            told = f"{key}: {fault['ctx']['error']}"  # of settings that do not go together
            below = dict.fromkeys(o for k, o in origins.items() if k.startswith(f"{key}."))
            blame = ", ".join(below) or blame
        elif kind == "missing":
            told, blame = f"{key}: {told}", blamed(origins, key.rpartition(".")[0])
        else:
            told = f"{key}: {fault.get('input')!r}: {told}"
        faults.append(f"{blame}: {told}")
    return "; ".join(faults)


def section_fields(known: type[BaseModel], sections: Sequence[str]) -> list[str]:
    for section in sections:
        annotation = known.model_fields[section].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            known = annotation
    return list(known.model_fields)


def located(
    settings: RunSettings, store: Path | None = None, split: Path | None = None
) -> RunSettings:
    """With the data's paths replaced where given, and absolute: a run is used from any folder."""
    asked = {"store": store or settings.data.store, "split": split or settings.data.split}
    data = settings.data.model_copy(update=asked)
    found = {"store": data.store.resolve(), "split": data.split_file.resolve()}
    return settings.model_copy(update={"data": data.model_copy(update=found)})


def differing(a: RunSettings, b: RunSettings) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values."""
    one = dict(flattened(a.model_dump(mode="json")))
    two = dict(flattened(b.model_dump(mode="json")))
    keys = sorted({*one, *two})
    return {k: (one.get(k), two.get(k)) for k in keys if one.get(k) != two.get(k)}


def write(path: Path, settings: RunSettings) -> None:
    """Keep the settings beside what they decided."""
    with atomic.replacing(path) as temporary:
        temporary.write_text(text(settings), encoding="utf-8")


def text(settings: RunSettings) -> str:
    """As YAML, defaults included."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def sections(settings: RunSettings) -> dict[str, tuple[type[BaseModel], dict[str, Any]]]:
    """By name the class of each section and its values as plain data; the model's name first."""
    plain = settings.model_dump(mode="json")
    kinds = {"model": models.find(settings.model_name).Settings}
    return {name: (kinds.get(name) or type(getattr(settings, name)), plain[name]) for name in plain}


def explained(
    settings: RunSettings,
    only: Collection[str] | None = None,
    upstream: BaseModel | None = None,
) -> str:
    """YAML that loads back to the same settings, with the meaning of each as a comment.

    only: keys as in training.lr, or sections; by default all. upstream: the section of that name,
    where a file has one. Raises UsageError for an unknown key.
    """
    whole = sections(settings)
    if upstream:
        whole = {"upstream": (type(upstream), upstream.model_dump(mode="json")), **whole}
    known = [f"{name}.{key}" for name, (_, its) in whole.items() for key in its]
    for key in only or ():
        if key not in (*known, *whole):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `cli settings show` shows all"
            raise UsageError(f"{key}: no setting of {settings.model_name}{hint}")
    parts = []
    for name, (kind, values) in whole.items():
        asked = {
            key: value
            for key, value in values.items()
            if only is None or name in only or f"{name}.{key}" in only
        }
        meanings = {key: explanations.meaning(field) for key, field in kind.model_fields.items()}
        if name == "model":
            meanings["name"] = " | ".join(models.names())
        if asked:
            parts.append(explanations.section(name, about(settings, name, kind), asked, meanings))
    return "\n".join(parts)


def about(settings: RunSettings, section: str, kind: type[BaseModel]) -> str:
    """What a section is, in a sentence; "" with python -OO."""
    doc = models.find(settings.model_name) if section == "model" else kind
    return explanations.first(doc.__doc__)


def changed(settings: RunSettings) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from their defaults: value and default, by key, as plain data.

    A default is what the setting would be if its line were left out, which may follow from others:
    from model.arch, or of a forecast's training.sequence_length from its task.
    """
    tree = settings.model_dump(mode="json")
    found = {}
    for name, (kind, values) in sections(settings).items():
        for key, value in values.items():
            others = {k: v for k, v in values.items() if k != key}
            if (name, key) == ("model", "name"):
                default = RunSettings().model_name
            else:
                try:
                    left = resolved({**tree, name: others}, {}).model_dump(mode="json")
                    default = left[name][key]
                except UsageError:  # the others do not go together with it
                    default = kind().model_dump(mode="json")[key]
            if value != default:
                found[f"{name}.{key}"] = (value, default)
    return found


@dataclass(frozen=True)
class Checked:
    """A settings file that is sound."""

    file: Path  # that was read: the one given, or the one of that name that comes with eddy
    settings: RunSettings
    upstream: BaseModel | None  # its section upstream, where it is for `cli upstream`
    notes: list[str]  # a sentence for each key that has no effect, which begins with that key

    @property
    def unused(self) -> list[str]:
        """The keys that have no effect."""
        return [note.partition(" ")[0] for note in self.notes]


def check(file: Path, overrides: Sequence[str] = ()) -> Checked:
    """Read a settings file as its command would: cli train, or with a section upstream that one.

    Raises UsageError as load does, and for an experiment whose settings contradict one another.
    """
    file = shipped.find(file)
    given, _, _ = gathered(file, overrides)
    if not any(key.partition(".")[0] == "upstream" for key in given):
        settings, notes = load(file, overrides)
        return Checked(file, settings, None, notes)
    from pipeline.experiment import plan  # which imports this file

    settings, asked, notes = plan.load(file, overrides)
    plan.refuse_unfit(settings, asked)
    return Checked(file, settings, asked, notes)
