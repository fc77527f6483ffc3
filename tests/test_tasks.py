"""Tasks: low resolution is made from the frames, and nothing is known but them."""

import numpy as np
import pytest
import torch

from pipeline import tasks
from pipeline.errors import UserError
from pipeline.tasks import SuperResolutionSettings
from pipeline.tasks.conservation import conserved
from pipeline.tasks.interpolation import coarsen, refine

KELVIN = {"name": "Tb", "units": "K", "valid_min": 150, "valid_max": 350}


def task(**settings):
    return tasks.build("superres", SuperResolutionSettings(**settings), 3, [KELVIN])


def frames(seed: int = 0, shape=(2, 3, 1, 16, 24)) -> torch.Tensor:
    return 200 + 100 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_area_is_the_mean_of_each_block(factor):
    y = frames()
    blocks = y.numpy().astype(np.float64).reshape(2, 3, 1, 16 // factor, factor, -1, factor)
    np.testing.assert_allclose(coarsen(y, factor, "area"), blocks.mean(axis=(4, 6)), rtol=1e-6)


def test_area_takes_the_mean_of_what_was_seen():
    y = frames()
    y[..., 0, 0] = torch.nan  # one pixel of the first block
    y[..., 4:8, 4:8] = torch.nan  # a whole block
    x = coarsen(y, 4, "area")
    blocks = y.numpy().astype(np.float64)[..., :4, :4]
    np.testing.assert_allclose(x[..., 0, 0], np.nanmean(blocks, axis=(-2, -1)), rtol=1e-6)
    assert x[..., 1, 1].isnan().all()
    assert int(x.isnan().sum()) == 2 * 3


@pytest.mark.parametrize("how", ["area", "bicubic", "bilinear"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_constant_field_stays_constant_both_ways(how, factor):
    made = task(coarsening=how, factor=factor)
    x, y = made.split(torch.full((1, 3, 1, 16, 16), 271.25))
    assert x.shape == (1, 3, 1, 16 // factor, 16 // factor)
    torch.testing.assert_close(x, torch.full_like(x, 271.25))
    torch.testing.assert_close(made.baseline("bicubic", x), y)


@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_interpolation_is_torch_s_with_anti_aliasing(how):
    y = frames()
    expected = torch.nn.functional.interpolate(
        y.flatten(0, 1), (4, 6), mode=how, antialias=True, align_corners=False
    )
    assert torch.equal(coarsen(y, 4, how).flatten(0, 1), expected)
    y[0, 0, 0, 8, 8] = torch.nan
    assert coarsen(y, 4, how)[0, 0, 0, 2, 2].isnan()


def test_the_baseline_is_bicubic():
    x = coarsen(frames(), 4, "area")
    expected = torch.nn.functional.interpolate(
        x.flatten(0, 1), scale_factor=4, mode="bicubic", align_corners=False
    )
    assert torch.equal(task().baseline("bicubic", x).flatten(0, 1), expected)


def test_frames_and_channels_are_not_mixed():
    y = frames(shape=(2, 3, 2, 8, 8))
    for how in ("area", "bicubic", "bilinear"):
        x = coarsen(y, 4, how)
        assert x.shape == (2, 3, 2, 2, 2)
        torch.testing.assert_close(x[1:, 2:, 1:], coarsen(y[1:, 2:, 1:], 4, how))
        torch.testing.assert_close(
            refine(x, 4, "bicubic")[1:, 2:, 1:], refine(x[1:, 2:, 1:], 4, "bicubic")
        )


def test_rows_that_fill_no_coarse_pixel_are_left_out_of_both():
    y = frames(shape=(1, 3, 1, 18, 23))
    x, kept = task().split(y)
    assert x.shape[-2:] == (4, 5)
    assert torch.equal(kept, y[..., :16, :20])


def test_orientation_and_coarsening_may_be_swapped():
    y = frames()
    torch.testing.assert_close(coarsen(y.flip(-1), 4, "area"), coarsen(y, 4, "area").flip(-1))


def test_geometry_states_one_window():
    found = task().geometry((1, 512, 384))
    assert (found.x, found.y) == ((3, 1, 128, 96), (3, 1, 512, 384))
    x, y = task().split(frames())
    found = task().geometry((1, 16, 24))
    assert (tuple(x.shape[1:]), tuple(y.shape[1:])) == (found.x, found.y)
    assert task(coarsening="area").geometry((1, 8, 8)).block_means
    assert not task(coarsening="bicubic").geometry((1, 8, 8)).block_means


@pytest.mark.parametrize("shape", [(1, 18, 16), (1, 16, 18), (1, 3, 3)])
def test_a_factor_that_does_not_divide(shape):
    with pytest.raises(UserError, match=r"cannot be coarsened 4 times; 4 must divide both"):
        task().geometry(shape)


@pytest.mark.parametrize("factor", [2, 3, 5, 40, 100])
def test_any_factor(factor):
    y = frames(shape=(1, 1, 1, 2 * factor, 3 * factor))
    made = task(factor=factor)
    x, _ = made.split(y)
    assert x.shape[-2:] == (2, 3)
    for name in made.rows():
        assert made.baseline(name, x).shape == y.shape, name
    torch.testing.assert_close(x.mean(), y.mean())  # mass
    assert made.geometry((1, 2 * factor, 3 * factor)).x == (3, 1, 2, 3)


def test_bilinear_is_torch_s():
    x = coarsen(frames(), 4, "area")
    expected = torch.nn.functional.interpolate(
        x.flatten(0, 1), scale_factor=4, mode="bilinear", align_corners=False
    )
    assert torch.equal(task().baseline("bilinear", x).flatten(0, 1), expected)


def test_interpolated_truth_is_bilinear_of_the_frames():
    made = task(truth="interpolated", factor=3)
    given = frames(shape=(2, 3, 1, 5, 7))
    x, y = made.split(given)
    assert torch.equal(x, given)
    assert y.shape == (2, 3, 1, 15, 21)
    assert torch.equal(made.baseline("bilinear", x), y)  # so there is nothing to learn
    geometry = made.geometry((1, 5, 7))
    assert (geometry.x, geometry.y) == ((3, 1, 5, 7), (3, 1, 15, 21))
    assert not geometry.block_means
    assert "bicubic_means" not in made.rows()  # its block means are not x
    assert (coarsen(y, 3, "area") - x).abs().max() > 0.1


def test_a_hole_in_what_is_interpolated_is_a_hole_in_the_truth():
    given = frames(shape=(1, 1, 1, 5, 5))
    given[..., 2, 2] = torch.nan
    _, y = task(truth="interpolated").split(given)
    assert y[0, 0, 0, 8:12, 8:12].isnan().all()
    assert not y[0, 0, 0, :6, :6].isnan().any()


@pytest.mark.parametrize("given", [{"coarsening": "bicubic"}, {"truth": "interpolated"}])
def test_mass_is_conserved_only_where_x_says_what_it_is(given):
    for how in ("additive", "multiplicative"):
        with pytest.raises(ValueError, match=rf"conserve_mass {how} is for x that is the mean"):
            SuperResolutionSettings(conserve_mass=how, **given)
    assert SuperResolutionSettings(**given).conserve_mass == "none"


def showers(seed: int, shape=(2, 1, 1, 16, 24)) -> torch.Tensor:
    """mm: mostly none, and long-tailed."""
    some = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (some * 2).exp() * (some > 0.5)


@pytest.mark.parametrize("how", ["additive", "multiplicative"])
def test_conserved_rain_has_the_block_means_and_is_not_negative(how):
    truth = showers(0)
    x = coarsen(truth, 4, "area")
    guess = showers(1) - 0.5  # with negative values
    made = conserved(guess, x, 4, how, (0.0,))
    torch.testing.assert_close(coarsen(made, 4, "area"), x, rtol=1e-5, atol=1e-6)
    assert made.min() >= 0
    assert not made.isnan().any()
    assert torch.equal(conserved(guess, x, 4, "none", (0.0,)), guess)


def test_the_additive_one_is_the_nearest_field_there_is():
    """So that no truth with these means gets farther away; found here by brute force."""
    truth, guess = showers(0), showers(1) - 0.5
    x = coarsen(truth, 4, "area")
    made = conserved(guess, x, 4, "additive", (0.0,))
    for block in range(6):
        part = (0, 0, 0, slice(0, 4), slice(4 * block, 4 * block + 4))
        low, high = -1e4, 1e4
        for _ in range(100):  # what is taken from each pixel, by bisection
            middle = (low + high) / 2
            left = (guess[part].double() - middle).clamp(min=0).mean()
            low, high = (middle, high) if left > x[0, 0, 0, 0, block] else (low, middle)
        expected = (guess[part].double() - low).clamp(min=0).float()
        torch.testing.assert_close(made[part], expected, rtol=1e-4, atol=1e-5)
    assert (made - truth).square().mean() <= (guess - truth).square().mean()


def test_without_a_bound_additive_is_a_shift_of_each_block():
    truth, guess = frames(0), frames(1)
    x = coarsen(truth, 4, "area")
    shift = conserved(guess, x, 4, "additive") - guess
    even = refine(coarsen(shift, 4, "area"), 4, "nearest")
    torch.testing.assert_close(shift, even, rtol=0, atol=1e-4)  # kelvin, in float32
    both = conserved(guess.repeat(1, 1, 2, 1, 1), x.repeat(1, 1, 2, 1, 1), 4, "additive", (None, 0))
    torch.testing.assert_close(both[:, :, :1], guess + shift)  # channel by channel


def test_a_dry_block_where_it_rained_becomes_even():
    x = torch.tensor([[[[[2.0, 0.0]]]]])
    made = conserved(torch.zeros(1, 1, 1, 4, 8), x, 4, "multiplicative", (0.0,))
    assert (made[..., :4] == 2).all()
    assert (made[..., 4:] == 0).all()


def test_an_unknown_task():
    with pytest.raises(UserError, match="no task 'colouring'"):
        tasks.build("colouring", SuperResolutionSettings(), 3, [KELVIN])
