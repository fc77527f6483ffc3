"""Upstream experiment: train every arm with the same seeds, judge all on the same windows.

Writes upstream.json, upstream.csv, windows.csv (the sums of each window), pictures and
upstream.html; the runs lie in <arm>/seed-<n>.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline import atomic, checkpoint, software
from pipeline import settings as run_settings
from pipeline.answers import MODEL, Answers
from pipeline.checkpoint import Checkpoint
from pipeline.credit import Credit
from pipeline.errors import UserError
from pipeline.experiment import drawing, findings, judging, occlusion, page, reach
from pipeline.experiment import plan as planning
from pipeline.experiment.blocks import Draws
from pipeline.experiment.findings import Findings
from pipeline.experiment.judging import Judged, Windows
from pipeline.experiment.plan import ALONE, UPSTREAM, Arm, Plan, UpstreamSettings
from pipeline.outputs.layout import moment
from pipeline.progress import progress, working
from pipeline.reporting.words import count
from pipeline.scorecard import Yardstick
from pipeline.settings import RunSettings
from pipeline.sources.grids import Grid
from pipeline.trainer import Trainer
from pipeline.windows import usual_step

FORMAT = "eddy upstream 1"
SETTINGS_FILE = "experiment.yaml"
# What may change when an experiment goes on: it adds runs, or judges the same ones otherwise.
MAY_CHANGE = {
    "data.store",
    "data.split",
    "data.threads",
    "data.read_ahead",
    "training.device",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "upstream.seeds",
    "upstream.controls",
    "upstream.part",
    "upstream.resamples",
    "upstream.block_hours",
    "upstream.min_reached",
}
PER_PICTURE = {"largest gain": -1, "median gain": None, "largest loss": 0}  # places by gain


@dataclass(frozen=True)
class Done:
    """What was written, and what it says."""

    plan: Plan
    findings: Findings
    sees: reach.Looked
    file: Path
    page: Path
    pictures: list[Path]


def upstream(
    settings: RunSettings,
    asked: UpstreamSettings,
    out: Path,
    *,
    train: Callable[..., Any],
    say: Callable[[str], None] = lambda _: None,
) -> Done:
    """Run an experiment into `out`; one that was interrupted goes on.

    train(settings, run, resume=...) trains one model, as `pipeline.train.train` does; say is told
    what happens. Raises UserError for what would be no experiment, and for a folder that holds
    another one; KeyboardInterrupt where a training was told to stop.
    """
    refuse_other(out, settings, asked)
    plan = planning.planned(settings, asked)
    seeds = count(asked.seeds, "seed")
    say(f"{len(plan.arms)} arms, {seeds}, {plan.parameters:,} parameters in each model")
    say(f"Experiment 2 before training: {plan.reach}")
    with atomic.claimed(out, "another experiment is writing here; choose another --out"):
        write_settings(out, settings, asked)
        for number in range(asked.seeds):  # so that what is there early holds all arms
            for arm in plan.arms:
                trained_arm(plan, arm, number, out, train, say)
        return Concluding(plan, out).conclude()


def rehearsed(settings: RunSettings, asked: UpstreamSettings, out: Path) -> list[str]:
    """What an experiment would train, in sentences; nothing is written. Raises as `upstream`."""
    refuse_other(out, settings, asked)
    plan = planning.planned(settings, asked)
    lines = [f"Experiment 2 before training: {plan.reach}"]
    total = left = 0
    for arm in plan.arms:
        wanted = plan.of(arm, 0)
        steps = Trainer.of(wanted, Path("dry run")).total_steps
        ready = [is_trained(plan, arm, number, out) for number in range(asked.seeds)]
        done = f", {sum(ready)} of them done" if any(ready) else ""
        trainings = count(asked.seeds, "training")
        lines.append(f"{arm.title}: {trainings} of {count(steps, 'step')}{done}")
        total, left = total + len(ready), left + steps * ready.count(False)
    return [
        *lines,
        f"{count(total, 'training')}, {plan.parameters:,} parameters in each model; "
        f"{count(left, 'step')} to go",
    ]


def is_trained(plan: Plan, arm: Arm, number: int, out: Path) -> bool:
    last = run_folder(out, arm, number) / "checkpoints" / "last.ckpt"
    return last.exists() and is_finished(checkpoint.load(last), plan.of(arm, number))


def run_folder(out: Path, arm: Arm, number: int) -> Path:
    return out / arm.name / f"seed-{number}"


def trained_arm(
    plan: Plan,
    arm: Arm,
    number: int,
    out: Path,
    train: Callable[..., Any],
    say: Callable[[str], None],
) -> None:
    """Train one model, unless that was done before."""
    run, wanted = run_folder(out, arm, number), plan.of(arm, number)
    last = run / "checkpoints" / "last.ckpt"
    old = checkpoint.load(last) if last.exists() else None
    if old and is_finished(old, wanted):
        refuse_other_data(last, old, plan)
        return
    say(f"{arm.title}, seed {number + 1} of {plan.asked.seeds}")
    train(wanted, run, resume=old is not None)
    if not is_finished(checkpoint.load(last), wanted):
        raise KeyboardInterrupt


def is_finished(trained: Checkpoint, wanted: RunSettings) -> bool:
    t, at = wanted.training, trained.training["position"]
    return bool(at["epoch"] >= t.epochs or (t.patience and at["stale_epochs"] >= t.patience))


def refuse_other_data(last: Path, trained: Checkpoint, plan: Plan) -> None:
    data = trained.data
    if data.manifest_hash != plan.store.manifest_hash or data.train != plan.split.train:
        raise UserError(
            f"{last}: trained on another store or split than {plan.store.path}; go on with the "
            "same ones, or choose another --out"
        )


def as_file(settings: RunSettings, asked: UpstreamSettings) -> dict[str, Any]:
    return {**settings.model_dump(mode="json"), "upstream": planning.told(asked)}


def write_settings(out: Path, settings: RunSettings, asked: UpstreamSettings) -> None:
    with atomic.replacing(out / SETTINGS_FILE) as temporary:
        text = yaml.safe_dump(as_file(settings, asked), sort_keys=False)
        temporary.write_text(text, encoding="utf-8")


def refuse_other(out: Path, settings: RunSettings, asked: UpstreamSettings) -> None:
    """Raises UserError where another experiment, or something else, lies.

    An experiment of which nothing was trained may still become another one.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; choose another --out")
    file = out / SETTINGS_FILE
    if not file.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out}: holds something else than an experiment; choose another --out")
        return
    if not any(out.glob("*/seed-*/checkpoints/*.ckpt")):
        return
    was = dict(run_settings.flattened(run_settings.read(file)))
    now = dict(run_settings.flattened(as_file(settings, asked)))
    changed = [
        f"{key} was {was.get(key)}, now {now.get(key)}"
        for key in sorted({*was, *now} - MAY_CHANGE)
        if was.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{out}: holds an experiment with other settings ({'; '.join(changed)}); "
            "choose another --out"
        )


