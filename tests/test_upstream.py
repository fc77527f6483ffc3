"""The upstream experiment: its settings and refusals, sums, intervals, verdict, and going on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cli
import models
from models import Geometry
from pipeline import settings as run_settings
from pipeline import split, train, upstream
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.experiment import blocks, drawing, findings, judging, occlusion, plan, reach
from pipeline.experiment.blocks import Draws
from pipeline.experiment.findings import Findings
from pipeline.experiment.judging import Judged, Windows
from pipeline.experiment.plan import ALONE, UPSTREAM, Regions, UpstreamSettings
from pipeline.metrics import Contingency, Errors
from pipeline.scorecard import Yardstick
from pipeline.sources.grids import Grid
from pipeline.sources.options import Options
from pipeline.sources.synthetic_world import World, fields, write
from pipeline.windows import of_other_dates, refuse_same_dates

torch.set_num_threads(1)

SETTINGS = """\
model: {name: st_rainnet, levels: 2, hidden: [4, 6]}
task: {past: 3, future: 1, targets: [rain]}
scaling: {kind: weather}
training: {epochs: 1, batch_size: 8, lr: 4.0e-3, device: cpu, validation_crops: 4,
  sample_every_epochs: 0}
upstream: {region: [90, 99, 31, 40], upstream: [80, 89, 31, 40], seeds: 1, controls: [mean]}
"""
SMALL = World(steps=120)
GRID = Grid(40 - np.arange(10.0), 80 + np.arange(30.0))  # as every World's
RAIN = Yardstick(0, 100, "mm", 1, "deg", hours=24.0)


def stored(home: Path, world: World, **how: float) -> Path:
    """World.zarr and its split, as the commands make them."""
    write(home / "world.nc", world)
    options = Options(variables=("rain", "moisture", "wind"), track_by="month")
    made = ConvertSettings(options=options)
    convert(home / "world.nc", home / "world.zarr", made, manifests=home, workers=1)
    split.split(home / "world.zarr", home / "world.split.json", **(how or {"eval_last": 0.5}))
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = stored(tmp_path_factory.mktemp("upstream"), SMALL)
    (home / "settings.yaml").write_text(SETTINGS)
    return home


def asked(home: Path, *more: str) -> tuple[run_settings.RunSettings, UpstreamSettings]:
    settings, of_it, _ = plan.load(home / "settings.yaml", more)
    data = home / "world.zarr", home / "world.split.json"
    return run_settings.located(settings, *data), of_it


def box(west: float, east: float, south: float = 31, north: float = 40) -> str:
    return f"[{west}, {east}, {south}, {north}]"


# Settings and what they refuse


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("task.region=[90, 99, 31, 40]", "task.region: an experiment sets it"),
        ("task.area=[90, 99, 31, 40]", "task.area: an experiment sets it"),
        ("training.patch_size=8", "neither move nor turn"),
        ("training.augment=true", "neither move nor turn"),
        (f"upstream.upstream={box(81, 90)}", "overlap it nor leave a gap; give it east 89"),
        (f"upstream.upstream={box(80, 87)}", "overlap it nor leave a gap; give it east 89"),
        (f"upstream.upstream={box(102, 109)}", "overlap it nor leave a gap; give it west 100"),
        (f"upstream.upstream={box(80, 89, 33, 40)}", "give both south 31 and north 40"),
        (f"upstream.upstream={box(10, 20)}", "holds no connected part"),
        ("task.coarsen=3", "multiples of 3 columns wide"),
        ("task.targets=[rain, moisture]", "one score cannot serve channels of several units"),
        ("training.device=cuda:9", "cuda:9"),
    ],
)
def test_what_would_be_no_experiment_is_refused(home: Path, more: str, words: str):
    settings, of_it = asked(home, more)
    with pytest.raises(UserError) as refused:
        plan.planned(settings, of_it)
    assert words in str(refused.value)


def test_a_model_that_does_not_forecast_is_refused(home: Path):
    (home / "other.yaml").write_text(SETTINGS.splitlines()[-1])
    settings, of_it, _ = plan.load(home / "other.yaml")
    with pytest.raises(UsageError, match=r"tempogan does not forecast.* st_rainnet"):
        plan.planned(run_settings.located(settings), of_it)


def test_other_date_needs_a_batch_of_two(home: Path):
    sets = ["training.batch_size=1", "upstream.controls=[other_date]"]
    with pytest.raises(UsageError, match="use 2 or more"):
        plan.planned(*asked(home, *sets))
    plan.planned(*asked(home, sets[0]))  # mean needs none


def test_settings_without_the_section_or_with_another_key(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("model: {name: st_rainnet}")
    with pytest.raises(UsageError, match="no section upstream"):
        plan.load(file)
    file.write_text(SETTINGS)
    with pytest.raises(
        UsageError, match=r"unknown setting upstream\.seed; did you mean upstream\.seeds"
    ):
        plan.load(file, ["upstream.seed=3"])
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        plan.load(file, ["upstream.seeds"])


def test_the_example_fits_the_grid_that_it_speaks_of():
    file = Path(__file__).parents[1] / "configs" / "upstream.yaml"
    settings, of_it, notes = plan.load(file)
    assert not notes
    grid = Grid(39.625 - np.arange(15), 95.375 + np.arange(45))  # 0.25 to 1 degree, by convert
    assert len(Regions.of(grid, of_it).arms(of_it.controls)) == 5
    geometry = Geometry((6, 56, 15, 30), (1, 1, 15, 30), floor=0.0, log_scale=5.0)
    with torch.device("meta"):
        made = models.build(settings.model_name, geometry, settings.model_settings)
    assert made.receptive_field()[1] >= 15  # columns of region 1


def test_regions_lie_beside_one_another_on_either_side():
    west = Regions.of(GRID, UpstreamSettings(region=(90, 99, 31, 40), upstream=(84, 89, 31, 40)))
    assert west.upstream_is_west
    assert [arm.area for arm in west.arms(["downstream", "mean"])] == [
        (90, 99, 31, 40),
        (84, 99, 31, 40),
        (90, 105, 31, 40),  # six columns as well
        (84, 99, 31, 40),
    ]
    assert [arm.outside for arm in west.arms(["other_date", "mean"])] == [
        "seen",
        "seen",
        "other_date",
        "mean",
    ]
    east = Regions.of(GRID, UpstreamSettings(region=(90, 99, 31, 40), upstream=(100, 103, 31, 40)))
    assert not east.upstream_is_west
    assert east.arms(["downstream"])[-1].area == (86, 99, 31, 40)


def test_a_downstream_region_must_be_on_the_grid():
    wide = UpstreamSettings(region=(95, 104, 31, 40), upstream=(80, 94, 31, 40))
    regions = Regions.of(GRID, wide)
    with pytest.raises(UserError, match=r"needs 15 columns on the other side.* the grid has 5"):
        regions.arms(["downstream"])
    assert len(regions.arms(["mean"])) == 3


def test_no_place_for_an_upstream_region_at_the_end_of_the_grid():
    beside = UpstreamSettings(region=(95, 109, 31, 40), upstream=(98, 103, 31, 40))
    with pytest.raises(UserError, match="reaches the east end of the grid"):
        Regions.of(GRID, beside)


def test_arms_differ_in_nothing_but_their_input(home: Path):
    made = plan.planned(*asked(home, "upstream.controls=[other_date, mean, downstream]"))
    assert [arm.name for arm in made.arms] == [
        ALONE,
        UPSTREAM,
        "other_date",
        "mean",
        "downstream",
    ]
    one = made.of(made.arms[0], 3)
    for arm in made.arms[1:]:
        different = run_settings.differing(one, made.of(arm, 3))
        assert set(different) <= {"task.area", "task.outside"}
        assert different
    assert one.training.seed == made.of(made.arms[0], 0).training.seed + 3
    assert made.parameters == sum(
        p.numel()
        for p in plan.model_of(
            made.settings, Geometry((3, 3, 9, 9), (1, 1, 9, 9), floor=0.0)
        ).parameters()
    )


def test_models_of_unequal_size_are_refused():
    sizes = {ALONE: torch.nn.Linear(2, 3), UPSTREAM: torch.nn.Linear(3, 3)}
    with pytest.raises(UserError, match=r"alone 9, upstream 12.*do not depend on the size"):
        plan.same_parameters(sizes)
    assert plan.same_parameters({**sizes, UPSTREAM: torch.nn.Linear(2, 3)}) == 9


# What a model can see


def test_an_upstream_region_out_of_sight_is_refused_with_the_way_out(home: Path):
    with pytest.raises(UserError) as refused:
        plan.planned(*asked(home, "task.past=1"))
    said = str(refused.value)
    assert "of region 1's 10 columns 6 lie within" in said  # one step: 2 + 4 columns
    assert "model.levels" in said
    assert "task.coarsen" in said
    made = plan.planned(*asked(home, "task.past=1", "upstream.min_reached=0.6"))
    assert (made.reach.reached, made.reach.columns) == (6, 10)
    plan.planned(*asked(home, "task.past=1", "model.levels=3", "model.hidden=[4, 4, 4]"))


@pytest.mark.parametrize("levels", [2, 3])
def test_what_is_measured_is_the_model_s_own_receptive_field(levels: int):
    geometry = Geometry((2, 1, 8, 96), (1, 1, 8, 96), floor=0.0)
    settings = {"levels": levels, "hidden": (3,) * levels, "arch": "published"}
    torch.manual_seed(0)
    made = models.build("st_rainnet", geometry, settings).eval()
    found = reach.measured(made, geometry, slice(48, 96))
    _, columns = made.receptive_field()
    assert columns - 2 ** (levels - 1) <= found.field <= columns
    assert columns - 2 ** (levels - 1) <= found.reached <= columns
    assert 0 < found.effective < found.field
    assert not found.whole


def test_a_norm_over_the_field_sees_everything():
    geometry = Geometry((2, 1, 8, 60), (1, 1, 8, 60), floor=0.0)
    settings = {"levels": 2, "hidden": (4, 4), "norm": True}
    made = models.build("st_rainnet", geometry, settings).eval()
    found = reach.measured(made, geometry, slice(30, 60))
    assert found.share == 1
    assert found.whole
    assert "the whole input" in str(found)


def test_within_counts_columns_from_the_middle():
    mass = np.array([0, 1, 0, 97, 0, 1, 1])
    assert reach.within(mass, 3, 0.97) == 0
    assert reach.within(mass, 3, 0.98) == 2
    assert reach.within(mass, 3, 1.0) == 3
    assert reach.within(np.zeros(5), 2) == 0


# Sums and scores


class Told:
    """Answers that were given beforehand, one window of one track after the other."""

    def __init__(self, answer: torch.Tensor, truth: torch.Tensor, borrows: bool = False) -> None:
        self.answer, self.truth, self.asked = answer, truth, []
        self.task = SimpleNamespace(scored_window=2, borrows=borrows)

    def posed(self, frames, split, donors):
        numbers = frames[:, 0, 0, 0, 0].astype(int)
        others = None if donors is None else donors[:, 0, 0, 0, 0].astype(int).tolist()
        self.asked.append((numbers.tolist(), others))
        return SimpleNamespace(truth=self.truth[numbers], numbers=numbers)

    def of(self, row, posed):
        return self.answer[posed.numbers]


class Numbered:
    """A track whose frames say which they are."""

    def checked(self, first: int, count: int) -> np.ndarray:
        return np.arange(first, first + count, dtype=np.float32).reshape(-1, 1, 1, 1)


def rain(*shape: int, seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return 60 * torch.rand(shape, generator=source) ** 3


def test_sums_are_those_of_the_scores_elsewhere():
    answer, truth = rain(21, 2, 1, 5, 6, seed=1), rain(21, 2, 1, 5, 6, seed=2)
    truth[:, :, :, 0] = torch.nan
    windows = Windows(np.zeros(21, int), np.arange(21), np.arange(21))
    told = Told(answer, truth)
    methods = {"a": (told, "model"), "b": (Told(truth, truth), "model")}
    both = judging.judged(methods, [Numbered()], windows, RAIN)
    assert both["b"].sums[:, 0].sum() == 0
    found = both["a"]
    names = judging.names(RAIN)
    assert [len(numbers) for numbers, _ in told.asked] == [7, 7, 7]
    scores = judging.scores(names, found.sums.sum(0))
    errors = Errors.of(answer, truth, 100.0)
    assert scores["rmse"] == pytest.approx(errors.scores()["rmse"])
    for name, limit in RAIN.thresholds.items():
        table = Contingency.of(answer, truth, limit)
        assert scores[f"csi_{name}"] == pytest.approx(table.scores()["csi"])
    one = Errors.of(answer[4], truth[4], 100.0)
    assert found.sums[4][:2] == pytest.approx([one.squared, one.pixels])
    assert found.squared.sum() == pytest.approx(errors.squared)
    assert found.pixels.sum() == errors.pixels
    assert not found.pixels[0].any()


def test_without_rain_there_is_the_rmse_alone():
    kelvin = Yardstick(180, 310, "K", 1, "deg")
    assert judging.names(kelvin) == ["squared", "pixels"]
    assert list(judging.scores(["squared", "pixels"], np.array([8.0, 2.0]))) == ["rmse"]
    assert judging.scores(["squared", "pixels"], np.array([8.0, 2.0]))["rmse"] == 2


def test_no_event_is_no_score():
    names = judging.names(RAIN)
    scores = judging.scores(names, np.array([4.0, 1.0, *[0.0] * 9]))
    assert scores["rmse"] == 2
    assert math.isnan(scores["csi_heavy"])


def test_upstream_of_another_date_is_of_the_same_track_half_of_it_away():
    truth = torch.zeros(8, 1, 1, 1, 1)
    told = Told(truth, truth, borrows=True)
    windows = Windows(np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 2, 3, 4, 5]), np.arange(6))
    judging.judged({0: (told, "model")}, [Numbered(), Numbered()], windows, RAIN)
    [(own, others)] = told.asked
    assert own == [0, 1, 2, 3, 4, 5]
    assert others == [1, 0, 4, 5, 2, 3]


def test_an_experiment_with_other_dates_needs_other_dates(home: Path, tmp_path: Path):
    """Tracks of five days, ten frames: seven windows of four, of which the middle one has none."""
    options = Options(variables=("rain", "moisture", "wind"), track_by="5d")
    made = ConvertSettings(options=options)
    convert(home / "world.nc", tmp_path / "w.zarr", made, manifests=tmp_path, workers=1)
    split.split(tmp_path / "w.zarr", tmp_path / "w.json", eval_last=0.3)

    def planned(*more: str) -> plan.Plan:
        settings, of_it = asked(home, *more)
        data = tmp_path / "w.zarr", tmp_path / "w.json"
        return plan.planned(run_settings.located(settings, *data), of_it)

    with pytest.raises(UserError) as refused:
        planned("upstream.controls=[mean, other_date]")
    said = str(refused.value)
    assert "its 7 windows of 4 frames are too few for other_date" in said
    assert said.endswith("or leave other_date out of upstream.controls")
    planned()


@pytest.mark.parametrize(("windows", "shared"), [(7, 7), (8, 0), (9, 0), (2, 2), (0, 0)])
def test_a_window_of_another_date_shares_no_frame(windows: int, shared: int):
    firsts, where = np.arange(windows), Path("w.zarr/a")
    if shared:
        with pytest.raises(UserError, match=rf"w\.zarr/a: its {windows} windows"):
            refuse_same_dates(firsts, 4, where)
    else:
        refuse_same_dates(firsts, 4, where)


def test_evaluation_and_experiment_take_the_same_other_dates():
    windows = Windows(np.repeat([0, 1], [5, 8]), np.arange(13) + 100, np.arange(13))
    others = windows.first[windows.of_other_dates]
    parts = [of_other_dates(windows.first[:5]), of_other_dates(windows.first[5:])]
    assert others.tolist() == np.concatenate(parts).tolist()
    assert (windows.track[windows.of_other_dates] == windows.track).all()


# Intervals


def series(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    """(n,) of mean 0 and variance 1; memory: what is left from one step to the next."""
    made = np.empty(n)
    made[0] = rng.normal()
    for i in range(1, n):
        made[i] = memory * made[i - 1] + math.sqrt(1 - memory**2) * rng.normal()
    return made


def mean_interval(values: np.ndarray, block: int, resamples: int = 200, seed: int = 0):
    rng = np.random.default_rng(seed)
    drawn = blocks.blocks_drawn(np.zeros(len(values), int), block, resamples, rng)
    means = drawn @ values / drawn.sum(1)
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize(
    ("memory", "block"), [pytest.param(0.0, 2, marks=pytest.mark.slow), (0.5, 12)]
)
def test_intervals_hold_what_they_promise(memory: float, block: int):
    rng = np.random.default_rng(1)
    trials = 120
    held = 0
    for trial in range(trials):
        low, high = mean_interval(series(rng, 500, memory), block, seed=trial)
        held += low <= 0 <= high
    assert 0.87 <= held / trials <= 0.99  # of 0.95; blocks of one would hold 0.73 of the last


def test_blocks_make_the_interval_of_what_resembles_itself_wider():
    values = series(np.random.default_rng(2), 2000, 0.9)
    (low, high), (low1, high1) = mean_interval(values, 60), mean_interval(values, 1)
    assert (high - low) > 2.5 * (high1 - low1)
    fresh = series(np.random.default_rng(3), 2000, 0.0)
    (low, high), (low1, high1) = mean_interval(fresh, 60), mean_interval(fresh, 1)
    assert (high - low) == pytest.approx(high1 - low1, rel=0.25)


def test_a_block_stays_in_its_track_and_goes_round_in_it():
    track = np.repeat([0, 1, 2], [7, 3, 12])
    drawn = blocks.blocks_drawn(track, 5, 4000, np.random.default_rng(0))
    assert drawn.mean(0) == pytest.approx(np.full(22, drawn.mean()), rel=0.1)  # all alike often
    short = drawn[:, track == 1]  # shorter than a block: drawn whole
    assert (short == short[:, :1]).all()
    alone = blocks.blocks_drawn(np.zeros(6, int), 3, 50, np.random.default_rng(0))
    assert (alone.sum(1) == 6).all()
    assert blocks.number_of_blocks(track, 5) == pytest.approx(7 / 5 + 1 + 12 / 5)


def test_how_long_a_series_resembles_itself():
    track = np.zeros(4000, int)
    found = blocks.alike_for(series(np.random.default_rng(0), 4000, 0.9), track)
    assert 7 <= found <= 13  # 0.9 ** 9.5 is 1/e
    assert blocks.alike_for(series(np.random.default_rng(0), 4000, 0.0), track) == 1
    halves = np.repeat([0, 1], 5)
    assert blocks.alike_for(np.ones(10), halves) == 1  # a constant has no memory


# Findings


def sums(rmse: float, rng: np.random.Generator, seeds: int = 3, n: int = 240, luck: float = 0.02):
    """(seeds, n, 11): windows of 10 pixels, the errors of all arms alike but for their size."""
    hard = np.random.default_rng(0).gamma(4, 0.25, n)  # the dates', the same for all
    squared = 10 * rmse**2 * hard * rng.lognormal(0, 0.1, (seeds, n))
    squared *= rng.lognormal(0, luck, (seeds, 1))
    made = np.zeros((seeds, n, 11))
    made[..., 0], made[..., 1] = squared, 10
    made[..., 2::3] = np.rint(10 / rmse)  # hits
    made[..., 3::3] = made[..., 4::3] = 3
    return made


def findings_of(n: int = 240, seeds: int = 3, block: int = 6, **rmse: float) -> Findings:
    rng = np.random.default_rng(5)
    by_arm = {arm: sums(value, rng, seeds, n) for arm, value in rmse.items()}
    track = np.repeat([0, 1], [n // 2, n - n // 2])
    return Findings(
        names=judging.names(RAIN),
        sums=by_arm,
        baseline=Judged(sums(3, rng, 1, n)[0], np.zeros((1, 1)), np.zeros((1, 1))),
        baseline_name="persistence",
        windows=Windows(track, np.arange(n), np.arange(n)),
        draws=Draws.of(track, block, seeds, 300),
        block=block,
        units="mm",
    )


def test_influence_is_found_where_all_comparisons_are_won():
    found = findings_of(alone=2.0, upstream=1.5, mean=2.0, downstream=2.1)
    assert found.found
    first = found.deciding[0]
    assert first.difference == pytest.approx(0.5, abs=0.1)
    assert first.interval[0] < first.difference < first.interval[1]
    assert first.seeds_won == 3
    said = found.verdict()
    assert said.startswith("Influence found: ")
    assert "downstream instead" in said
    light = next(c for c in found.comparisons if c.score == "csi_light")
    assert light.difference < 0  # experiment 1 minus 2: less is worse
    assert light.won
    assert light.seeds_won == 3


@pytest.mark.parametrize(
    ("rmse", "said"),
    [
        ({"alone": 2.0, "mean": 1.5}, "not clearly lower than that of upstream filled"),
        ({"alone": 1.5, "mean": 2.0}, "not clearly lower than that of experiment 1"),
        ({"alone": 1.2, "mean": 2.0}, "No influence found: with region 2 the RMSE over region 1"),
        ({"alone": 2.0}, "no control was run"),
    ],
)
def test_one_comparison_that_is_not_won_is_enough_to_say_no(rmse: dict, said: str):
    arms = {"alone": rmse["alone"], "upstream": 1.5, **rmse}
    found = findings_of(**arms)
    assert not found.found
    assert said in found.verdict()


def test_few_seeds_and_few_blocks_establish_nothing():
    arms = {"alone": 2.0, "upstream": 1.0, "mean": 2.0}
    assert "one seed cannot tell" in findings_of(seeds=1, **arms).verdict()
    assert "2 seeds cannot tell" in findings_of(seeds=2, **arms).verdict()
    few = findings_of(n=24, block=6, **arms)
    assert "4.0 independent blocks of 6 windows" in few.verdict()
    assert all(math.isnan(end) for c in few.comparisons for end in c.interval)
    json.dumps(findings.plain(few), allow_nan=False)


def test_luck_of_the_seeds_widens_the_interval():
    rng = np.random.default_rng(1)
    track = np.zeros(240, int)
    draws = Draws.of(track, 6, 5, 400)
    width = {}
    for luck in (0.0, 0.3):
        scores = draws.scores(judging.names(RAIN), sums(2.0, rng, 5, luck=luck))["rmse"]
        low, high = np.quantile(scores, [0.025, 0.975])
        width[luck] = high - low
    assert width[0.3] > 1.5 * width[0.0]


def test_what_is_hard_for_all_arms_cancels():
    found = findings_of(alone=2.0, upstream=1.9, mean=2.0)
    (low, high), (own_low, own_high) = found.deciding[0].interval, found.intervals[ALONE]["rmse"]
    assert high - low < 0.7 * (own_high - own_low)


def test_blocks_that_are_too_short_are_said():
    rng = np.random.default_rng(0)
    found = findings_of(alone=2.0, upstream=1.5, mean=2.0)
    found.sums[ALONE][..., 0] += 400 + 100 * series(rng, 240, 0.95)
    assert found.alike_for > 3
    assert any("may be too short" in note for note in found.notes())


@pytest.mark.parametrize(("seeds", "short"), [(3, "18%"), (4, "13%"), (5, "11%"), (6, "")])
def test_how_much_too_narrow_few_seeds_make_an_interval_is_said(seeds: int, short: str):
    found = findings_of(seeds=seeds, alone=2.0, upstream=1.5, mean=2.0)
    told = [note for note in found.notes() if "too narrow" in note]
    assert len(told) == bool(short)
    assert all(f"{seeds} seeds" in note and f"about {short} too" in note for note in told)


def test_the_seeds_part_of_an_interval_is_as_narrow_as_is_said():
    """Of seeds alone that differ: drawn again, their means spread less than new trainings' do."""
    rng = np.random.default_rng(0)
    S, widths = 3, []
    for seed in range(300):
        drawn = Draws.of(np.zeros(6, int), 6, S, 200, seed).seeds @ rng.normal(size=S) / S
        widths.append(drawn.var())
    assert np.mean(widths) == pytest.approx((1 / S) * (S - 1) / S, rel=0.15)  # of 1 / S


