"""Everything of one training that changes while it runs, and what it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

import models
from pipeline import (
    checkpoint,
    compilation,
    demands,
    engine,
    familiarity,
    manifest,
    metrics,
    pictures,
    raw_tree,
    scaling,
    schedules,
    tasks,
)
from pipeline.checkpoint import Checkpoint, Data
from pipeline.credit import RIGHTS
from pipeline.engine import Average
from pipeline.errors import UserError
from pipeline.health import Health, Place, Unhealthy
from pipeline.loader import Loader, fixed_crops
from pipeline.metrics import Errors
from pipeline.prefetch import on_device
from pipeline.problem import MODEL, Problem
from pipeline.progress import say
from pipeline.reporting.words import after, count
from pipeline.runlog import Log
from pipeline.samples import Samples
from pipeline.scaling import Scaling
from pipeline.settings import RunSettings
from pipeline.steps import LATE, Batch, Outcome, optimizers_of, update
from pipeline.tasks import ForecastSettings

# Of a store's attributes, what a model's use and its scores need.
CARRIED = (
    *RIGHTS,
    "source",
    "projection",
    "pixel_km",
    "accumulation_hours",
    "time_label",
    "grid_degrees",
    "grid_degrees_latitude",
    "grid_degrees_longitude",
    "native_grid_degrees",
)


@dataclass
class Position:
    """Where a training stands."""

    epoch: int = 0  # of the next step
    batch: int = 0  # of the next step, within its epoch
    step: int = 0  # steps done
    best: float = math.inf  # validation RMSE, physical units
    best_epoch: int = 0  # that held it, counted from 1; 0: none yet
    stale_epochs: int = 0  # whole ones since that
    players: int = 0  # that have taken part in a step


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
    health: Health
    replays: bool = False  # its networks are compiled to CUDA graphs
    position: Position = field(default_factory=Position)
    baselines: dict[str, float] = field(default_factory=dict)  # their RMSE, which never changes

    @classmethod
    def of(cls, settings: RunSettings, run: Path, fabric: Fabric | None = None) -> Trainer:
        """Open the data, build the model. Raises UserError where they do not fit.

        fabric: else it is made of the settings. Of several processes each has its share of every
        batch, and waits for no other here.
        """
        t = settings.training
        fabric = fabric or engine.make_fabric(t)
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
        demands.say_mirrored(task, train_tracks, t)
        loader = Loader(
            train_tracks,
            window=task.window,
            patch=t.patch_size,
            batch=demands.share(t, fabric.world_size),
            crops_per_window=t.crops_per_window,
            augment=t.augment,
            seed=t.seed,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
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
            model = engine.of_all(fabric, model)
            models.prepare(model)
        except ValueError as error:
            raise UserError(f"model {settings.model_name}: {error}") from None
        players = model.players()
        if unknown := sorted(set(t.lr_of) - set(players)):
            raise UserError(
                f"training.lr_of: {settings.model_name} has no {', '.join(unknown)}; "
                f"it has {', '.join(players)}"
            )
        optimizers = optimizers_of(fabric, t, players)
        if fabric.global_rank:  # all begin with the same weights, and go on with other noise
            torch.manual_seed(t.seed + fabric.global_rank)
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
            optimizers=optimizers,
            averaged=Average(model, t.ema) if t.ema else None,
            health=Health(run, loader.shown_in, overflows=t.precision == "fp16"),
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

    def told_device(self) -> str:
        """Where it trains, in which precision; on a CPU where nobody asked for one, why."""
        t, device = self.settings.training, self.fabric.device
        if device.type == "cuda":
            where = torch.cuda.get_device_name(device)
        else:
            where = f"the CPU, {count(torch.get_num_threads(), 'thread')}"
        several = f"{self.fabric.world_size} processes, each " if self.fabric.world_size > 1 else ""
        why = "; torch finds no GPU here" if device.type == "cpu" and t.device == "auto" else ""
        return f"trains in {t.precision}, {several}on {where}{why}"

    def told_position(self) -> str:
        """From where a training goes on; "" where nothing is left of it."""
        at, epochs = self.position, self.settings.training.epochs
        if at.epoch >= epochs:
            return ""
        return (
            f"goes on after step {at.step:,} of {self.total_steps:,}, in epoch {at.epoch + 1} of "
            f"{epochs}"
        )

    def told_schedule(self, epochs: int) -> str:
        """How the learning rate goes on where it was to end after that many epochs."""
        t, step = self.settings.training, self.position.step
        per_epoch = self.steps_per_epoch
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

    @property
    def unit(self) -> str:
        """Of the validation's RMSE, after a blank; "" where the channels have several units."""
        units = {str(channel["units"]) for channel in self.problem.channels(self.data.channels)}
        return after(units.pop()) if len(units) == 1 else ""

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.loader) // self.settings.training.accumulate)

    @property
    def total_steps(self) -> int:
        return self.settings.training.epochs * self.steps_per_epoch

    def rates(self, step: int) -> dict[str, float]:
        """Each player's learning rate at this step, counted from 0, as the log has it."""
        t = self.settings.training
        share = schedules.share_of_lr(t, step, self.total_steps)
        return {f"lr/{name}": t.lr_of.get(name, t.lr) * share for name in self.optimizers}

    def place(self, batches: int) -> Place:
        """Of the next step, which takes so many batches."""
        at = self.position
        return Place(at.step + 1, at.epoch, range(at.batch, at.batch + batches))

    def step(self, batches: list[Batch]) -> Outcome:
        """One step of every player, at the present position, which moves on."""
        at, t = self.position, self.settings.training
        rates, beta1 = self.rates(at.step), schedules.beta1(t, at.step, self.total_steps)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rates[f"lr/{name}"], (beta1, t.beta2)
        if self.replays:
            torch.compiler.cudagraph_mark_step_begin()
        outcome = update(self.fabric, self.model, self.optimizers, batches, at.step, t.clip)
        if self.averaged:
            self.averaged.update(self.model)
        at.step += 1
        at.batch += len(batches)
        self.welcome(len(outcome.losses))
        return outcome

    def welcome(self, players: int) -> None:
        """When discriminators join: what was best without them is another model.

        It stays as pretrained.ckpt, and best.ckpt is chosen anew among those to come.
        """
        at = self.position
        if 0 < at.players < players and at.best < math.inf:
            at.best, at.best_epoch, at.stale_epochs = math.inf, 0, 0
            engine.by_first(self.fabric, self.keep_pretrained)
            say(
                f"step {at.step}: all players take part now, and the best is chosen anew; what was "
                f"best until here stays as {checkpoint.PRETRAINED}.ckpt"
            )
            self.health.usual.clear()  # another game, with other losses
        at.players = max(at.players, players)

    def keep_pretrained(self) -> None:
        folder = self.run / "checkpoints"
        if not (folder / f"{checkpoint.PRETRAINED}.ckpt").exists():  # as after a kill it does
            checkpoint.keep(folder / "best.ckpt", checkpoint.PRETRAINED)

    def compile(self) -> str:
        """Compile the networks, if the settings ask for it; what to say of it, or "".

        Raises nothing: where it cannot be done the networks stay as they are.
        """
        how, t = self.settings.training.compile, self.settings.training
        if how == "off":
            return ""
        say("compiling the networks, after a trial without; this takes minutes")
        state = engine.random_state(self.fabric)
        precision = self.fabric.strategy.precision
        scaler = dict(precision.state_dict())
        batch = next(self.batches(0, 0))

        def trial(model: Any) -> list[float]:
            engine.set_random_state(self.fabric, state, t.seed)
            precision.load_state_dict(scaler)
            optimizers = optimizers_of(self.fabric, t, model.players())
            found: list[Tensor] = []
            for step in (0, LATE, LATE + 1):
                if how == "graphs":
                    torch.compiler.cudagraph_mark_step_begin()
                made = update(self.fabric, model, optimizers, [batch], step, t.clip)
                found += [*made.losses.values(), *made.norms.values()]
            return [float(value) for value in found]

        why = compilation.tried(self.model, how, trial)
        engine.set_random_state(self.fabric, state, t.seed)
        precision.load_state_dict(scaler)
        if engine.agreed(self.fabric, bool(why)):
            why = why or "another process says so"
            return f"training.compile {how} is not to be had here, training goes on without: {why}"
        compilation.compile_networks(self.model, how)
        self.replays = how == "graphs"
        return ""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The rest of an epoch as normalised (x, y); only whole optimizer steps."""
        end = self.steps_per_epoch * min(self.settings.training.accumulate, len(self.loader))
        cut = islice(self.loader.epoch(epoch, start), end - start)
        for frames in on_device(cut, self.fabric.device):
            yield self.problem.pair(frames)

    def validated(self, log: Log) -> dict[str, float]:
        scores = engine.by_first(self.fabric, self.validate)
        log.validated(scores, self.position.step, self.position.epoch)
        return scores

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """RMSE in physical units on the fixed crops: of the model, and of each baseline."""
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
                answer = self.guess(x) if row == MODEL else self.problem.of_baseline(row, x)
                sums[row] += Errors.of(answer, truth, self.peak)
        found = {row: each.scores()["rmse"] for row, each in sums.items()}
        self.baselines = self.baselines or {row: found[row] for row in rows[1:]}
        return {MODEL: found[MODEL], **self.baselines}

    def guess(self, x: Tensor) -> Tensor:
        """What the model says as it will be used: of averaged weights, where they are kept."""
        judged = (self.averaged.module if self.averaged else self.model).eval()
        with self.fabric.autocast(), compilation.without():
            answer = judged(self.problem.x.model_input(x)).float()
        self.model.train()
        if answer.isnan().any():
            raise Unhealthy(
                f"{self.run}: what the model says is no longer finite at step "
                f"{self.position.step}; lower training.lr, or go back to fp32; the checkpoints are "
                "from before"
            )
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

    def draw_samples(self, log: Log) -> None:
        """The same few validation windows at first and by epoch, in samples/ and TensorBoard."""

        def draw() -> None:
            picture = self.samples.drawn(
                lambda x: self.guess(self.fabric.to_device(x)), f"Epoch {self.position.epoch}"
            )
            file = self.run / "samples" / f"epoch-{self.position.epoch:04d}.png"
            pictures.write(file, picture, self.samples.credit, f"Epoch {self.position.epoch}")
            log.sample(picture, self.position.step)

        engine.by_first(self.fabric, draw)

    @cached_property
    def samples(self) -> Samples:
        donors = self.validation.roll(-1, 0) if self.problem.task.borrows else None
        data = self.data
        return Samples.of(
            self.problem, data.channels, data.attrs, self.validation, donors, data.step
        )

    def save(self, name: str) -> None:
        """Write checkpoints/<name>.ckpt; all processes must come here together."""
        random = engine.random_state(self.fabric)
        engine.by_first(self.fabric, lambda: self.write_checkpoint(name, random))

    def write_checkpoint(self, name: str, random: list[dict[str, Any]]) -> None:
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
                "random": random,
            },
        )
        path = self.run / "checkpoints" / f"{name}.ckpt"
        if name == "last":
            checkpoint.keep(path, checkpoint.PREVIOUS)
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
        try:
            self.model.load_state_dict(old.weights)
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            if self.averaged and old.averaged:
                self.averaged.module.load_state_dict(old.averaged)
                self.averaged.count = state["averaged"]
            if state["scaler"]:  # of fp16
                self.fabric.strategy.precision.load_state_dict(state["scaler"])
            engine.set_random_state(self.fabric, state["random"], self.settings.training.seed)
            self.position = Position(**state["position"])
        except (RuntimeError, KeyError, TypeError, ValueError):  # of names, of shapes
            raise UserError(
                f"{path}: of another version of eddy, or damaged: what it holds does not fit this "
                "training; train into another --run, or use the eddy that wrote it"
            ) from None
