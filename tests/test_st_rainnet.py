import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

import models
from models import Geometry
from models._losses import content_loss, rain_weight
from models.st_rainnet import Cell, Settings

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives

GOLDEN = Path(__file__).parent / "golden" / "st_rainnet_losses.json"
NAN = float("nan")
SMALL = {"hidden": (4, 6)}

both = pytest.mark.parametrize("arch", ["corrected", "published"])


def geometry(T=3, C=2, H=12, W=16, To=1, Co=1, floor=0.0, continues=(0,), log_scale=4.0):
    return Geometry(
        (T, C, H, W), (To, Co, H, W), floor=floor, continues=continues, log_scale=log_scale
    )


def build(shape=None, **settings):
    torch.manual_seed(0)
    return models.build("st_rainnet", shape or geometry(), settings)


def batch(size=2, shape=None):
    """Noise, and a truth of rain in 0..1, half of it dry."""
    shape = shape or geometry()
    source = torch.Generator().manual_seed(1)
    x = torch.randn(size, *shape.x, generator=source)
    return x, torch.randn(size, *shape.y, generator=source).clamp(0, 3) / 3


def loss_of(model, x, y):
    [(player, loss, parts)] = model.losses(x, y, 0)
    assert player == "forecaster"
    assert parts["content"].item() == loss.item()
    return loss


def count(module):
    return sum(p.numel() for p in module.parameters())


@both
@pytest.mark.parametrize(("hidden", "expected"), [((32, 64), 470_561), ((64, 128), 1_752_129)])
def test_published_counts(arch, hidden, expected):
    shape = geometry(T=6, C=56, H=64, W=64)
    with torch.device("meta"):
        assert count(build(shape, arch=arch, hidden=hidden)) == expected
        if hidden == (32, 64):
            assert count(build(shape, arch=arch)) == expected


@pytest.mark.parametrize(("inward", "hidden", "expected"), [(56, 32, 101_504), (64, 64, 295_168)])
def test_counts_of_a_cell(inward, hidden, expected):
    assert count(Cell(inward, hidden, False, 0.0)) == expected


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_counts_of_more_levels(levels):
    widths = [32 * 2**level for level in range(levels)]
    down = [(before + w) * 4 * w * 9 + 4 * w for before, w in pairwise([56, *widths])]
    up = [(coarse + 2 * w) * 4 * w * 9 + 4 * w for w, coarse in pairwise(widths)]
    with torch.device("meta"):
        model, normed = (build(geometry(C=56), levels=levels, norm=norm) for norm in (False, True))
    assert count(model) == sum(down) + sum(up) + 32 + 1
    assert count(normed) - count(model) == 2 * 4 * (2 * sum(widths) - widths[-1])


