"""Tasks: low resolution is made from the frames, and nothing is known but them."""

import numpy as np
import pytest
import torch

from pipeline import tasks
from pipeline.errors import UserError
from pipeline.tasks import TaskSettings, coarsen, refine


def task(**settings):
    return tasks.build("superres", TaskSettings(**settings), 3)


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
    torch.testing.assert_close(made.baselines()["bicubic"](x), y)


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
    assert torch.equal(task().baseline(x).flatten(0, 1), expected)


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


def test_an_unknown_task():
    with pytest.raises(UserError, match="no task 'colouring'"):
        tasks.build("colouring", TaskSettings(), 3)
