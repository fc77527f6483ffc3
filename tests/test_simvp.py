"""SimVP and its translators, against counts and arithmetic as published."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

import models
from models import Geometry
from models._forecast import cropped, padded
from models._translators import Gsta, GstaBlock, Inception, IncepU

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives

SMALL = {"hid_s": 8, "hid_t": 16, "n_s": 2, "n_t": 2}
ARCHS = ("simvp", "incepu", "gsta")

every_arch = pytest.mark.parametrize("arch", ARCHS)


def geometry(x=(4, 1, 16, 16), y=None, **known):
    return Geometry(x=x, y=y or x, **known)


def build(shape=None, **settings):
    torch.manual_seed(0)
    return models.build("simvp", shape or geometry(), SMALL | settings)


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def jittered(module):
    """Norms begin as ones and zeros; here every parameter and running mean matters."""
    generator = torch.Generator().manual_seed(2)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    return module


# Counts


MMNIST, TAXI = (10, 1, 64, 64), (4, 2, 32, 32)
TAXI_WIDTHS = {"hid_s": 32, "hid_t": 256, "n_s": 2}


@pytest.mark.parametrize(
    ("shape", "settings", "count"),
    [
        (MMNIST, {}, 57_761_409),
        (MMNIST, {"hid_t": 256}, 15_778_433),
        (MMNIST, {"hid_s": 16, "hid_t": 256}, 13_866_401),
        (TAXI, {"hid_t": 256, "n_s": 2}, 14_323_714),
        (MMNIST, {"arch": "incepu"}, 57_946_113),
        (TAXI, {"arch": "incepu"} | TAXI_WIDTHS, 13_794_914),
        # KTH, with the n_t of the published table, and of the configuration beside it
        ((10, 1, 128, 128), {"arch": "incepu", "hid_t": 256, "n_s": 2, "n_t": 6}, 12_152_385),
        ((10, 1, 128, 128), {"arch": "incepu", "hid_t": 256, "n_s": 2, "n_t": 4}, 8_600_641),
        (MMNIST, {"arch": "gsta"}, 46_769_665),
        (TAXI, {"arch": "gsta"} | TAXI_WIDTHS, 9_961_058),
    ],
)
def test_counts_are_the_published_ones(shape, settings, count):
    with torch.device("meta"):
        model = models.build("simvp", geometry(shape), settings)
    assert sum(p.numel() for p in model.parameters()) == count


# Shapes


@every_arch
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((5, 1, 16, 16), (3, 1, 16, 16)),
        ((3, 2, 16, 16), (5, 1, 16, 16)),
        ((4, 3, 59, 61), (4, 3, 59, 61)),
        ((2, 1, 3, 5), (1, 1, 3, 5)),
    ],
)
def test_shapes(arch, x, y):
    assert build(geometry(x, y), arch=arch)(noise(2, *x)).shape == (2, *y)


@every_arch
def test_a_built_model_takes_other_sizes(arch):
    model = build(arch=arch).eval()
    assert model(noise(3, 4, 1, 21, 34)).shape == (3, 4, 1, 21, 34)


@pytest.mark.parametrize("n_s", [1, 2, 3, 5])
def test_every_second_convolution_halves(n_s):
    model = build(n_s=n_s).double()
    seen = []
    model.forecaster.translator.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    assert model(noise(1, 4, 1, 16, 16).double()).shape == (1, 4, 1, 16, 16)
    assert seen[0].shape == (1, 4 * 8, 16 >> n_s // 2, 16 >> n_s // 2)


@every_arch
def test_samples_are_forecast_each_alone(arch):
    model, x = jittered(build(arch=arch)).eval(), noise(3, 4, 1, 16, 16)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_padded_mirrors_below_and_to_the_right():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    grown, size = padded(x, 5)
    assert size == (3, 4)
    rows, columns = [0, 1, 2, 1, 0], [0, 1, 2, 3, 2]
    assert torch.equal(grown, x[:, :, rows][..., columns])
    assert torch.equal(cropped(grown, size), x)


def test_padded_repeats_the_edge_of_a_small_field():
    x = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    grown, size = padded(x, 8)
    rows, columns = [0, *[1] * 7], [0, 1, *[2] * 6]
    assert torch.equal(grown, x[..., rows, :][..., columns])
    assert torch.equal(cropped(grown, size), x)


def test_padded_leaves_what_divides():
    x = noise(2, 3, 1, 8, 12)
    assert padded(x, 4)[0] is x


# The translators' arithmetic


def incepted(block, x, groups):
    """An Inception from its description: 1x1, then the sum of norms of grouped convolutions."""
    x = F.conv2d(x, block.squeeze.weight, block.squeeze.bias)
    total = 0
    for (conv, norm, _), kernel in zip(block.branches, (3, 5, 7, 11), strict=True):
        assert conv.weight.shape[2:] == (kernel, kernel)
        y = F.conv2d(x, conv.weight, conv.bias, padding=kernel // 2, groups=groups)
        total += F.leaky_relu(F.group_norm(y, groups, norm.weight, norm.bias), 0.2)
    return total


# A hidden width that does not divide by the groups falls back to one group
@pytest.mark.parametrize(("hidden", "groups"), [(16, 8), (12, 1)])
def test_inception_is_the_published_arithmetic(hidden, groups):
    block = jittered(Inception(6, hidden, 24)).double()
    x = noise(2, 6, 9, 7).double()
    torch.testing.assert_close(block(x), incepted(block, x, groups))
    assert block.branches[0][0].weight.shape == (24, hidden // groups, 3, 3)


def test_incepu_is_wired_as_published():
    net = jittered(IncepU(8, 32, 16, depth=4)).double()
    x = noise(2, 8, 6, 5).double()
    e, d = (
        [lambda z, block=block: incepted(block, z, 8) for block in blocks]
        for blocks in (net.encoders, net.decoders)
    )
    a = e[0](x)
    b = e[1](a)
    c = e[2](b)
    z = d[0](e[3](c))
    z = d[1](torch.cat([z, c], 1))
    z = d[2](torch.cat([z, b], 1))
    z = d[3](torch.cat([z, a], 1))
    assert z.shape == (2, 16, 6, 5)
    torch.testing.assert_close(net(x), z)
    assert [block.squeeze.weight.shape[:2] for block in (*net.encoders, *net.decoders)] == [
        *[(16, 8), (16, 32), (16, 32), (16, 32)],
        *[(16, 32), (16, 64), (16, 64), (16, 64)],
    ]


def gated(block, x, training):
    """A block of gSTA from its description; training: batch norm by the batch's own moments."""

    def norm(layer, z):
        mean, var = layer.running_mean, layer.running_var
        if training:
            mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
        mean, var, weight, bias = (v.view(-1, 1, 1) for v in (mean, var, layer.weight, layer.bias))
        return (z - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(layer, z, **how):
        return F.conv2d(z, layer.weight, layer.bias, **how)

    first, second = block.scales
    width = x.shape[1]
    bn, attention = block.attention
    z = norm(bn, x)
    u = F.gelu(conv(attention.head[0], z))
    u = conv(attention.large[0], u, padding=2, groups=width)
    u = conv(attention.large[1], u, padding=9, dilation=3, groups=width)
    u = conv(attention.large[2], u)
    u = torch.sigmoid(u[:, width:]) * u[:, :width]
    x = x + first * (conv(attention.tail, u) + z)

    bn, into, depthwise, _, out = block.pixelwise
    u = conv(into, norm(bn, x))
    u = F.gelu(conv(depthwise, u, padding=1, groups=8 * width))
    return x + second * conv(out, u)


@pytest.mark.parametrize("training", [True, False])
def test_gsta_block_is_the_published_arithmetic(training):
    block = jittered(GstaBlock(6, drop_path=0.0)).double().train(training)
    x = noise(3, 6, 11, 8).double()
    expected = gated(block, x, training)
    torch.testing.assert_close(block(x), expected)


def test_gsta_reduces_where_the_width_changes():
    net = jittered(Gsta(4, 8, 6, depth=3)).double().eval()
    x = noise(2, 4, 9, 9).double()
    first, widen, middle, last, narrow = net
    z = F.conv2d(gated(first, x, False), widen.weight, widen.bias)
    z = gated(last, gated(middle, z, False), False)
    torch.testing.assert_close(net(x), F.conv2d(z, narrow.weight, narrow.bias))
    assert len(Gsta(8, 8, 8, depth=2)) == 2  # nothing to reduce


def test_gsta_starts_as_published():
    block = GstaBlock(64, drop_path=0.0)
    assert all((scale == 1e-2).all() for scale in block.scales)
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8
    for conv in convs:
        k, _ = conv.kernel_size
        fan_out = k * k * conv.out_channels / conv.groups
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        assert not conv.bias.any()


# The whole network's arithmetic


def normed(x, layer, activation):
    return activation(F.group_norm(x, 2, layer.weight, layer.bias))


def test_encoder_and_decoder_are_the_paper_s():
    model = jittered(build(geometry((3, 2, 8, 8)), n_s=3)).double()
    net = model.forecaster
    x = noise(2, 3, 2, 8, 8).double()

    def unit(layers, z, stride=1):
        conv, norm, _ = layers
        z = F.conv2d(z, conv.weight, conv.bias, stride=stride, padding=1)
        return normed(z, norm, lambda v: F.leaky_relu(v, 0.2))

    first = unit(net.first, x.reshape(6, 2, 8, 8))
    z = unit(net.encoder[1], unit(net.encoder[0], first, stride=2))
    z = net.translator(z.reshape(2, 3 * 8, 4, 4)).reshape(6, 8, 4, 4)
    z = unit(net.decoder[0], z)
    up, norm, _ = net.decoder[1]
    z = F.conv_transpose2d(z, up.weight, up.bias, stride=2, padding=1, output_padding=1)
    z = normed(z, norm, lambda v: F.leaky_relu(v, 0.2))
    z = unit(net.last, torch.cat([z, first], 1))
    z = F.conv2d(z, net.readout.weight, net.readout.bias)
    torch.testing.assert_close(model(x), z.reshape(2, 3, 2, 8, 8))


@pytest.mark.parametrize("arch", ["incepu", "gsta"])
def test_encoder_and_decoder_are_openstl_s(arch):
    model = jittered(build(geometry((3, 2, 8, 8)), arch=arch)).double().eval()
    net = model.forecaster
    x = noise(2, 3, 2, 8, 8).double()

    def unit(layers, z, stride=1):
        conv, norm, _ = layers
        z = F.conv2d(z, conv.weight, conv.bias, stride=stride, padding=1)
        return normed(z, norm, F.silu)

    first = unit(net.first, x.reshape(6, 2, 8, 8))
    z = unit(net.encoder[0], first, stride=2)
    z = net.translator(z.reshape(2, 3 * 8, 4, 4)).reshape(6, 8, 4, 4)
    conv, _, norm, _ = net.decoder[0]
    z = F.conv2d(z, conv.weight, conv.bias, padding=1)  # 4 x 8 features, which become sub-pixels
    z = z.reshape(6, 8, 2, 2, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(6, 8, 8, 8)
    z = unit(net.last, normed(z, norm, F.silu) + first)
    z = F.conv2d(z, net.readout.weight, net.readout.bias)
    torch.testing.assert_close(model(x), z.reshape(2, 3, 2, 8, 8))


def test_openstl_s_convolutions_start_small():
    net = build(arch="incepu", hid_s=32).forecaster
    for block in (net.encoder[0], net.decoder[0], net.last):
        assert block[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not block[0].bias.any()


def test_the_skip_takes_each_frame_to_its_own_or_the_last_to_all():
    # translator switched off: what remains of x came by the skip
    def forecast(T_out, x):
        model = jittered(build(geometry((4, 1, 8, 8), (T_out, 1, 8, 8)))).double()
        model.forecaster.translator.register_forward_hook(lambda _, __, out: 0 * out)
        return model(x)

    x = noise(1, 4, 1, 8, 8).double()
    for t in range(4):
        other = x.clone()
        other[:, t] += 1
        same = forecast(4, x) - forecast(4, other)
        assert [bool(frame.any()) for frame in same[0]] == [i == t for i in range(4)]
        fewer = forecast(3, x) - forecast(3, other)
        assert [bool(frame.any()) for frame in fewer[0]] == 3 * [t == 3]


@every_arch
def test_every_past_frame_matters_to_every_future_one(arch):
    model = jittered(build(geometry((3, 1, 8, 8), (2, 1, 8, 8)), arch=arch)).double().eval()
    x = noise(1, 3, 1, 8, 8).double().requires_grad_()
    for t in range(2):
        (slope,) = torch.autograd.grad(model(x)[:, t].square().sum(), x)
        assert (slope.abs().amax((0, 2, 3, 4)) > 0).all()


# Settings


@pytest.mark.parametrize(
    ("arch", "residual"),
    [
        ("simvp", False),
        ("gsta", True),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in (("simvp", True), ("gsta", False), ("incepu", False), ("incepu", True))
        ),
    ],
)
def test_learns_one_batch(arch, residual):
    shape = geometry((3, 1, 16, 16), (2, 1, 16, 16), continues=(0,))
    model = build(shape, arch=arch, residual=residual)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    phase = torch.arange(2).view(2, 1, 1, 1, 1) * 2 + torch.arange(5).view(1, 5, 1, 1, 1)
    frames = torch.sin((rows + 2 * columns) / 4 + phase)
    x, y = frames[:, :3], frames[:, 3:]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=120)
    for step in range(120):
        ((player, loss, parts),) = model.losses(x, y, step)
        assert player == "forecaster"
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert parts["mse"].item() < 0.01 * y.var().item()


def test_residual_starts_at_persistence_of_the_channels_that_go_on():
    x = noise(2, 4, 3, 9, 10)
    model = build(geometry((4, 3, 9, 10), (5, 2, 9, 10), continues=(2, 0)), residual=True)
    assert torch.equal(model(x), x[:, -1:, [2, 0]].expand(-1, 5, -1, -1, -1))
    nn.init.ones_(model.forecaster.readout.bias)
    assert torch.equal(model(x), (x[:, -1:, [2, 0]] + 1).expand(-1, 5, -1, -1, -1))


def test_without_residual_the_last_frame_is_not_added():
    model = build(geometry(continues=(0,)))
    for p in model.forecaster.readout.parameters():
        nn.init.zeros_(p)
    assert not model(noise(1, 4, 1, 16, 16)).any()


def test_floor_holds_except_in_training():
    x = noise(2, 4, 1, 16, 16)
    free = build()
    held = build(geometry(floor=0.2))
    assert free(x).min() < 0.2
    assert torch.equal(held(x), free(x))
    assert torch.equal(held.eval()(x), free.eval()(x).clamp(min=0.2))


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_loss_is_of_the_pixels_seen(loss):
    model = build(loss=loss)
    x, y = noise(2, 4, 1, 16, 16), noise(2, 4, 1, 16, 16, seed=3)
    error = (model(x) - y)[..., 5:]
    y[..., :5] = float("nan")
    ((_, found, parts),) = model.losses(x, y, 0)
    expected = error.square().mean() if loss == "mse" else error.abs().mean()
    torch.testing.assert_close(found, expected)
    assert set(parts) == {loss}
    assert not parts[loss].requires_grad


def test_drop_path_leaves_blocks_out_in_training_only():
    model = build(arch="gsta", drop_path=0.6, n_t=3)
    blocks = [m for m in model.forecaster.translator if isinstance(m, GstaBlock)]
    assert [b.drop.rate for b in blocks] == pytest.approx([0.01, 0.305, 0.6])
    drop = blocks[-1].drop
    x = torch.ones(20_000, 1, 1, 1)
    torch.manual_seed(0)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.4])
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert drop.eval()(x) is x
    two = drop.train()(torch.ones(500, 2, 3, 3)).flatten(1)  # a sample as a whole
    assert (two.amin(1) == two.amax(1)).all()


