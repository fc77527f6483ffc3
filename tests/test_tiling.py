import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models import Geometry
from pipeline import tiling

torch.set_num_threads(1)

SCALE, REACH = 3, 4
OWN = {"srgan": {"fine_width": 4, "discriminator_width": 4, "content": "mse"}}  # needs no file


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


@pytest.mark.parametrize("shape", [(24, 24), (19, 29), (5, 40), (1, 30), (9, 9)])
@pytest.mark.parametrize("tile", [1, 3, 8, 16, 31, 64])
def test_tiles_equal_the_whole(shape, tile):
    x = field(*shape)
    y = tiling.tiled(blurred, x, scale=SCALE, reach=REACH, tile=tile)
    assert y.shape == (1, 1, 1, SCALE * shape[0], SCALE * shape[1])
    assert apart(y, blurred(x)) < 1e-6


def test_a_margin_shorter_than_the_reach_shows():
    x = field(40, 40)
    assert apart(tiling.tiled(blurred, x, scale=SCALE, reach=0, tile=16), blurred(x)) > 1e-3


def finer(name, scale=4, **settings):
    """A model of which every layer matters: a fresh one adds nothing to bicubic."""
    torch.manual_seed(0)
    y = (3, 1, 8 * scale, 8 * scale)
    geometry = Geometry(x=(3, 1, 8, 8), y=y, unit_range=True, block_means=True)
    model = models.build(name, geometry, OWN.get(name, {}) | settings)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("tempogan", "residual"),
        ("tempogan", "eddy"),
        ("srgan", "residual"),
        ("srgan", "published"),
    ],
)
@torch.inference_mode()
def test_a_model_as_trained_equals_itself_whole(name, arch):
    model = finer(name, arch=arch, n_residual_blocks=2, width=8)
    x = 2 * field(45, 38) - 1
    y = tiling.tiled(model, x, scale=4, reach=model.reach, tile=16)
    assert 90 * apart(y, model(x)) < 1e-4  # kelvin


@pytest.mark.parametrize(
    ("name", "settings", "scale", "reach"),
    [
        ("tempogan", {"arch": "eddy", "n_residual_blocks": 8}, 4, 21),
        ("tempogan", {"arch": "eddy", "n_residual_blocks": 1}, 4, 7),
        ("tempogan", {"arch": "residual", "n_residual_blocks": 8}, 4, 21),
        ("tempogan", {"n_residual_blocks": 2, "consistent": False, "temporal_pool": 1}, 3, 9),
        ("srgan", {"arch": "published", "n_residual_blocks": 1}, 4, 10),
        ("srgan", {"n_residual_blocks": 2}, 4, 9),
        ("srgan", {"n_residual_blocks": 1, "kernel": 3, "factors": (4,)}, 4, 6),
        ("srgan", {"n_residual_blocks": 1, "consistent": False}, 6, 7),
    ],
)
def test_reach_is_how_far_an_input_matters(name, settings, scale, reach):
    side, middle = 2 * reach + 5, reach + 2  # two pixels beyond the reach on either side
    model = finer(name, scale, width=4, **settings).double()
    assert model.reach == reach
    x = torch.rand(1, 1, 1, side, side, dtype=torch.double, requires_grad=True)
    pixel = (0, 0, 0, *(slice(scale * middle, scale * (middle + 1)),) * 2)
    weights = torch.rand(scale, scale, dtype=torch.double)  # their plain sum may be x itself
    before = model(x)[pixel]
    (before * weights).sum().backward()
    away = (torch.arange(side) - middle).abs()
    away = torch.maximum(away[:, None], away[None])
    assert away[x.grad[0, 0, 0] != 0].max() == reach
    with torch.no_grad():
        after = model(x + 9.0 * (away > reach))[pixel]
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


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