def cell_by_hand(layer, x, h, c):
    """As specified: one convolution of cat[x, h]; i, f, o, g in this order."""
    i, f, o, g = layer(torch.cat([x, h], 1)).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def network_by_hand(network, x, aligned):
    """Step by step through all levels, from states of zeros; sizes that halve evenly."""
    down = [cell.gates for cell in network.encoder]
    states = []
    for level, layer in enumerate(down):
        B, _, _, H, W = x.shape
        zeros = torch.zeros(B, layer.out_channels // 4, H >> level, W >> level, dtype=x.dtype)
        states.append((zeros, zeros))
    for frame in x.unbind(1):
        z = frame
        for level, layer in enumerate(down):
            states[level] = cell_by_hand(layer, F.max_pool2d(z, 2) if level else z, *states[level])
            z = states[level][0]
    for cell, (h, c) in zip(network.decoder, states[-2::-1], strict=True):
        u = F.interpolate(z, size=h.shape[-2:], mode="bilinear", align_corners=aligned)
        z, _ = cell_by_hand(cell.gates, torch.cat([u, h], 1), h, c)
    return F.conv2d(z, network.last.weight, network.last.bias)


@pytest.mark.parametrize("levels", [2, 4])
@both
def test_network_is_the_published_one(arch, levels):
    shape = geometry(T=3, To=2, Co=2, H=16, W=24, continues=())
    widths = (3, 5, 2, 4)[:levels]
    model = build(shape, arch=arch, levels=levels, hidden=widths).double()
    x = batch(shape=shape)[0].double()
    expected = network_by_hand(model.network, x, aligned=arch == "published")
    torch.testing.assert_close(model.network(x), expected, rtol=1e-12, atol=1e-12)
    y = expected.view(2, 2, 2, 16, 24)
    y = F.relu(y) if arch == "published" else F.softplus(10 * y) / 10
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("size", [(59, 61), (1, 1), (2, 3), (64, 33)])
@both
def test_any_size_batch_and_frames_out(arch, size, levels):
    shape = geometry(T=2, C=3, To=3, Co=2)
    model = build(shape, arch=arch, levels=levels, hidden=(2,) * levels)
    x = torch.randn(3, 2, 3, *size)
    assert model(x).shape == (3, 3, 2, *size)
    assert model(x).isfinite().all()


@pytest.mark.parametrize("levels", [2, 4])
def test_no_pixel_of_an_odd_field_is_left_out(levels):
    """Of what the coarsest level alone carries."""
    model = build(geometry(T=1), levels=levels, hidden=(3,) * levels).double()
    x = torch.randn(8, 1, 2, 13, 11, dtype=torch.double, requires_grad=True)
    coarsest = []
    model.network.encoder[-1].register_forward_hook(lambda m, a, states: coarsest.extend(states[0]))
    model(x)
    coarsest[0].square().sum().backward()
    assert (x.grad.abs().sum((0, 1, 2)) > 0).all()


def test_corrected_positions_stay_in_place():
    """A field moved by one coarsest pixel is an answer moved as far; with aligned corners not."""
    moved = {}
    for aligned in (False, True):
        model = build(geometry(T=1), levels=3, hidden=(3, 3, 3), align_corners=aligned).double()
        x = F.pad(torch.randn(1, 1, 2, 8, 8, dtype=torch.double), (28, 40, 28, 40))
        there = model.network(x.roll((4, 8), (-2, -1)))
        here = model.network(x).roll((4, 8), (-2, -1))
        moved[aligned] = (there - here)[..., 28:44, 28:44].abs().max().item()  # far from the edges
    assert moved[False] < 1e-12
    assert moved[True] > 1e-6


def farthest(model, x, column):
    """How many columns away from an output column an input matters."""
    x = x.clone().requires_grad_()
    answer = model.network(x)[..., column]
    (answer * torch.randn_like(answer)).sum().backward()
    matters = (x.grad != 0).any((0, 1, 2, 3)).nonzero().flatten()
    return int((matters - column).abs().max())


@pytest.mark.parametrize(
    ("levels", "T", "reach"), [(2, 6, 16), (2, 1, 6), (3, 2, 20), (4, 2, 44), (5, 1, 76)]
)
@both
def test_receptive_field_is_how_far_an_input_matters(arch, levels, T, reach):
    width = 2 * reach + 20
    shape = geometry(T=T, H=16, W=width)
    model = build(shape, arch=arch, levels=levels, hidden=(2,) * levels).double()
    assert model.receptive_field() == (min(15, reach), reach)
    x = torch.randn(16, *shape.x, dtype=torch.double)  # pooling passes on only the largest
    columns = range(width // 2 - 8, width // 2 - 8 + 2 ** (levels - 1))  # all places of a pixel
    found = [farthest(model, x, column) for column in columns]
    assert max(found) == reach
    with torch.no_grad():
        other = x.clone()
        other[..., columns[0] + reach + 1 :] += 9.0
        same = (model.network(other) == model.network(x)).all((0, 1, 2))
    assert same[: columns[0] + 1].all()
    assert not same.all()


def test_receptive_field_ends_with_the_field():
    model = build(geometry(T=6, H=12, W=16))
    assert model.receptive_field() == (11, 15)
    assert model.receptive_field(100, 14) == (16, 13)


def test_norm_is_of_the_whole_field():
    model = build(geometry(T=1, H=8, W=40), norm=True, hidden=(4, 4)).double()
    assert model.receptive_field() == (6, 6)
    x = torch.randn(4, 1, 2, 8, 40, dtype=torch.double)
    assert farthest(model, x, 0) == 39
    assert model.reach is None


def upstream(source, size=4):
    """Smooth fields, and the last of them 24 columns farther on; what comes from outside is NaN."""
    seeds = torch.randn(3 * size, 1, 1, 4, generator=source)
    x = F.interpolate(seeds, scale_factor=16, mode="bilinear").clamp(min=0).view(size, 3, 1, 16, 64)
    y = x[:, 2:].roll(24, -1).clone()
    y[..., :24] = NAN
    return x, y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "gain", "learnt"), [(4, 6.0, True), (4, 1.0, False), (2, 6.0, False)]
)
def test_more_levels_learn_what_is_upstream(levels, gain, learnt):
    """Where the receptive field reaches so far, and the first weights let it through."""
    shape = Geometry((3, 1, 16, 64), (1, 1, 16, 64))
    model = build(shape, levels=levels, hidden=(8, 16, 16, 16)[:levels], gain=gain)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    source = torch.Generator().manual_seed(0)
    for _ in range(450):
        optimizer.zero_grad()
        loss_of(model, *upstream(source)).backward()
        optimizer.step()
    x, y = upstream(torch.Generator().manual_seed(9), 16)
    left = loss_of(model, x, y).item() / y[~y.isnan()].var().item()
    assert left < 0.3 if learnt else left > 0.9, left
    assert (model.effective_reach(x=x) > 20) is learnt


