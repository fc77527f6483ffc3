import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models import Geometry
from pipeline import tiling

torch.set_num_threads(1)

SCALE, REACH = 3, 4


def blurred(x):
    """Looks REACH pixels far in every direction, then refines; (B, T, C, h, w)."""
    side = 2 * REACH + 1
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(1, 1, side, side, generator=generator) / side**2
    y = F.conv2d(x.flatten(0, 1), weight, padding=REACH)
    return F.interpolate(y, scale_factor=SCALE, mode="nearest").unflatten(0, x.shape[:2])


def field(h, w):
    return torch.rand(1, 1, 1, h, w, generator=torch.Generator().manual_seed(0))


def apart(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("shape", [(40, 40), (37, 53), (5, 64), (1, 30), (9, 9)])
@pytest.mark.parametrize("tile", [1, 3, 8, 16, 31, 64])
def test_tiles_equal_the_whole(shape, tile):
    x = field(*shape)
    y = tiling.tiled(blurred, x, scale=SCALE, reach=REACH, tile=tile)
    assert y.shape == (1, 1, 1, SCALE * shape[0], SCALE * shape[1])
    assert apart(y, blurred(x)) < 1e-6


def test_a_margin_shorter_than_the_reach_shows():
    x = field(40, 40)
    assert apart(tiling.tiled(blurred, x, scale=SCALE, reach=0, tile=16), blurred(x)) > 1e-3


@pytest.mark.parametrize("arch", ["residual", "eddy"])
def test_a_model_as_trained_equals_itself_whole(arch):
    torch.manual_seed(0)
    geometry = Geometry(x=(3, 1, 8, 8), y=(3, 1, 32, 32), unit_range=True, block_means=True)
    settings = {"arch": arch, "n_residual_blocks": 2, "width": 8}
    model = models.build("tempogan", geometry, settings).eval()
    for p in model.parameters():
        if not p.any():  # a fresh model adds nothing to bicubic
            nn.init.normal_(p, std=0.1)
    x = 2 * field(45, 38) - 1
    with torch.inference_mode():
        whole = model(x)
        y = tiling.tiled(model, x, scale=4, reach=model.reach, tile=16)
    assert 90 * apart(y, whole) < 1e-4  # kelvin


def test_the_model_never_sees_more_than_a_tile_and_its_margin():
    seen = []

    def model(x):
        seen.append(x.shape[-2:])
        return blurred(x)

    tiling.tiled(model, field(100, 70), scale=SCALE, reach=REACH, tile=20)
    assert max(max(shape) for shape in seen) <= 20 + 2 * (REACH + tiling.BLEND)
    assert len(seen) == 5 * 4  # 100 / 20 rows, 70 / 20 columns rounded up


@pytest.mark.parametrize(("reach", "tile"), [(None, 4), (REACH, 40)])
def test_whole_where_tiles_are_not_needed_or_not_possible(reach, tile):
    seen = []
    tiling.tiled(
        lambda x: seen.append(x.shape) or x, field(40, 30), scale=1, reach=reach, tile=tile
    )
    assert seen == [(1, 1, 1, 40, 30)]


@pytest.mark.parametrize(("length", "tile"), [(512, 256), (100, 7), (33, 32), (5, 1)])
def test_weights_add_up_to_one_and_tiles_are_alike(length, tile):
    total = torch.zeros(length)
    made = tiling.spans(length, tile, REACH)
    for span in made:
        total[span.keep] += span.weight
    assert torch.allclose(total, torch.ones(length))
    assert len(made) == -(-length // tile)


def test_other_frames_and_channels_may_come_out():
    """As of a forecast: T' and C' are the model's."""
    x = torch.rand(1, 3, 2, 24, 20, generator=torch.Generator().manual_seed(0))

    def model(part):
        return part[:, :1].mean(2, keepdim=True).expand(-1, 5, -1, -1, -1) * 2

    made = tiling.tiled(model, x, scale=1, reach=0, tile=8)
    torch.testing.assert_close(made, model(x))
