"""Settings of a run: one file (YAML; JSON is YAML), overrides, and the words they may use.

Order of precedence: the defaults here and in the model's own Settings, the file, `--set`. What each
setting means is the docstring below it, which `cli settings`, the schema for editors and every
explained file repeat.
"""

from __future__ import annotations

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
from pipeline import atomic, explanations, manifest, settings_faults, shipped, tasks
from pipeline.errors import UsageError
from pipeline.paging import ReadAhead
from pipeline.settings_faults import blamed
from pipeline.settings_file import SET, Given, flattened, gathered, leave_out, nested
from pipeline.settings_file import of_run as of_run
from pipeline.settings_file import read as read
from pipeline.tasks import ForecastSettings, SuperResolutionSettings

WHOLE = {"training.patch_size": None, "training.augment": False}  # of experiments


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

    Returns the resolved settings and a sentence for each key that has no effect here, or not the
    one to be expected. Raises UsageError for a file that cannot be read; and naming all of them for
    unknown keys (with those near them) and bad values.
    """
    return of(gathered(file, overrides), base)


def of(given: Given, base: Mapping[str, Any] | None = None) -> tuple[RunSettings, list[str]]:
    """As `load`, of what a file and overrides say."""
    before = dict(flattened(base or {}))
    if given.values.get("model.name", before.get("model.name")) != before.get("model.name"):
        before = {k: v for k, v in before.items() if not k.startswith("model.")}
    of_the_task(given)
    settings = resolved(nested({**before, **given.values}), given.origins)
    return settings, noted(settings, given)


def of_experiment(given: Given, kind: type[BaseModel]) -> tuple[RunSettings, Any, list[str]]:
    """As `of`, with a section `upstream` of that kind beside those of a training.

    Frames are whole and not turned where nothing else is asked for.
    """
    of_the_task(given)
    tree = nested({**WHOLE, **given.values})
    own, faults = tree.pop("upstream", None), []
    if own is None:
        where = next(iter(given.origins.values()), "settings")
        faults.append(
            f"{where}: no section upstream; expected region and upstream there, each west, east, "
            "south, north"
        )
    experiment = settings = None
    try:
        experiment = None if own is None else section(kind, own, "upstream", given.origins)
    except UsageError as error:
        faults += error.args
    try:
        settings = resolved(tree, given.origins)
    except UsageError as error:
        faults += error.args
    if settings is None or faults:
        raise UsageError(*faults)
    return settings, experiment, noted(settings, given)


def noted(settings: RunSettings, given: Given) -> list[str]:
    """A sentence for all that was given and does not do what one would expect."""
    return [*given.notes, *idle(settings, given.origins), *stale(settings, given)]


def of_the_task(given: Given) -> None:
    """Leave out what a file says of a task that the model which `--set` names is not for."""
    name = given.values.get("model.name")
    if name in models.names() and given.origins["model.name"].startswith(SET):
        kind = models.find(name).TASK
        known = [f"task.{key}" for its in tasks.SETTINGS.values() for key in its.model_fields]
        own = [f"task.{key}" for key in tasks.SETTINGS[kind].model_fields]
        keys = [key for key in given.values if key in known and key not in own]
        others = [made for other, made in settings_faults.MAKES.items() if other != kind]
        leave_out(given, keys, " or ".join(others))


def resolved(tree: Mapping[str, Any], origins: Mapping[str, str]) -> RunSettings:
    """Validated, with the model's own defaults filled in. Raises UsageError with all faults."""
    faults: list[str] = []
    kinds: dict[str, type[BaseModel]] = {
        "data": DataSettings,
        "scaling": ScalingSettings,
        "training": TrainSettings,
    }
    model = tree.get("model") or {}
    if isinstance(model, dict):
        name = model.get("name", RunSettings().model_name)
        try:
            module = models.find(name)
            kinds |= {"model": module.Settings, "task": tasks.SETTINGS[module.TASK]}
        except ValueError as error:
            faults.append(f"{blamed(origins, 'model.name')}: model.name: {error}")
    else:
        faults.append(f"{blamed(origins, 'model')}: expected settings below model, as in name")
    known = [f"{section}.{key}" for section, kind in kinds.items() for key in kind.model_fields]
    known.append("model.name")
    chosen: dict[str, Any] = {}
    if "model" in kinds:
        parts = {"model": {k: v for k, v in model.items() if k != "name"}}
        parts["task"] = tree.get("task") or {}
        for part, given in parts.items():
            try:
                chosen[part] = section(kinds[part], given, part, origins, known, name)
            except UsageError as error:
                faults += error.args
    if isinstance(chosen.get("task"), ForecastSettings):
        frames = chosen["task"].past + chosen["task"].future
        faults += other_window(tree, frames, origins)
        tree = with_window(tree, frames)
    rest = {key: value for key, value in tree.items() if key not in ("model", "task")}
    if chosen.keys() == {"model", "task"}:
        own = chosen["model"].model_dump(mode="json")
        rest |= {"model": {"name": name, **own}, "task": chosen["task"]}
    try:
        settings = RunSettings(**rest)
    except ValidationError as error:
        faults += settings_faults.told(error, origins, "", known)
    if faults:
        raise UsageError(*faults)
    return settings


def idle(settings: RunSettings, origins: Mapping[str, str]) -> list[str]:
    """A sentence for each setting that was given and that another one leaves nothing to do."""
    usual = TrainSettings.model_fields["beta1"].default
    given = "training.beta1" in origins and settings.training.beta1 != usual
    if settings.training.schedule == "onecycle" and given:
        return ["training.beta1 has no effect: the schedule onecycle has its own, 0.85 to 0.95"]
    return []


