"""What an experiment came to: each arm's scores, paired differences, and what may be said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.experiment import blocks
from pipeline.experiment.blocks import Draws
from pipeline.experiment.judging import Judged, Windows, scores
from pipeline.experiment.plan import ALONE, TITLES, UPSTREAM
from pipeline.resampling import LEVEL, Interval, intervals

SEEDS_NEEDED = 3  # with fewer nobody knows what another training would have come to
# With so many or fewer that is said: of S values drawn again the variance is (S - 1) / S of the
# trainings' own, so that the seeds' part of an interval is too narrow by the root of that.
FEW_SEEDS = 5
DECIDES = "rmse"  # the one score that the verdict rests on; the others stand beside it


@dataclass(frozen=True)
class Comparison:
    """One arm minus experiment 2, in one score."""

    other: str
    score: str
    difference: float
    interval: Interval
    seeds_won: int  # in so many of them experiment 2 is better

    @property
    def gain(self) -> tuple[float, float, float]:
        """What experiment 2 gains, and its interval: above 0 it is better."""
        low, high = self.interval
        if lower_is_better(self.score):
            return self.difference, low, high
        return -self.difference, -high, -low

    @property
    def won(self) -> bool:
        return self.gain[1] > 0

    @property
    def lost(self) -> bool:
        return self.gain[2] < 0


def lower_is_better(score: str) -> bool:
    return score == "rmse"


@dataclass(frozen=True)
class Findings:
    """All numbers of an experiment."""

    names: list[str]  # of the columns of sums
    sums: dict[str, np.ndarray]  # by arm: (seeds, windows, names)
    baseline: Judged
    baseline_name: str
    windows: Windows
    draws: Draws
    block: int  # windows
    units: str

    @cached_property
    def drawn(self) -> dict[str, dict[str, np.ndarray]]:
        made = {arm: self.draws.scores(self.names, each) for arm, each in self.sums.items()}
        one = np.repeat(self.baseline.sums[None], len(self.sums[ALONE]), 0)
        return {**made, self.baseline_name: self.draws.scores(self.names, one)}

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """By arm, over all seeds and windows; the baseline's last."""
        total = {arm: each.sum((0, 1)) for arm, each in self.sums.items()}
        total[self.baseline_name] = self.baseline.sums.sum(0)
        return {
            arm: {name: float(value) for name, value in scores(self.names, each).items()}
            for arm, each in total.items()
        }

    @cached_property
    def by_seed(self) -> dict[str, dict[str, list[float]]]:
        found = {arm: scores(self.names, each.sum(1)) for arm, each in self.sums.items()}
        return {
            arm: {name: values.tolist() for name, values in each.items()}
            for arm, each in found.items()
        }

    @cached_property
    def intervals(self) -> dict[str, dict[str, Interval]]:
        if self.blocks < blocks.FEWEST:
            return {
                arm: dict.fromkeys(each, (math.nan, math.nan)) for arm, each in self.drawn.items()
            }
        return intervals(self.drawn)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Experiment 1 and every control, minus experiment 2, in every score."""
        made = []
        for other in (arm for arm in self.sums if arm != UPSTREAM):
            ends = blocks.differences(self.drawn[other], self.drawn[UPSTREAM])
            for score, interval in ends.items():
                here, there = (self.by_seed[arm][score] for arm in (UPSTREAM, other))
                pairs = zip(here, there, strict=True)
                made.append(
                    Comparison(
                        other,
                        score,
                        self.scores[other][score] - self.scores[UPSTREAM][score],
                        interval if self.blocks >= blocks.FEWEST else (math.nan, math.nan),
                        sum(a < b if lower_is_better(score) else a > b for a, b in pairs),
                    )
                )
        return made

    @cached_property
    def blocks(self) -> float:
        """How many fit into what was judged."""
        return blocks.number_of_blocks(self.windows.track, self.block)

    @cached_property
    def alike_for(self) -> int:
        """For so many windows the gain of experiment 2 over experiment 1 resembles itself."""
        squared = (self.sums[ALONE] - self.sums[UPSTREAM])[..., 0].mean(0)
        return blocks.alike_for(squared, self.windows.track)

    @property
    def seeds(self) -> int:
        return len(self.sums[ALONE])

    @property
    def found(self) -> bool:
        return not self.missing and all(c.won for c in self.deciding)

    @property
    def deciding(self) -> list[Comparison]:
        return [c for c in self.comparisons if c.score == DECIDES]

    @property
    def missing(self) -> str:
        """Why nothing can be established, whatever the numbers; "" where something can."""
        if len(self.deciding) < 2:
            return "no control was run, and a larger input may help whatever is in it"
        if self.seeds < SEEDS_NEEDED:
            told = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
            return f"{told} cannot tell influence from the luck of a training; run {SEEDS_NEEDED}"
        if self.blocks < blocks.FEWEST:
            return (
                f"what was judged holds {self.blocks:.1f} independent blocks of {self.block} "
                f"windows, and at least {blocks.FEWEST} are needed; judge more or longer tracks, "
                "or ask for a shorter upstream.block_hours"
            )
        return ""

    def verdict(self) -> str:
        """One sentence."""
        first, *controls = self.deciding
        if self.missing:
            return f"No influence can be established: {self.missing}."
        if self.found:
            return (
                f"Influence found: with region 2 the RMSE over region 1 is {self.told(first)} "
                "lower than without, and lower than with each control by "
                + listed([f"{self.told(c)} ({TITLES[c.other]})" for c in controls])
                + "."
            )
        if first.lost:
            return (
                f"No influence found: with region 2 the RMSE over region 1 is {self.told(first)} "
                "higher than without."
            )
        failed = [c for c in self.deciding if not c.won]
        told = listed([f"{TITLES[c.other]} (by {self.told(c)})" for c in failed])
        passed = [TITLES[c.other] for c in self.deciding if c.won]
        beside = f", though it is than {listed(passed)}" if passed else ""
        return (
            f"No influence established: experiment 2's RMSE is not clearly lower than that of "
            f"{told}{beside}."
        )

    def told(self, comparison: Comparison) -> str:
        """What experiment 2 gains; or, where it loses for certain, how much."""
        gain, low, high = comparison.gain
        if comparison.lost:
            gain, low, high = -gain, -high, -low
        unit = f" {self.units}" if comparison.score == "rmse" else ""
        return f"{gain:.3g}{unit} [{low:.3g}, {high:.3g}]"

    def notes(self) -> list[str]:
        """What must be said beside them."""
        made = [
            f"intervals are the middle {LEVEL:.0%} of {len(self.draws.windows)} draws of blocks of "
            f"{self.block} windows and of seeds, the same draws for all arms; the tracks hold "
            f"{self.blocks:.0f} such blocks"
        ]
        if blocks.FEWEST <= self.blocks < blocks.FEW:
            made.append(f"fewer than {blocks.FEW} blocks: the intervals are rough")
        if self.block < 2 * self.alike_for:
            made.append(
                f"the gain resembles itself for {self.alike_for} windows, so that blocks of "
                f"{self.block} may be too short and the intervals too narrow; ask for a longer "
                "upstream.block_hours"
            )
        if SEEDS_NEEDED <= self.seeds <= FEW_SEEDS:
            short = 1 - math.sqrt((self.seeds - 1) / self.seeds)
            made.append(
                f"{self.seeds} seeds: how much trainings differ is known roughly, and their part "
                f"of the intervals, drawn from so few, is about {short:.0%} too narrow"
            )
        return made


def listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def plain(findings: Findings) -> dict[str, Any]:
    """For JSON: what is undefined is null."""
    f = findings
    by_seed = {
        (arm, name): list(map(number, values))
        for arm, each in f.by_seed.items()
        for name, values in each.items()
    }
    return {
        "found": f.found,
        "verdict": f.verdict(),
        "notes": f.notes(),
        "scores": {
            arm: {
                name: {
                    "value": number(value),
                    "interval": ends(f.intervals[arm][name]),
                    "by_seed": by_seed.get((arm, name), []),
                }
                for name, value in each.items()
            }
            for arm, each in f.scores.items()
        },
        "differences": [
            {
                "arm": c.other,
                "minus": UPSTREAM,
                "score": c.score,
                "value": number(c.difference),
                "interval": ends(c.interval),
                "seeds_won": c.seeds_won,
                "upstream_is": "better" if c.won else "worse" if c.lost else "not told apart",
            }
            for c in f.comparisons
        ],
        "windows": len(f.windows),
        "seeds": f.seeds,
        "block_windows": f.block,
        "blocks": round(f.blocks, 2),
        "alike_for_windows": f.alike_for,
        "resamples": len(f.draws.windows),
        "level": LEVEL,
    }


def number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ends(interval: Interval) -> list[float | None]:
    return [number(end) for end in interval]


def rows(findings: Findings) -> list[Mapping[str, Any]]:
    """For CSV: scores, then differences."""
    f = findings
    made: list[Mapping[str, Any]] = []
    for arm, each in f.scores.items():
        for name, value in each.items():
            low, high = f.intervals[arm][name]
            made.append(row("score", arm, "", name, value, low, high))
    return made + [
        row("difference", c.other, UPSTREAM, c.score, c.difference, *c.interval, c.seeds_won)
        for c in f.comparisons
    ]


def row(
    what: str,
    arm: str,
    minus: str,
    score: str,
    value: float,
    low: float,
    high: float,
    seeds_won: int | str = "",
) -> dict[str, Any]:
    return {
        "what": what,
        "arm": arm,
        "minus": minus,
        "score": score,
        "value": value,
        "low": low,
        "high": high,
        "seeds_won": seeds_won,
    }
