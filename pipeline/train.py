"""The one training loop, whatever the model.

Split + store -> run folder: settings.yaml, metrics.jsonl, tensorboard/, checkpoints/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

import models
from models import Model
from pipeline import (
    atomic,
    checkpoint,
    demands,
    familiarity,
    manifest,
    metrics,
    raw_tree,
    scaling,
    schedules,
    tasks,
)
from pipeline import settings as run_settings
from pipeline.checkpoint import Checkpoint, Data
from pipeline.engine import Average, make_fabric, random_state, set_random_state
from pipeline.errors import UserError
from pipeline.interrupts import told_to_stop
from pipeline.loader import Loader, fixed_crops
from pipeline.metrics import Errors
from pipeline.prefetch import on_device
from pipeline.problem import MODEL, Problem
from pipeline.progress import progress, say
from pipeline.runlog import Log, not_finite, open_log
from pipeline.scaling import Scaling
from pipeline.settings import RunSettings, TrainSettings
from pipeline.tasks import ForecastSettings

# What may change when a run goes on; anything else would make it another run.
MAY_CHANGE = {
    "data.store",
    "data.split",
    "data.threads",
    "data.read_ahead",
    "training.epochs",
    "training.device",
    "training.log_every_steps",
    "training.checkpoint_every_epochs",
    "training.checkpoint_every_steps",
    "training.patience",
    "model.vgg_weights",  # where the same file lies
}
# Of a store's attributes, what a model's use and its scores need.
CARRIED = (
    "title",
    "license",
    "attribution",
    "projection",
    "pixel_km",
    "accumulation_hours",
    "time_label",
    "grid_degrees",
    "grid_degrees_latitude",
    "grid_degrees_longitude",
    "native_grid_degrees",
)
Batch = tuple[Tensor, Tensor]  # x, y: (B, T, C, H, W), normalised


@dataclass
class Position:
    """Where a training stands."""

    epoch: int = 0  # of the next step
    batch: int = 0  # of the next step, within its epoch
    step: int = 0  # steps done
    best: float = math.inf  # validation RMSE, physical units
    best_epoch: int = 0  # that held it, counted from 1; 0: none yet
    stale_epochs: int = 0  # whole ones since that


@dataclass(frozen=True)
class Trained:
    """What a training came to, for the screen."""

    run: Path
    position: Position
    scores: dict[str, float]  # of the last validation: model and baseline RMSE
    stopped: str  # "" when all epochs are done, else why not


def train(settings: RunSettings, run: Path, *, resume: bool = False) -> Trained:
    """Train into the run folder; with `resume`, go on from its last checkpoint.

    Raises UserError for a split of another store, settings that do not fit the data, a run folder
    that already holds a training (without `resume`) or another model's (with it), and a GPU that
    has too little memory.
    """
    try:
        return begun(settings, run, resume)
    except torch.cuda.OutOfMemoryError:
        raise UserError(too_large(settings, run)) from None


def begun(settings: RunSettings, run: Path, resume: bool) -> Trained:
    """As `train` says."""
    if run.exists() and not run.is_dir():
        raise UserError(f"{run}: is a file; choose another --run")
    last = run / "checkpoints" / "last.ckpt"
    old, found = checkpoint.latest(run) if resume else (None, last)
    if old:
        refuse_other_run(old, settings, found)
    elif last.exists():
        raise UserError(f"{run}: already holds a training; add --resume, or choose another --run")

    trainer = Trainer.of(settings, run)
    if old:
        trainer.restore(old, found)
    with atomic.claimed(run, "another training is writing here; choose another --run"):
        for stale in last.parent.glob(".*.tmp"):  # left by one that was killed while writing
            stale.unlink()
        run_settings.write(run / "settings.yaml", settings)
        atomic.write_json(run / "scaling.json", trainer.told_scaling())
        say(trainer.told_model())
        if old and (told := trainer.told_schedule(old.settings.training.epochs)):
            say(told)
        return logged(trainer, run)


def logged(trainer: Trainer, run: Path) -> Trained:
    with (
        open_log(run, trainer.position.step, trainer.fabric.device) as log,
        told_to_stop() as stopping,
    ):
        return trainer.fit(log, stopping)


def too_large(settings: RunSettings, run: Path) -> str:
    """What to say of a training that a GPU's memory does not hold."""
    forecast = isinstance(settings.task, ForecastSettings)
    return (
        f"{run}: the GPU has too little memory for this training; make training.batch_size smaller "
        "(training.accumulate makes the same step of more batches), set training.precision to "
        f"bf16, take a smaller training.patch_size{', a larger task.coarsen' if forecast else ''} "
        "or a smaller model"
    )