def stale(settings: RunSettings, given: Given) -> list[str]:
    """A sentence where model.arch is one and all that follows from it is given as of another.

    As in a file that shows all settings and in which nothing but arch was changed.
    """
    kind, now = models.find(settings.model_name).Settings, settings.model.get("arch")
    words = explanations.allowed(kind.model_fields["arch"].annotation) if now else []
    for other in words:
        theirs, ours = (kind(arch=arch).model_dump(mode="json") for arch in (other, now))
        differ = [key for key in ours if key != "arch" and ours[key] != theirs[key]]
        said = [given.values.get(f"model.{key}", ours[key]) == theirs[key] for key in differ]
        if len(differ) > 1 and all(said):
            keys = ", ".join(f"model.{key}" for key in differ)
            return [
                f"model.arch is {now}, but {keys} are given as {other} has them: leave their "
                f"lines out for those of {now}"
            ]
    return []


def section(
    kind: type[BaseModel],
    given: Any,
    name: str,
    origins: Mapping[str, str],
    known: Sequence[str] = (),
    model: str | None = None,
) -> Any:
    """The settings below `name`. Raises UsageError with all faults.

    known: all keys that there are; by default those of the section. model: whose they are.
    """
    if not isinstance(given, dict):
        raise UsageError(
            f"{blamed(origins, name)}: {name} is {given!r}; expected settings below it"
        )
    try:
        return kind(**given)
    except ValidationError as error:
        known = known or [f"{name}.{key}" for key in kind.model_fields]
        raise UsageError(*settings_faults.told(error, origins, name, known, model)) from None


def other_window(tree: Mapping[str, Any], frames: int, origins: Mapping[str, str]) -> list[str]:
    """A fault where a forecast's window was asked for that does not follow from its task.

    One that a file gives follows where an override gives the task or the model.
    """
    key, training = "training.sequence_length", tree.get("training")
    asked = training.get("sequence_length", frames) if isinstance(training, dict) else frames
    above = [origins.get(k, "") for k in ("task.past", "task.future", "model.name")]
    follows = any(o.startswith(SET) for o in above) and not origins.get(key, "").startswith(SET)
    if key not in origins or asked == frames or follows:
        return []
    return [
        f"{origins[key]}: {key} is {asked}; a forecast's window is task.past + task.future, "
        f"{frames} frames: leave it out"
    ]


def with_window(tree: Mapping[str, Any], frames: int) -> Mapping[str, Any]:
    """With a forecast's window, which follows from its task."""
    training = tree.get("training") or {}
    if not isinstance(training, dict):
        return tree  # which RunSettings refuses
    return {**tree, "training": {**training, "sequence_length": frames}}


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


def asked(
    settings: RunSettings, only: Collection[str] | None, upstream: BaseModel | None = None
) -> list[str]:
    """The keys that `only` names, by themselves or by section; all where it is None.

    Without a forecast's training.sequence_length, unless it is named itself: it follows from the
    task. Raises UsageError for a key that there is not.
    """
    whole = shown(settings, upstream)
    known = [f"{name}.{key}" for name, (_, values) in whole.items() for key in values]
    for key in only or ():
        if key not in (*known, *whole):
            hint = settings_faults.hint(key, known)
            raise UsageError(f"{key}: no setting of {settings.model_name}; {hint}")
    follows = "training.sequence_length" if isinstance(settings.task, ForecastSettings) else ""
    named = {*whole} if only is None else {*only}
    return [k for k in known if k in named or (k.partition(".")[0] in named and k != follows)]


def shown(
    settings: RunSettings, upstream: BaseModel | None
) -> dict[str, tuple[type[BaseModel], dict[str, Any]]]:
    """As `sections`, with that of an experiment before them."""
    its = {"upstream": (type(upstream), upstream.model_dump(mode="json"))} if upstream else {}
    return {**its, **sections(settings)}


def explained(
    settings: RunSettings,
    only: Collection[str] | None = None,
    upstream: BaseModel | None = None,
) -> str:
    """YAML that loads back to the same settings, with the meaning of each as a comment.

    only: keys as in training.lr, or sections; by default all. A model's or task's are shown with
    the model's name, without which they would be another's. upstream: the section of that name,
    where a file has one. Raises UsageError for an unknown key.
    """
    keys = asked(settings, only, upstream)
    usual = settings.model_name == RunSettings().model_name
    if not usual and any(key.partition(".")[0] in ("model", "task") for key in keys):
        keys.append("model.name")
    parts = []
    for name, (kind, values) in shown(settings, upstream).items():
        its = {key: value for key, value in values.items() if f"{name}.{key}" in keys}
        meanings = {key: explanations.meaning(field) for key, field in kind.model_fields.items()}
        if name == "model":
            meanings["name"] = " | ".join(models.names())
        if its:
            parts.append(explanations.section(name, about(settings, name, kind), its, meanings))
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
    notes: list[str]  # a sentence for each key without effect, which begins with that key


def check(file: Path, overrides: Sequence[str] = ()) -> Checked:
    """Read a settings file as its command would: cli train, or with a section upstream that one.

    Raises UsageError as load does, and for an experiment whose settings contradict one another.
    """
    return checked(file, gathered(file, overrides))


def checked(file: Path, given: Given) -> Checked:
    """As `check`, of what the file and overrides say."""
    file = shipped.find(file)
    if not any(key.partition(".")[0] == "upstream" for key in given.values):
        settings, notes = of(given)
        return Checked(file, settings, None, notes)
    from pipeline.experiment import plan  # which imports this file

    settings, experiment, notes = of_experiment(given, plan.UpstreamSettings)
    plan.refuse_unfit(settings, experiment)
    return Checked(file, settings, experiment, notes)
