"""Ensembles: against the scores package, an integral and the laws of chance."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from scores.probability import crps_for_ensemble

from pipeline.metrics import Ensemble


def rain(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """60 % is exactly 0, so that truth and members are often equal."""
    rng = np.random.default_rng(seed)
    return torch.tensor(np.where(rng.random(shape) < 0.6, 0, rng.gamma(2, 2, shape)))


def integral(members: np.ndarray, truth: float) -> float:
    """The definition: of the squared difference of the two distribution functions."""
    edges = np.sort(np.append(members, truth))
    total = 0.0
    for a, b in pairwise(edges):
        total += (b - a) * (float((members <= a).mean()) - float(truth <= a)) ** 2
    return total


def test_crps_where_the_truth_equals_a_member():
    """A published implementation gives 0 here."""
    members = torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1)
    assert Ensemble.of(members, torch.ones(1, 1)).scores()["crps"] == pytest.approx(2 / 9)


def test_crps_is_the_integral_of_its_definition():
    members, truth = rain(0, (5, 12, 14)), rain(1, (12, 14))
    expected = np.mean(
        [integral(members[:, i, j].numpy(), float(truth[i, j])) for i, j in np.ndindex(12, 14)]
    )
    assert Ensemble.of(members, truth).scores()["crps"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fair", [False, True])
def test_crps_is_that_of_another_package(fair):
    members, truth = rain(0, (6, 2, 12, 14)), rain(1, (2, 12, 14))
    truth[0, :3] = torch.nan
    expected = crps_for_ensemble(
        xr.DataArray(members.numpy(), dims=["m", "t", "y", "x"]),
        xr.DataArray(truth.numpy(), dims=["t", "y", "x"]),
        "m",
        method="fair" if fair else "ecdf",
    )
    found = Ensemble.of(members, truth, fair=fair).scores()["crps"]
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_of_one_member_crps_is_the_absolute_error():
    member, truth = rain(0, (12, 14)), rain(1, (12, 14))
    found = Ensemble.of(member[None], truth).scores()
    assert found["crps"] == pytest.approx(float((member - truth).abs().mean()), rel=1e-12)
    assert math.isnan(found["spread"])
    assert math.isnan(Ensemble.of(member[None], truth, fair=True).scores()["crps"])


def test_spread_and_skill_are_those_of_numpy():
    members, truth = rain(0, (6, 12, 14)).numpy(), rain(1, (12, 14)).numpy()
    found = Ensemble.of(torch.from_numpy(members), torch.from_numpy(truth)).scores()
    assert found["spread"] == pytest.approx(np.sqrt(members.var(axis=0, ddof=1).mean()))
    skill = np.sqrt(np.square(members.mean(axis=0) - truth).mean())
    assert found["skill"] == pytest.approx(skill)
    assert found["spread_skill_ratio"] == pytest.approx(found["spread"] / skill * (7 / 6) ** 0.5)


@pytest.mark.parametrize("M", [2, 3, 8])
def test_a_truth_that_could_be_a_member_has_ratio_1_and_flat_ranks(M):
    both = torch.tensor(np.random.default_rng(0).normal(0, 3, (M + 1, 200, 200)))
    made = Ensemble.of(both[1:], both[0])
    assert made.scores()["spread_skill_ratio"] == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(made.ranks / made.pixels, 1 / (M + 1), rtol=0.05)
    narrow = Ensemble.of(both[1:] / 2, both[0])
    assert narrow.scores()["spread_skill_ratio"] < 0.8
    assert narrow.ranks[0] > 1.2 * made.ranks[0]


def test_ranks_count_the_members_below():
    members = torch.arange(4.0).reshape(4, 1, 1).expand(4, 1, 6)
    truth = torch.tensor([[-1.0, 0.5, 0.6, 2.5, 9.0, torch.nan]])
    assert Ensemble.of(members, truth).ranks.tolist() == [1, 2, 0, 1, 1]


def test_ties_are_broken_at_random_by_the_seed_alone():
    dry = torch.zeros(4, 3, 100, 100)
    made = Ensemble.of(dry, dry[0])
    np.testing.assert_allclose(made.ranks / 30_000, 0.2, rtol=0.05)
    assert Ensemble.of(dry, dry[0]) == made
    assert Ensemble.of(dry, dry[0], seed=1) != made


def test_ties_with_some_members_stay_among_them():
    members = torch.tensor([0.0, 0.0, 5.0, 7.0]).reshape(4, 1, 1).expand(4, 100, 100)
    ranks = Ensemble.of(members, torch.zeros(100, 100)).ranks
    assert ranks[3:].tolist() == [0, 0]
    np.testing.assert_allclose(ranks[:3] / 10_000, 1 / 3, rtol=0.1)


def test_neither_memory_order_nor_precision_changes_the_ranks():
    members, truth = rain(0, (3, 12, 14)), rain(1, (12, 14))
    expected = Ensemble.of(members, truth)
    turned = members.mT.contiguous().mT, truth.mT.contiguous().mT
    assert Ensemble.of(*turned).ranks.tolist() == expected.ranks.tolist()
    before = members.clone()
    Ensemble.of(members, torch.where(truth > 3, torch.nan, truth))
    assert members.equal(before)  # what is scored is not written to