def refuse_other_run(old: Checkpoint, settings: RunSettings, path: Path) -> None:
    if old.settings.model_name != settings.model_name:
        raise UserError(
            f"{path}: checkpoint of the model {old.settings.model_name}, "
            f"not of {settings.model_name}; train that into another --run"
        )
    other = run_settings.differing(old.settings, settings)
    if changed := {k: v for k, v in other.items() if k not in MAY_CHANGE}:
        told = "; ".join(f"{k} was {was}, now {now}" for k, (was, now) in changed.items())
        raise UserError(f"{path}: --resume cannot change {told}; train that into another --run")


@dataclass
class Trainer:
    """Everything of one training that changes while it runs, and what it needs."""

    settings: RunSettings
    run: Path
    fabric: Fabric
    problem: Problem
    scaling: Scaling
    geometry: models.Geometry
    data: Data
    loader: Loader
    validation: Tensor  # (n, T, C, h, w), physical units; n windows spread over the eval tracks
    peak: float  # physical units; the range of the validation's PSNR
    model: Any  # an nn.Module and a Model
    optimizers: dict[str, Optimizer]
    averaged: Average | None
    position: Position = field(default_factory=Position)
    baselines: dict[str, float] = field(default_factory=dict)  # their RMSE, which never changes

    @classmethod
    def of(cls, settings: RunSettings, run: Path) -> Trainer:
        """Open the data, build the model. Raises UserError where they do not fit."""
        t = settings.training
        opened = raw_tree.opened(settings.data.store)
        split = manifest.read_split(settings.data.split_file, opened)
        train_tracks = [opened.track(id) for id in split.part("train")]
        eval_tracks = [opened.track(id) for id in split.part("eval")]
        forecast = isinstance(settings.task, ForecastSettings)
        length = "task.past + task.future" if forecast else "training.sequence_length"
        task = tasks.build(
            models.find(settings.model_name).TASK,
            settings.task,
            t.sequence_length,
            opened.channels,
            demands.shared_grid([*train_tracks, *eval_tracks], settings.task),
        )
        demands.refuse_moving(task, t)
        demands.refuse_turning([opened.channels[i] for i in task.inputs], t)
        fabric = make_fabric(t)
        loader = Loader(
            train_tracks,
            window=task.window,
            patch=t.patch_size,
            batch=t.batch_size,
            crops_per_window=t.crops_per_window,
            augment=t.augment,
            seed=t.seed,
            threads=settings.data.threads,
            read_ahead=settings.data.read_ahead,
            pinned=fabric.device.type == "cuda",
            window_setting=length,
        )
        scale = scaling.fit(settings.scaling.kind, opened.channels, split.statistics)
        problem = Problem.of(task, scale)
        geometry = problem.geometry((train_tracks[0].shape[0], loader.height, loader.width))
        channels = scaling.scored(opened.channels, split.statistics)
        torch.manual_seed(t.seed)
        try:
            model = models.build(settings.model_name, geometry, settings.model_settings)
            model = fabric.to_device(model)
            models.prepare(model)
        except ValueError as error:
            raise UserError(f"model {settings.model_name}: {error}") from None
        players = model.players()
        if unknown := sorted(set(t.lr_of) - set(players)):
            raise UserError(
                f"training.lr_of: {settings.model_name} has no {', '.join(unknown)}; "
                f"it has {', '.join(players)}"
            )
        optimizers = {
            name: optimizer_of(t, net.parameters(), t.lr_of.get(name, t.lr))
            for name, net in players.items()
        }
        return cls(
            settings=settings,
            run=run,
            fabric=fabric,
            problem=problem,
            scaling=scale,
            geometry=geometry,
            data=Data(
                store=opened.path.name,
                manifest_hash=opened.manifest_hash,
                channels=channels,
                train=list(split.train),
                eval=list(split.eval),
                attrs={key: opened.attrs[key] for key in CARRIED if key in opened.attrs},
                seen=familiarity.seen(train_tracks, split.statistics),
                grid=tasks.plain(train_tracks[0].grid) if task.located else None,
                step=demands.one_step([*train_tracks, *eval_tracks], task.window)
                if forecast
                else 0,
            ),
            loader=loader,
            validation=fixed_crops(
                eval_tracks,
                window=task.scored_window,
                patch=t.patch_size,
                count=t.validation_crops,
                window_setting=length,
            ),
            peak=metrics.peak(problem.channels(channels)),
            model=model,
            optimizers={n: set_up(fabric, o) for n, o in optimizers.items()},
            averaged=Average(model, t.ema) if t.ema else None,
        )

    def told_model(self) -> str:
        """Its size, and how far it sees."""
        count = sum(p.numel() for p in self.model.parameters())
        sight = models.sight(self.model, self.geometry)
        far = "the whole field" if sight is None else "{} rows and {} columns away".format(*sight)
        return (
            f"{self.settings.model_name}: {count:,} parameters; what it says of a pixel can depend "
            f"on {far}"
        )

    def told_schedule(self, epochs: int) -> str:
        """How the learning rate goes on where it was to end after that many epochs."""
        t, step = self.settings.training, self.position.step
        per_epoch = steps_per_epoch(self.loader, t)
        before = schedules.share_of_lr(t, min(step, epochs * per_epoch - 1), epochs * per_epoch)
        now = schedules.share_of_lr(t, min(step, t.epochs * per_epoch - 1), t.epochs * per_epoch)
        if t.epochs <= epochs or math.isclose(before, now):
            return ""
        return (
            f"with training.epochs {t.epochs}, not {epochs}, the schedule {t.schedule} goes on at "
            f"{100 * now:.3g} % of training.lr, where it would have been at {100 * before:.3g} %"
        )

    def told_scaling(self) -> dict[str, Any]:
        """By channel: normalised = (value - centre) / scale, of log1p(value) where so scaled."""
        plain = self.scaling.plain()
        return {
            channel["name"]: {
                "units": channel["units"],
                "kind": plain["kinds"][i],
                **{name: plain[name][i] for name in ("centre", "scale", "neutral")},
            }
            for i, channel in enumerate(self.data.channels)
        }

    def fit(self, log: Log, stopping: Callable[[], bool]) -> Trained:
        """Train from the present position to the last epoch, or until told to stop."""
        t, at = self.settings.training, self.position
        per_epoch = steps_per_epoch(self.loader, t)
        total = t.epochs * per_epoch
        scores: dict[str, float] = {}
        rates: dict[str, float] = {}
        with progress("train", total - at.step, "steps") as advance:
            while at.epoch < t.epochs:
                if t.patience and at.stale_epochs >= t.patience:
                    return Trained(self.run, at, scores, f"no better for {t.patience} epochs")
                batches = self.batches(at.epoch, at.batch)
                while micro := list(islice(batches, t.accumulate)):
                    rates = self.set_rates(at.step, total)
                    parts = update(self.fabric, self.model, self.optimizers, micro, at.step, t.clip)
                    if self.averaged:
                        self.averaged.update(self.model)
                    at.step += 1
                    at.batch += len(micro)
                    log.add(parts)
                    if at.step % t.log_every_steps == 0:
                        log.flush(at.step, at.epoch, rates)
                    advance()
                    if due(at.step, t.validate_every_steps) and at.step % per_epoch:
                        log.flush(at.step, at.epoch, rates)  # first: it refuses what is not finite
                        scores = self.validated(log)
                        if self.better(scores[MODEL], at.epoch + 1):
                            self.save("best")
                    if stopping() or due(at.step, t.checkpoint_every_steps):
                        log.flush(at.step, at.epoch, rates)  # first: it refuses what is not finite
                        self.save("last")
                    if stopping():
                        return Trained(self.run, at, scores, "told to stop; --resume goes on")
                at.epoch, at.batch = at.epoch + 1, 0
                log.flush(at.step, at.epoch, rates)
                scores = self.validated(log)
                advance(0, f"epoch {at.epoch}: RMSE " + told(scores))
                self.keep(scores[MODEL])
        done = "" if scores else "nothing was left to train; for more, --set training.epochs=N"
        return Trained(self.run, at, scores, done)

    def set_rates(self, step: int, total: int) -> dict[str, float]:
        """Set each player's learning rate for this step, counted from 0, of all."""
        t = self.settings.training
        share, beta1 = schedules.share_of_lr(t, step, total), schedules.beta1(t, step, total)
        rates = {}
        for name, optimizer in self.optimizers.items():
            rates[f"lr/{name}"] = t.lr_of.get(name, t.lr) * share
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rates[f"lr/{name}"], (beta1, t.beta2)
        return rates

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The rest of an epoch as normalised (x, y); only whole optimizer steps."""
        end = steps_per_epoch(self.loader, self.settings.training)
        end *= min(self.settings.training.accumulate, len(self.loader))
        cut = islice(self.loader.epoch(epoch, start), end - start)
        for frames in on_device(cut, self.fabric.device):
            yield self.problem.pair(frames)

    def validated(self, log: Log) -> dict[str, float]:
        scores = self.validate()
        log.validated(scores, self.position.step, self.position.epoch)
        return scores

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """RMSE in physical units on the fixed crops: of the model, and of each baseline."""
        judged = (self.averaged.module if self.averaged else self.model).eval()
        rows = [MODEL] if self.baselines else self.problem.rows
        sums = {row: Errors() for row in rows}
        for some in torch.arange(len(self.validation)).split(self.settings.training.batch_size):
            frames = self.fabric.to_device(self.validation[some[0] : some[-1] + 1])
            donors = None
            if self.problem.task.borrows:
                others = self.validation[(some + 1) % len(self.validation)]
                donors = self.fabric.to_device(others)
            x, truth = self.problem.task.split(frames, donors)
            for row in rows:
                answer = self.guess(judged, x) if row == MODEL else self.problem.of_baseline(row, x)
                sums[row] += Errors.of(answer, truth, self.peak)
        self.model.train()
        found = {row: each.scores()["rmse"] for row, each in sums.items()}
        self.baselines = self.baselines or {row: found[row] for row in rows[1:]}
        return {MODEL: found[MODEL], **self.baselines}

    def guess(self, judged: nn.Module, x: Tensor) -> Tensor:
        with self.fabric.autocast():
            answer = judged(self.problem.x.model_input(x)).float()
        if answer.isnan().any():
            raise not_finite(self.run, "what the model says", self.position.step)
        return self.problem.of_model(answer, x)

    def keep(self, score: float) -> None:
        """After an epoch: note whether it is the best so far, and write the checkpoints."""
        at = self.position
        better = self.better(score, at.epoch)
        at.stale_epochs = at.epoch - at.best_epoch
        every = self.settings.training.checkpoint_every_epochs
        kept = f"epoch-{at.epoch:04d}" if every and at.epoch % every == 0 else None
        for name in filter(None, ("best" if better else None, kept, "last")):
            self.save(name)

    def better(self, score: float, epoch: int) -> bool:
        """Note whether it is the best so far; epoch: that it was found in, counted from 1."""
        at = self.position
        if score < at.best:
            at.best, at.best_epoch, at.stale_epochs = score, epoch, 0
            return True
        return False

    def save(self, name: str) -> None:
        precision = self.fabric.strategy.precision
        state = Checkpoint(
            settings=self.settings,
            geometry=self.geometry,
            scaling=self.scaling,
            data=self.data,
            weights=self.model.state_dict(),
            averaged=self.averaged.module.state_dict() if self.averaged else None,
            training={
                "position": vars(self.position).copy(),
                "optimizers": {n: o.state_dict() for n, o in self.optimizers.items()},
                "averaged": self.averaged.count if self.averaged else 0,
                "scaler": dict(precision.state_dict()),
                "random": random_state(self.fabric.device),
            },
        )
        path = self.run / "checkpoints" / f"{name}.ckpt"
        if name == "last":
            checkpoint.keep_previous(path)
        checkpoint.save(path, state)

    def restore(self, old: Checkpoint, path: Path) -> None:
        """Stand exactly where the checkpoint was written."""
        told = ("manifest_hash", "train", "eval")
        if any(getattr(old.data, key) != getattr(self.data, key) for key in told):
            raise UserError(
                f"{path}: trained on another store or split than {self.settings.data.store}; "
                "resume with the same ones"
            )
        state = old.training
        self.model.load_state_dict(old.weights)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.averaged and old.averaged:
            self.averaged.module.load_state_dict(old.averaged)
            self.averaged.count = state["averaged"]
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        set_random_state(state["random"], self.fabric.device)
        self.position = Position(**state["position"])


def update(
    fabric: Fabric,
    model: Model,
    optimizers: dict[str, Optimizer],
    batches: Sequence[Batch],
    step: int,
    clip: float,
) -> dict[str, Tensor]:
    """One step of every player, over the gradients of all the batches; returns what to log.

    A regressor yields one loss per batch, a GAN one per player: the loop need not know which. All
    batches ask the same player before it is stepped and the next one is asked, so that several
    batches make the step of one large one. (With several players each batch's pass through the
    first network is kept until its turn: accumulation then saves less memory.)
    """
    parts: dict[str, Tensor] = {}
    streams = [autocast(fabric, model.losses(x, y, step)) for x, y in batches]
    while True:
        for stream in streams:
            item = next(stream, None)
            if item is None:  # every batch has the same players: all streams end together
                return parts
            player, loss, logged = item
            if loss.requires_grad:  # else the model lets this player rest
                fabric.backward(loss / len(batches))
            for name, value in logged.items():  # on the device: no host synchronisation here
                parts[name] = parts.get(name, 0) + value / len(batches)
        net = model.players()[player]
        if all(p.grad is None for p in net.parameters()):
            continue
        if clip:
            fabric.clip_gradients(net, optimizers[player], max_norm=clip, error_if_nonfinite=False)
        optimizers[player].step()
        optimizers[player].zero_grad(set_to_none=True)


def autocast(fabric: Fabric, losses: Iterator[Any]) -> Iterator[Any]:
    """The same items, each computed under the run's precision; the backward passes are not."""
    while True:
        with fabric.autocast():
            item = next(losses, None)
        if item is None:
            return
        yield item


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def steps_per_epoch(loader: Loader, t: TrainSettings) -> int:
    return max(1, len(loader) // t.accumulate)


def optimizer_of(t: TrainSettings, parameters: Iterable[Any], lr: float) -> Optimizer:
    kind = AdamW if t.optimizer == "adamw" else Adam
    return kind(parameters, lr=lr, betas=(t.beta1, t.beta2), weight_decay=t.weight_decay)


def set_up(fabric: Fabric, optimizer: Optimizer) -> Any:
    wrapped = fabric.setup_optimizers(optimizer)
    assert not isinstance(wrapped, tuple)  # one in, one out
    return wrapped


def told(scores: dict[str, float]) -> str:
    """Of the model and the usual baseline."""
    return ", ".join(f"{name} {value:.3f}" for name, value in islice(scores.items(), 2))