def test_gain_is_of_the_first_weights_of_all_cells_but_the_first():
    plain, ours = (
        [cell.gates.weight for cell in (*net.encoder, *net.decoder)]
        for net in (build(gain=gain, **SMALL).network for gain in (1.0, 5.0))
    )
    assert torch.equal(ours[0], plain[0])
    assert all(torch.equal(a, 5 * b) for a, b in zip(ours[1:], plain[1:], strict=True))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_effective_reach_holds_that_share_of_the_gradients(share):
    model = build(geometry(H=20, W=26)).double()
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 2, 20, 26, generator=source).double().requires_grad_()
    model.network(x)[0, 0, 10, 13].backward()
    mass = x.grad.abs().sum((0, 1, 2))

    def inside(r):
        return mass[max(0, 10 - r) : 11 + r, max(0, 13 - r) : 14 + r].sum() / mass.sum()

    expected = next(r for r in range(26) if inside(r) >= share)
    assert model.effective_reach(share) == expected
    assert model.effective_reach(share, x.repeat(2, 1, 1, 1, 1)) == expected
    assert 0 < expected <= max(model.receptive_field())


def test_effective_reach_leaves_the_model_alone():
    model = build()
    before = torch.get_rng_state()
    with torch.no_grad():
        assert model.effective_reach() > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert build(residual=True).effective_reach() == 0  # nothing matters before its first step


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"arch": "published", "output": "linear"},
        {"levels": 3, "hidden": (16, 16, 16)},
        {"norm": True},
        {"residual": True, "output": "clamp"},
    ],
)
def test_learns_one_batch_to_near_zero(settings):
    shape = geometry(H=7, W=8)
    x, y = batch(1, shape)
    model = build(shape, **({"hidden": (16, 16)} | settings))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = loss_of(model, x, y).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()
    assert loss_of(model.eval(), x, y).item() < 0.01 * before


@pytest.mark.parametrize(
    ("floor", "output"),
    [(0.0, "softplus"), (-0.5, "softplus"), (0.0, "relu"), (-0.5, "relu"), (-0.5, "clamp")],
)
def test_nothing_is_below_the_floor(floor, output):
    shape = geometry(floor=floor)
    x, _ = batch(shape=shape)
    model = build(shape, output=output, **SMALL)
    with torch.no_grad():
        model.network.last.weight *= 100  # both sides of the floor, and far from it
        raw = model.network(x)[:, None]
        assert (raw < floor).any()
        trained, used = model(x), model.eval()(x)
    above = raw > floor + 1
    assert above.any()
    torch.testing.assert_close(used[above], raw[above], atol=1e-4, rtol=0)
    assert (used >= floor).all()
    if output == "clamp":
        assert torch.equal(trained, raw)
        assert torch.equal(used, raw.clamp(min=floor))
    else:
        assert torch.equal(trained, used)


