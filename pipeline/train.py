"""The one training loop, whatever the model.

Split + store -> run folder: settings.yaml, metrics.jsonl, tensorboard/, samples/, checkpoints/.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from lightning_fabric import Fabric

from pipeline import atomic, budget, checkpoint, demands, engine, shipped
from pipeline import settings as run_settings
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.health import Unhealthy
from pipeline.interrupts import told_to_stop
from pipeline.problem import MODEL
from pipeline.progress import brief, duration, muted, progress, say
from pipeline.runlog import Log, open_log
from pipeline.settings import RunSettings
from pipeline.tasks import ForecastSettings
from pipeline.trainer import Position, Trainer

# What may change when a run goes on; anything else would make it another run.
MAY_CHANGE = {
    "data.store",
    "data.split",
    "data.threads",
    "data.read_ahead",
    "training.epochs",
    "training.device",
    "training.devices",
    "training.compile",
    "training.log_every_steps",
    "training.checkpoint_every_epochs",
    "training.checkpoint_every_steps",
    "training.sample_every_epochs",
    "training.patience",
    "model.vgg_weights",  # where the same file lies
}
# And what a training that went wrong is told to change.
MENDS = {
    "training.lr",
    "training.lr_of",
    "training.clip",
    "training.precision",
    "model.rest_above",
}
AGREED_EVERY = 10  # steps: then several processes ask each other whether one was told to stop
STOPPING = "Stopping after {}, and saving then; Ctrl-C again stops at once, without saving"
WATCHED = 10.0  # seconds after the first step: then it is known how long all steps take
LONG = 3600.0  # seconds on a CPU, from which on other ways are named


@dataclass(frozen=True)
class Trained:
    """What a training came to, for the screen."""

    run: Path
    position: Position
    scores: dict[str, float]  # of the last validation: model and baseline RMSE
    stopped: str  # "" when all epochs are done, else why not
    unit: str = ""  # of these, after a blank; "" where channels have several
    first: bool = True  # in the first of its processes, which speaks for all


def train(settings: RunSettings, run: Path, *, resume: bool = False) -> Trained:
    """Train into the run folder; with `resume`, go on from its last checkpoint.

    With training.devices above 1 it starts as many processes, each of which comes here by itself.
    Raises UserError for a split of another store, settings that do not fit the data, a run folder
    that already holds a training (without `resume`) or another model's (with it), and a GPU that
    has too little memory.
    """
    demands.refuse_shared_cpu(settings.training)
    fabric = engine.make_fabric(settings.training)
    run = engine.by_first(fabric, lambda: run)  # its default is named after the present time
    with ExitStack() as inside:
        if not fabric.is_global_zero:
            inside.enter_context(muted())
        try:
            done = begun(settings, run, resume, fabric)
            engine.parted(fabric)
            return done
        except torch.cuda.OutOfMemoryError:
            raise UserError(too_large(settings, run, fabric.world_size)) from None
        except Unhealthy:
            if fabric.is_global_zero:
                raise
            raise SystemExit(1) from None
        except RuntimeError as error:
            if not engine.lost_another(fabric, error):
                raise
            if not fabric.is_global_zero:
                raise SystemExit(1) from None
            raise UserError(
                f"{run}: another process of this training has ended (its own words are above, if "
                "it had any); run the same command again with --resume"
            ) from None


def begun(settings: RunSettings, run: Path, resume: bool, fabric: Fabric) -> Trained:
    """As `train` says."""
    with engine.together(fabric):
        if run.exists() and not run.is_dir():
            raise UserError(f"{run}: is a file; choose another --run")
        last = run / "checkpoints" / "last.ckpt"
        old, found = checkpoint.latest(run) if resume else (None, last)
        if old:
            refuse_other_run(old, settings, found)
        elif last.exists():
            raise UserError(
                f"{run}: already holds a training; add --resume, or choose another --run"
            )
        trainer = Trainer.of(settings, run, fabric)
        if old:
            trainer.restore(old, found)
    with ExitStack() as held:
        if fabric.is_global_zero:
            told = "another training is writing here; choose another --run"
            held.enter_context(atomic.claimed(run, told))
            for stale in last.parent.glob(".*.tmp"):  # left by one that was killed while writing
                stale.unlink()
            if old and found != last:  # damaged: it must not take the good one's place
                last.unlink(missing_ok=True)
            run_settings.write(run / "settings.yaml", settings)
            atomic.write_json(run / "scaling.json", trainer.told_scaling())
        say(trainer.told_model())
        say(trainer.told_device())
        if old and (note := trainer.told_schedule(old.settings.training.epochs)):
            say(note)
        if old and (note := trainer.told_position()):
            say(note)
        soon = "this step" if fabric.world_size == 1 else f"at most {AGREED_EVERY} steps"
        speaks = fabric.is_global_zero
        stopping = held.enter_context(told_to_stop(STOPPING.format(soon) if speaks else ""))
        if note := trainer.compile():
            say(note)
        log = open_log(run, trainer.position.step, fabric, trainer.health)
        return fit(trainer, held.enter_context(log), stopping)


def fit(trainer: Trainer, log: Log, told_to_stop: Callable[[], bool]) -> Trained:
    """Train from the present position to the last epoch, or until told to stop."""
    t, at, fabric = trainer.settings.training, trainer.position, trainer.fabric
    per_epoch, unit = trainer.steps_per_epoch, trainer.unit
    scores: dict[str, float] = {}
    watch = Watch(trainer) if fabric.device.type == "cpu" and not at.step else None

    def flush() -> str:
        """First, before anything is judged or saved: it refuses what is not finite."""
        means = log.flush(at.step, at.epoch, trainer.rates(at.step - 1))
        loss = means.get(f"player/{next(iter(trainer.optimizers))}")  # of who answers
        return "" if loss is None else f"loss {brief(loss)}"

    def done(why: str) -> Trained:
        return Trained(trainer.run, at, scores, why, unit, fabric.is_global_zero)

    def stopping() -> bool:
        if fabric.world_size > 1 and at.step % AGREED_EVERY:
            return False
        return engine.agreed(fabric, told_to_stop())

    if not at.step and t.sample_every_epochs:
        trainer.draw_samples(log)  # what goes in and should come out is to be seen before the hours
    all_steps = max(trainer.total_steps, at.step)
    with progress("train", all_steps, "steps", before=at.step) as advance:
        while at.epoch < t.epochs:
            if t.patience and at.stale_epochs >= t.patience:
                some = at.players < len(trainer.optimizers)
                why = "; not all players have taken part" if some else ""
                return done(f"no better for {t.patience} epochs{why}")
            batches = trainer.batches(at.epoch, at.batch)
            while micro := list(islice(batches, t.accumulate)):
                place = trainer.place(len(micro))
                log.add(trainer.step(micro).named(), place)
                note = flush() if at.step % t.log_every_steps == 0 else ""
                advance(1, note)
                if watch and (told_time := watch.told()) is not None:
                    watch = None
                    if told_time:
                        say(told_time)
                if due(at.step, t.validate_every_steps) and at.step % per_epoch:
                    flush()
                    advance(0, "validates")
                    scores = trainer.validated(log)
                    advance(0, f"step {at.step:,}: RMSE " + told(scores, unit), keep=True)
                    if trainer.better(scores[MODEL], at.epoch + 1):
                        trainer.save("best")
                stop = stopping()
                if stop or due(at.step, t.checkpoint_every_steps):
                    flush()
                    trainer.save("last")
                if stop:
                    return done("told to stop; --resume goes on")
            at.epoch, at.batch = at.epoch + 1, 0
            flush()
            advance(0, "validates")
            scores = trainer.validated(log)
            advance(0, f"epoch {at.epoch}: RMSE " + told(scores, unit), keep=True)
            trainer.keep(scores[MODEL])
            if due(at.epoch, t.sample_every_epochs):
                trainer.draw_samples(log)
            if at.epoch < t.epochs and engine.agreed(fabric, told_to_stop()):
                return done("told to stop; --resume goes on")
            log.clear()  # the next steps are timed from here
    return done("" if scores else "nothing was left to train; for more, --set training.epochs=N")


class Watch:
    """Of a training's first steps on a CPU: will all of them take long?"""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.since: tuple[float, int] | None = None  # a time, and how many steps were done by then

    def told(self) -> str | None:
        """After each step: None until it is known, then what to say of it, or ""."""
        trainer, now = self.trainer, time.monotonic()
        done = trainer.position.step
        if self.since is None:  # the first takes longer
            self.since = now, done
        since, before = self.since
        if now - since < WATCHED:
            return None
        left = (trainer.total_steps - done) * (now - since) / (done - before)
        if left < LONG:
            return ""
        rest = trainer.position.players < len(trainer.optimizers)
        more = ", and more when all players take part" if rest else ""
        named = " or ".join(f"`cli train {name}`" for name in for_cpus(trainer.settings))
        return (
            f"at this pace the CPU takes {duration(left, 2)}{more}. Quicker: a GPU"
            + (f", {named}, made for CPUs," if named else "")
            + " or fewer --set training.epochs=N; --dry-run says beforehand how long"
        )