def test_csv_and_json_say_the_same():
    found = findings_of(alone=2.0, upstream=1.5, mean=2.0)
    told, rows = findings.plain(found), findings.rows(found)
    row = next(
        r for r in rows if (r["what"], r["arm"], r["score"]) == ("difference", "mean", "rmse")
    )
    kept = next(d for d in told["differences"] if (d["arm"], d["score"]) == ("mean", "rmse"))
    assert kept["value"] == row["value"]
    assert kept["interval"] == [row["low"], row["high"]]
    assert kept["upstream_is"] == "better"
    assert told["scores"]["persistence"]["rmse"]["by_seed"] == []
    assert len(told["scores"]["mean"]["rmse"]["by_seed"]) == 3


# What the model looks at


def test_only_what_the_forecast_depends_on_matters():
    """A model that says of each pixel what was three columns west of it."""
    task = SimpleNamespace(scored_window=2, judged=lambda y: y[..., 16:])
    truth = torch.zeros(3, 1, 1, 16, 16)
    source = torch.Generator().manual_seed(0)
    posed = SimpleNamespace(
        filled=torch.rand((3, 1, 1, 16, 32), generator=source) + 1, x=None, truth=truth
    )
    answers = SimpleNamespace(
        task=task,
        rolled_out=lambda x: x.roll(3, -1),
        problem=SimpleNamespace(
            x=SimpleNamespace(neutral=(0.0,)), of_model=lambda answer, x: answer
        ),
    )
    found = occlusion.importance(answers, posed)
    assert found.shape == (8, 16)  # blocks of two
    columns = found.mean(0)
    assert not columns[:6].any()  # 0 to 11
    assert columns[6] == pytest.approx(columns[7] / 2, rel=0.2)  # of 12 and 13 the second alone
    assert (columns[6:14] > 0).all()
    assert not columns[15].any()