def test_drop_path_0_draws_nothing():
    model = build(arch="gsta")
    before = torch.get_rng_state()
    model(noise(2, 4, 1, 16, 16))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"arch": "gsta", "n_s": 3}, "n_s is 3; arch gsta needs an even number"),
        ({"arch": "incepu", "n_s": 1}, "n_s is 1; arch incepu needs an even number"),
        ({"drop_path": 0.1}, "drop_path is for arch gsta"),
        ({"arch": "gsta", "drop_path": 1.0}, "less than 1"),
        ({"n_t": 1}, "greater than or equal to 2"),
        ({"hid_s": 7}, "multiple of 2"),
        ({"groups": 0}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        build(**settings)


def test_frames_and_features_must_divide_into_groups():
    shape = geometry((4, 1, 16, 16), (3, 1, 16, 16))
    with pytest.raises(ValueError, match=r"18 channels .* do not divide into 8 groups"):
        build(shape, hid_s=6)
    assert build(shape, hid_s=6, groups=2)(noise(1, 4, 1, 16, 16)).shape == (1, 3, 1, 16, 16)


def test_bad_geometries_are_refused():
    with pytest.raises(ValueError, match="x is 8 by 9 pixels and y 16 by 18"):
        build(geometry((4, 1, 8, 9), (4, 1, 16, 18)))
    with pytest.raises(ValueError, match="residual: true"):
        build(residual=True)


@pytest.mark.parametrize("translator", [IncepU, Gsta])
def test_translators_need_two_blocks(translator):
    with pytest.raises(ValueError, match="not 1"):
        translator(8, 16, 8, 1)


# Running it


@every_arch
def test_half_precision(arch):
    model, x = build(arch=arch, drop_path=0.1 if arch == "gsta" else 0), noise(2, 4, 1, 15, 16)
    with torch.autocast("cpu", torch.bfloat16):
        ((_, loss, _),) = model.losses(x, noise(2, 4, 1, 15, 16, seed=3), 0)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert half.dtype == torch.float32  # the last convolution is not of half precision
    torch.testing.assert_close(half, model(x), rtol=0.1, atol=0.05)
    assert not torch.equal(half, model(x))


@every_arch
def test_a_copy_is_the_same_and_its_own(arch):
    model, x = build(arch=arch).eval(), noise(1, 4, 1, 16, 16)
    again = copy.deepcopy(model)
    assert torch.equal(again(x), model(x))
    nn.init.zeros_(again.forecaster.readout.weight)
    assert not torch.equal(again(x), model(x))