def for_cpus(settings: RunSettings) -> list[str]:
    """The names of eddy's own settings for CPUs that have the same model and scaling, but smaller.

    Another size of the model is taken for a smaller one, unless its crops are larger.
    """
    files = {name: file for name, file in shipped.files().items() if name.endswith("_cpu")}
    known = {name: run_settings.load(file)[0] for name, file in files.items()}

    def kind(of: RunSettings) -> tuple[object, ...]:
        return of.model_name, of.scaling

    def is_smaller(own: RunSettings) -> bool:
        theirs, ours = (of.training.patch_size or math.inf for of in (own, settings))
        differs = own.model_settings != settings.model_settings
        return theirs < ours or (differs and theirs == ours)

    return [name for name, own in known.items() if kind(own) == kind(settings) and is_smaller(own)]


def too_large(settings: RunSettings, run: Path, devices: int) -> str:
    """What to say of a training that a GPU's memory does not hold; devices: that share a batch."""
    told = f"{run}: the GPU has too little memory for this training"
    training = settings.training.model_copy(update={"devices": devices})
    settings = settings.model_copy(update={"training": training})
    if way := budget.way_out(settings, run):
        return f"{told}; {way}"
    forecast = isinstance(settings.task, ForecastSettings)
    return (
        f"{told}; make training.batch_size smaller "
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
    mends = {k: v for k, v in other.items() if re.match(rf"({'|'.join(MENDS)})(\.|$)", k)}
    if changed := {k: v for k, v in other.items() if k not in MAY_CHANGE | mends.keys()}:
        told = "; ".join(f"{k} (was {was}, now {now})" for k, (was, now) in changed.items())
        raise UserError(f"{path}: --resume cannot change {told}; train that into another --run")
    if mends:
        told = "; ".join(f"{k} {now}, not {was}" for k, (was, now) in mends.items())
        say(f"the training goes on with {told}")


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def told(scores: dict[str, float], unit: str) -> str:
    """Of the model and the usual baseline."""
    return ", ".join(f"{name} {value:.3f}{unit}" for name, value in islice(scores.items(), 2))