class Shifted(torch.nn.Module):
    """Says of each pixel what is so many columns west of it, and half as much of itself."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(self.columns, -1) + 0.5 * x


def test_what_trained_models_look_at():
    x = torch.rand(2, 1, 1, 4, 20)
    found = reach.Looked.of([Shifted(2), Shifted(4)], x, slice(10, 20))
    assert found.effective == 3  # the mean of 2 and 4
    # Of 10 columns 2 and 4 look at region 2, each with 1 of 1.5
    assert found.upstream == pytest.approx((2 / 15 + 4 / 15) / 2)


def test_a_scale_ends_at_a_round_number():
    assert [drawing.rounded_up(v) for v in (0.3, 1.0, 4.1, 12.0)] == pytest.approx([0.5, 1, 5, 20])


# The invented world


def test_in_the_invented_world_upstream_tells_what_comes_or_does_not():
    home, last = slice(10, 12), slice(7, 9)  # three columns from one step to the next
    told = {}
    for influence in (True, False):
        made = fields(World(influence=influence, seed=3))
        before = made["moisture"][:-1, :, last].mean(2).ravel()
        after = made["rain"][1:, :, home].mean(2).ravel()
        told[influence] = np.corrcoef(before, after)[0, 1]
    assert told[True] > 0.6
    assert abs(told[False]) < 0.1


def test_both_worlds_have_the_same_rain():
    shares = []
    for influence in (True, False):
        everywhere = fields(World(influence=influence, steps=2000))["rain"]
        assert not everywhere[..., :10].any()
        rain = everywhere[..., 10:20]
        shares.append([(rain > 1).mean(), (rain > 10).mean(), rain.mean() / 10])
    assert shares[0] == pytest.approx(shares[1], rel=0.2)


# From settings to a page


class Watched:
    """Trains as train does, and remembers which; stops before the end when told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.runs: list[str] = []
        self.stop_at = stop_at

    def __call__(self, settings, run: Path, *, resume: bool = False):
        self.runs.append(f"{run.parent.name}/{run.name}")
        if len(self.runs) == self.stop_at:
            raise KeyboardInterrupt
        return train.train(settings, run, resume=resume)