@dataclass(frozen=True)
class Concluding:
    """Judges all the runs of an experiment and writes what they come to."""

    plan: Plan
    out: Path

    @property
    def which(self) -> str:
        """The checkpoint that is judged: on eval tracks not the one that was chosen on them."""
        return "best" if self.plan.asked.part == "test" else "last"

    def trained(self, arm: Arm, number: int) -> Checkpoint:
        return checkpoint.load(checkpoint.in_run(run_folder(self.out, arm, number), self.which))

    def answers(self, arm: Arm, number: int) -> Answers:
        return Answers(self.trained(arm, number), self.plan.settings.training.device)

    @cached_property
    def first(self) -> Checkpoint:
        return self.trained(self.plan.arms[0], 0)

    @property
    def credit(self) -> Credit:
        return Credit.of(self.first.data.attrs, title="Forecasts with and without upstream data")

    @cached_property
    def windows(self) -> Windows:
        task = self.first.task
        return Windows.of(self.plan.tracks, task.first, task.scored_window)

    @cached_property
    def yardstick(self) -> Yardstick:
        return Yardstick.of_trained(self.first, self.plan.store.attrs, self.plan.tracks)

    @cached_property
    def methods(self) -> dict[tuple[str, int], judging.Method]:
        """By arm and number of the seed, every model; and the baseline, which needs but one."""
        seeds = range(self.plan.asked.seeds)
        made = {
            (arm.name, number): (self.answers(arm, number), MODEL)
            for arm in self.plan.arms
            for number in seeds
        }
        return {**made, (self.baseline, 0): (made[ALONE, 0][0], self.baseline)}

    @property
    def baseline(self) -> str:
        return self.first.task.rows()[0]

    @cached_property
    def judged(self) -> dict[str, list[Judged]]:
        """By arm, of each seed; the baseline's last."""
        with progress("judge", len(self.windows), "windows") as advance:
            found = judging.judged(
                self.methods, self.plan.tracks, self.windows, self.yardstick, advance
            )
        names = dict.fromkeys(name for name, _ in found)
        return {name: [each for (its, _), each in found.items() if its == name] for name in names}

    @cached_property
    def findings(self) -> Findings:
        plan = self.plan
        step = usual_step(plan.tracks[0].times)
        block = planning.block_of(plan.asked, self.first.task.scored_window, step)
        return Findings(
            names=judging.names(self.yardstick),
            sums={arm.name: np.stack([j.sums for j in self.judged[arm.name]]) for arm in plan.arms},
            baseline=self.judged[self.baseline][0],
            baseline_name=self.baseline,
            windows=self.windows,
            draws=Draws.of(self.windows.track, block, plan.asked.seeds, plan.asked.resamples),
            block=block,
            units=self.yardstick.units,
        )

    @property
    def pixelwise(self) -> np.ndarray:
        """(H, W): RMSE of experiment 1 minus that of experiment 2; NaN where nothing counted."""
        found = {}
        for name in (ALONE, UPSTREAM):
            squared = np.sum([j.squared for j in self.judged[name]], 0)
            pixels = np.sum([j.pixels for j in self.judged[name]], 0)
            found[name] = np.sqrt(squared / np.where(pixels > 0, pixels, np.nan))
        return found[ALONE] - found[UPSTREAM]

    def cells(self, arm: Arm) -> tuple[Grid, Grid]:
        """Those of region 1, and all that this arm's model is given."""
        task = self.methods[arm.name, 0][0].task
        _, region = task.place(self.plan.regions.grid, self.plan.tracks[0].shape[-2:])
        whole = task.cells  # type: ignore[attr-defined]  # a forecast's
        assert region is not None
        return region, whole

    def conclude(self) -> Done:
        """Write everything; upstream.json comes last."""
        plan, out = self.plan, self.out
        with_upstream = next(arm for arm in plan.arms if arm.name == UPSTREAM)
        region, whole = self.cells(with_upstream)
        looked = [self.methods[UPSTREAM, number][0] for number in range(plan.asked.seeds)]
        with working("look at what the models use"):
            posed = occlusion.sample(looked[0], plan.tracks, self.windows)
            importance = np.mean([occlusion.importance(each, posed) for each in looked], 0)
            sees = reach.Looked.of(
                [each.network for each in looked],
                posed.filled,
                planning.columns_of(looked[0].problem),
            )
        pictures = [
            drawing.intervals(out / "upstream.png", self.findings, self.credit),
            drawing.where(
                out / "upstream-where.png",
                self.pixelwise,
                region,
                importance,
                whole,
                self.yardstick.units,
                self.credit,
            ),
            *self.maps(region),
        ]
        table = pd.DataFrame(findings.rows(self.findings))
        for name, frame in (("upstream.csv", table), ("windows.csv", self.by_window())):
            with atomic.replacing(out / name) as temporary:
                frame.to_csv(temporary, index=False)
        told = self.told(sees)
        html = out / "upstream.html"
        with atomic.replacing(html) as temporary:
            temporary.write_text(page.render(told, pictures), encoding="utf-8")
        file = out / "upstream.json"
        atomic.write_json(file, told)
        return Done(plan, self.findings, sees, file, html, pictures)

    def told(self, sees: reach.Looked) -> dict[str, Any]:
        """upstream.json."""
        plan, f = self.plan, self.findings
        step = usual_step(plan.tracks[0].times)
        return {
            "format": FORMAT,
            "software": software(),
            **findings.plain(f),
            "units": f.units,
            "thresholds": self.yardstick.thresholds,
            "accumulation_hours": self.yardstick.hours,
            "step_seconds": step,
            "block_hours": f.block * step / 3600,
            "arms": {arm.name: arm.title for arm in plan.arms},
            "areas": {arm.name: arm.area for arm in plan.arms},
            "parameters": plan.parameters,
            "reach": {
                **plan.reach.plain(),
                "trained_effective": sees.effective,
                "trained_upstream": sees.upstream,
                "told": f"{plan.reach}; {sees}",
            },
            "part": plan.asked.part,
            "checkpoint": self.which,
            "tracks": [track.id for track in plan.tracks],
            "store": str(plan.store.path.resolve()),
            "manifest_hash": plan.store.manifest_hash,
            "settings": json.loads(json.dumps(as_file(plan.settings, plan.asked))),
        }

    def by_window(self) -> pd.DataFrame:
        """The sums of each window, seed and arm; the baseline has no seed."""
        f, w = self.findings, self.windows
        same = {
            "track": [self.plan.tracks[number].id for number in w.track],
            "time": pd.to_datetime(w.time, unit="s").strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        parts = [
            ({"arm": arm, "seed": str(seed)}, sums)
            for arm, each in f.sums.items()
            for seed, sums in enumerate(each)
        ]
        parts.append(({"arm": f.baseline_name, "seed": ""}, f.baseline.sums))
        return pd.concat(
            pd.DataFrame({**whose, **same, **dict(zip(f.names, sums.T, strict=True))})
            for whose, sums in parts
        )

    def maps(self, region: Grid) -> list[Path]:
        """Of the windows with the largest gain, the median and the largest loss."""
        f = self.findings
        gain = (f.sums[ALONE] - f.sums[UPSTREAM])[..., 0].mean(0)
        order = np.argsort(gain, kind="stable")
        chosen = {
            what: int(order[len(order) // 2 if place is None else place])
            for what, place in PER_PICTURE.items()
        }
        fields: dict[str, np.ndarray] = {}
        frames = judging.Frames.of(
            self.plan.tracks, self.windows, list(chosen.values()), [self.methods[ALONE, 0][0]]
        )
        for name in (ALONE, UPSTREAM):
            said = []
            for number in range(self.plan.asked.seeds):
                answer, truth = judging.answered(self.methods[name, number][0], frames)
                said.append(answer[:, 0, 0].cpu().numpy())
                fields["truth"] = truth[:, 0, 0].cpu().numpy()
            fields[name] = np.mean(said, 0)
        dates = [
            drawing.Dated(
                title=f"{moment(self.windows.time[number]):%Y-%m-%d %H:%M UTC}    "
                f"{what} of experiment 2",
                subtitle=self.subtitle(fields, i),
                truth=fields["truth"][i],
                alone=fields[ALONE][i],
                upstream=fields[UPSTREAM][i],
            )
            for i, (what, number) in enumerate(chosen.items())
        ]
        files = [self.out / f"upstream-{what.replace(' ', '-')}.png" for what in chosen]
        channel, hours = self.first.targets[0], self.yardstick.hours
        return drawing.maps(files, dates, channel, hours, region, self.credit)

    def subtitle(self, fields: Mapping[str, np.ndarray], i: int) -> str:
        """What the maps are of, and how far each is off."""
        off = [
            float(np.sqrt(np.nanmean((fields[name][i] - fields["truth"][i]) ** 2)))
            for name in (ALONE, UPSTREAM)
        ]
        seeds = self.plan.asked.seeds
        mean = f"mean of {seeds} seeds, " if seeds > 1 else ""
        return (
            f"first step ahead, {mean}RMSE {off[0]:.2f} (1) and {off[1]:.2f} (2) "
            f"{self.yardstick.units}"
        )