@pytest.mark.parametrize(
    ("output", "alive"), [("softplus", True), ("clamp", True), ("relu", False)]
)
def test_a_dry_answer_can_still_be_corrected(output, alive):
    """The network says a little less than nothing at all, everywhere; there was rain."""
    x, _ = batch()
    model = build(output=output, **SMALL)
    with torch.no_grad():
        model.network.last.weight.zero_()
        model.network.last.bias.fill_(-0.1)
    loss_of(model, x, torch.ones(2, *geometry().y)).backward()
    assert (model.network.last.bias.grad.item() < -0.1) is alive


def test_output_follows_the_floor():
    assert build().output == "softplus"
    assert build(geometry(floor=None)).output == "linear"
    assert build(output="linear").output == "linear"
    assert build(arch="published").output == "relu"


def test_residual_starts_at_the_last_frame():
    shape = geometry(C=4, To=3, Co=2, continues=(2, 0), floor=None)
    x, y = batch(shape=shape)
    model = build(shape, residual=True)
    assert torch.equal(model(x), x[:, -1:, [2, 0]].expand(-1, 3, -1, -1, -1))
    loss_of(model, x, y).backward()
    assert model.network.last.weight.grad.any()


def test_forget_gates_start_open():
    for norm in (False, True):
        wide, plain = build(norm=norm, **SMALL), build(norm=norm, forget_bias=0, **SMALL)
        for ours, theirs in zip(
            (*wide.network.encoder, *wide.network.decoder),
            (*plain.network.encoder, *plain.network.decoder),
            strict=True,
        ):
            change = (ours.norm or ours.gates).bias - (theirs.norm or theirs.gates).bias
            expected = torch.zeros(4, len(change) // 4)
            expected[1] = 1.0  # i, f, o, g
            torch.testing.assert_close(change, expected.flatten())


def test_weighted_loss():
    shape = geometry(log_scale=4.0)
    x, y = batch(shape=shape)
    y[0, 0, 0, :3] = NAN
    model = build(shape, loss="weighted", weight_alpha=0.2, weight_cap=5.0, **SMALL)
    guess, seen = model(x), ~y.isnan()
    mm = (4 * y[seen].double()).expm1()
    assert (mm > 5).any()  # the cap tells
    expected = ((guess[seen] - y[seen]) ** 2 * (1 + 0.2 * mm.clamp(max=5))).mean()
    loss = loss_of(model, x, y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    none = build(shape, loss="weighted", weight_alpha=0, **SMALL)
    assert loss_of(none, x, y).item() == loss_of(build(shape, **SMALL), x, y).item()


@pytest.mark.parametrize("log_scale", [None, 5.0])
def test_log_cosh_loss_is_of_log1p_where_known(log_scale):
    shape = geometry(log_scale=log_scale)
    x, y = batch(shape=shape)
    model = build(shape, loss="log_cosh", **SMALL)
    error = ((model(x) - y) * (log_scale or 1)).double()
    expected = error.cosh().log().mean().item()
    assert loss_of(model, x, y).item() == pytest.approx(expected, rel=1e-5)


def test_log_cosh_is_exact_when_small_and_finite_when_large():
    for error in (0.0, 1e-4, -0.01, 1.0, -30.0, 1e6):
        guess = torch.tensor([error, 7.0], requires_grad=True)
        loss = content_loss("log_cosh", guess, torch.tensor([0.0, NAN]))
        large = abs(error) > 20
        expected = abs(error) - math.log(2) if large else math.log1p(2 * math.sinh(error / 2) ** 2)
        assert loss.item() == pytest.approx(expected, rel=2e-3)
        loss.backward()
        assert guess.grad.tolist() == pytest.approx([math.tanh(error), 0], rel=1e-3)


def test_weight_of_rain():
    mm = torch.tensor([-0.5, 0.0, 1.0, 10.0, 300.0])
    weight = rain_weight(mm.log1p() / 3, log_scale=3.0, alpha=0.5, cap=50.0)
    assert weight.tolist() == pytest.approx([1, 1, 1.5, 6, 26])


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_plain_losses(kind):
    x, y = batch()
    y[1] = NAN
    model = build(loss=kind, **SMALL)
    error = (model(x) - y)[0]
    expected = error.square().mean() if kind == "mse" else error.abs().mean()
    assert loss_of(model, x, y).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [{}, {"norm": True}, {"levels": 3, "hidden": (4, 4, 4)}])
def test_autocast(dtype, settings):
    x, y = batch()
    slopes = []
    for enabled in (False, True):
        model = build(**(SMALL | settings))
        states = []
        model.network.encoder[0].register_forward_hook(lambda m, a, out: states.extend(out))  # noqa: B023
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss = loss_of(model, x, y)
        assert loss.dtype == torch.float32
        assert all(c.dtype == torch.float32 for _, c in states)
        if enabled and not settings:
            assert all(h.dtype == dtype for h, _ in states)
        (1024 * loss).backward()
        slopes.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert F.cosine_similarity(*slopes, dim=0) > 0.99


def test_wholly_in_another_precision():
    x, _ = batch()
    exact = build(**SMALL).double()(x.double())
    assert exact.dtype == torch.double
    rough = build(**SMALL).bfloat16()(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=0.01)


def test_arch_brings_its_defaults_and_the_given_wins():
    ours, published = Settings(), Settings(arch="published")
    assert (ours.forget_bias, ours.align_corners, ours.output) == (1.0, False, None)
    assert (published.forget_bias, published.align_corners, published.output) == (0, True, "relu")
    assert (published.widths, published.residual, published.norm) == ((32, 64), False, False)
    assert (ours.gain, published.gain) == (6, 1)
    assert Settings(arch="published", output="linear").output == "linear"
    assert Settings(**published.model_dump()) == published
    assert Settings(levels=4).widths == (32, 64, 128, 256)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"arch": "deep"}, "arch"),
        ({"levels": 1}, "levels"),
        ({"levels": 6}, "levels"),
        ({"levels": 3, "hidden": (32, 64)}, "hidden has 2 widths for 3 levels"),
        ({"hidden": (32, 0)}, "hidden"),
        ({"output": "tanh"}, "output"),
        ({"loss": "huber"}, "loss"),
        ({"weight_cap": 0}, "weight_cap"),
        ({"weight_alpha": -1}, "weight_alpha"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**bad)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ({"floor": None}, {"output": "softplus"}, "softplus needs a lowest value.* linear"),
        ({"floor": None}, {"output": "clamp"}, "clamp needs a lowest value"),
        ({"floor": None}, {"arch": "published"}, "relu needs a lowest value"),
        ({"continues": ()}, {"residual": True}, "which channels of x .* set it to false"),
        ({"log_scale": None}, {"loss": "weighted"}, "scaling.kind log1p, or another model.loss"),
    ],
)
def test_bad_geometry_is_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        build(geometry(**shape), **settings)


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match="x is 8 by 9 pixels and y 16 by 18"):
        build(Geometry((3, 1, 8, 9), (1, 1, 16, 18)))


def test_first_five_losses_are_as_before():
    x, y = batch()
    losses = {}
    for arch in ("corrected", "published"):
        model = build(arch=arch, output="linear", **SMALL)  # the published ReLU dies at once
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses[arch] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            optimizer.step()
            losses[arch].append(loss.item())
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was missing and is written; look at it, then run again")
    golden = json.loads(GOLDEN.read_text())
    for arch, steps in losses.items():
        assert steps == pytest.approx(golden[arch], rel=1e-3, abs=1e-5)  # other CPUs sum otherwise