def test_an_experiment_goes_on_where_it_stopped(home: Path):
    out, first = home / "out", Watched(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        upstream.upstream(*asked(home), out, train=first)
    assert first.runs == ["alone/seed-0", "upstream/seed-0", "mean/seed-0"]
    assert not (out / "upstream.json").exists()
    ahead = upstream.rehearsed(*asked(home), out)  # 59 windows, 8 in a step
    assert "experiment 1, region 1 alone: 1 training of 7 steps, 1 of them done" in ahead
    assert ahead[-1].endswith("; 7 steps to go")

    second = Watched()
    done = upstream.upstream(*asked(home), out, train=second)
    assert second.runs == ["mean/seed-0"]
    told = json.loads(done.file.read_text())
    assert told["verdict"].startswith("No influence can be established: one seed")
    assert told["format"] == "eddy upstream 1"
    assert set(told["scores"]) == {ALONE, UPSTREAM, "mean", "persistence"}
    assert told["units"] == "mm"
    page = done.page.read_text()
    assert told["verdict"] in page.replace("&#39;", "'")
    assert "http" not in page.replace("http-equiv", "")
    assert len(done.pictures) == 5
    lines = (out / "windows.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * told["windows"]

    more = Watched(stop_at=1)  # another seed adds its runs alone
    with pytest.raises(KeyboardInterrupt):
        upstream.upstream(*asked(home, "upstream.seeds=2"), out, train=more)
    assert more.runs == ["alone/seed-1"]

    with pytest.raises(UserError, match=r"training\.lr was 0\.004, now 0\.01.*another --out"):
        upstream.upstream(*asked(home, "training.lr=0.01"), out, train=Watched())
    with pytest.raises(UserError, match=r"upstream\.upstream was .* choose another --out"):
        upstream.upstream(*asked(home, f"upstream.upstream={box(82, 89)}"), out, train=Watched())


def test_a_dry_run_writes_nothing(home: Path, tmp_path: Path):
    words = ["--store", home / "world.zarr", "--split", home / "world.split.json", "--seeds", 2]
    words = ["upstream", home / "settings.yaml", *words, "--out", tmp_path / "none"]
    said = CliRunner().invoke(cli.app, [str(word) for word in [*words, "--dry-run"]])
    assert said.exit_code == 0, said.output
    assert "6 trainings, " in said.stdout
    assert "; 42 steps to go" in said.stdout  # 3 arms, 2 seeds, 7 steps
    assert said.stdout.splitlines()[-1] == f"Next      cli {' '.join(map(str, words))}"
    assert not list(tmp_path.iterdir())


def test_a_training_that_was_told_to_stop_stops_the_experiment(home: Path):
    def half(settings, run: Path, *, resume: bool = False):
        fewer = settings.training.model_copy(update={"epochs": 1})
        return train.train(settings.model_copy(update={"training": fewer}), run, resume=resume)

    settings, of_it = asked(home, "training.epochs=2")
    with pytest.raises(KeyboardInterrupt):
        upstream.upstream(settings, of_it, home / "half", train=half)
    assert not (home / "half" / "upstream").exists()


def test_an_experiment_of_which_nothing_was_trained_may_become_another(home: Path):
    def refused(settings, run: Path, *, resume: bool = False):
        run.mkdir(parents=True)
        raise UserError("no such thing")

    out = home / "refused"
    with pytest.raises(UserError, match="no such thing"):
        upstream.upstream(*asked(home), out, train=refused)
    assert (out / "experiment.yaml").exists()
    first = Watched(stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        upstream.upstream(*asked(home, "training.lr=0.01"), out, train=first)
    assert first.runs == ["alone/seed-0"]
    assert "lr: 0.01" in (out / "experiment.yaml").read_text()


def test_what_training_would_refuse_leaves_no_folder(home: Path):
    with pytest.raises(UserError, match="one score cannot serve"):
        upstream.upstream(*asked(home, "task.targets=[]"), home / "never", train=Watched())
    assert not (home / "never").exists()


def test_a_folder_that_holds_something_else_is_left_alone(home: Path):
    for place, words in (("world.zarr", "something else"), ("world.nc", "is a file")):
        with pytest.raises(UserError, match=words):
            upstream.upstream(*asked(home), home / place, train=Watched())


def test_the_command_refuses_in_one_sentence(home: Path):
    words = ["upstream", str(home / "settings.yaml"), "--store", str(home / "world.zarr")]
    words += ["--split", str(home / "world.split.json"), "--out", str(home / "cli")]
    done = CliRunner().invoke(cli.app, [*words, "--set", f"upstream.upstream={box(80, 88)}"])
    assert done.exit_code == 1
    assert "give it east 89" in done.stderr
    assert "Traceback" not in done.output
    assert not (home / "cli").exists()


@pytest.mark.slow
@pytest.mark.parametrize("influence", [True, False])
def test_a_known_influence_is_found_and_none_where_there_is_none(tmp_path: Path, influence: bool):
    world = World(influence=influence, columns=8, steps=450)
    stored(tmp_path, world, eval_last=0.3)
    (tmp_path / "settings.yaml").write_text(f"""
        model: {{name: st_rainnet, levels: 2, hidden: [8, 12]}}
        task: {{past: 2, future: 1, targets: [rain]}}
        scaling: {{kind: weather}}
        training: {{epochs: 4, batch_size: 16, lr: 6.0e-3, ema: 0.95, device: cpu}}
        upstream: {{region: {list(world.box(1))}, upstream: {list(world.box(0))}, seeds: 3}}
        """)
    words = ["upstream", str(tmp_path / "settings.yaml"), "--store", str(tmp_path / "world.zarr")]
    words += ["--split", str(tmp_path / "world.split.json"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "upstream.json").read_text())
    assert told["found"] == influence, told["verdict"]
    assert told["verdict"] in done.output
    gains = {d["arm"]: d for d in told["differences"] if d["score"] == "rmse"}
    assert set(gains) == {"alone", "other_date", "mean", "downstream"}
    assert all((each["interval"][0] > 0) == influence for each in gains.values())
    if influence:
        assert all(each["seeds_won"] == 3 for each in gains.values())
        assert gains["alone"]["value"] > 0.5  # mm, of about 4
