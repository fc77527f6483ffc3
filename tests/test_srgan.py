import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

import models
from models import Geometry
from models._blocks import prime_factors, scale_means
from models._losses import judging_loss, lead
from models._vgg import layers
from models.srgan import Settings

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives

GOLDEN = Path(__file__).parent / "golden" / "srgan_losses.json"
SMALL = {
    "width": 8,
    "n_residual_blocks": 2,
    "fine_width": 4,
    "discriminator_width": 4,
    "discriminator_hidden": 8,
}

both = pytest.mark.parametrize("arch", ["residual", "published"])


def geometry(T=1, C=1, h=8, w=8, scale=4, floor=None, block_means=True):
    y = (T, C, scale * h, scale * w)
    return Geometry((T, C, h, w), y, unit_range=floor is None, block_means=block_means, floor=floor)


def rain(**shape):
    """Of rain in log1p: 0 mm is 0."""
    return geometry(floor=0.0, block_means=False, **shape)


def build(shape=None, **settings):
    torch.manual_seed(0)
    if settings.get("arch") == "published":
        settings = {"content": "mse"} | settings  # no file of weights
    return models.build("srgan", shape or geometry(), settings)


def batch(size=2, shape=None):
    """Random truth in [-1, 1], or above the floor, and its area mean."""
    shape = shape or geometry()
    T, C, H, W = shape.y
    y = torch.rand(size, T, C, H, W, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y = y if shape.floor is None else shape.floor + y.relu()
    return F.avg_pool2d(y.flatten(0, 1), H // shape.x[2]).unflatten(0, (size, T)), y


def unzeroed(model):
    """The residual arch starts with a last layer of zeros; here every layer matters."""
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return model


def adams(model, lr=1e-4):
    return {n: torch.optim.Adam(p.parameters(), lr=lr) for n, p in model.players().items()}


def update(model, x, y, step, optimizers):
    """One step of the loop; the losses and parts by name."""
    made = {}
    for player, loss, parts in model.losses(x, y, step):
        if loss.requires_grad:
            optimizers[player].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[player].step()
        made |= {player: loss.item()} | {name: p.item() for name, p in parts.items()}
    return made


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("channels", "scale", "generator", "discriminator"),
    [
        (3, 4, 1_549_462, 23_565_505),
        (3, 2, 1_401_749, 23_565_505),
        (3, 8, 1_697_175, 23_565_505),
        (1, 4, 1_528_724, 23_564_353),
    ],
)
def test_published_counts(channels, scale, generator, discriminator):
    with torch.device("meta"):
        model = build(geometry(C=channels, h=16, w=16, scale=scale), arch="published")
    assert count(model.generator) == generator
    assert count(model.discriminator) == discriminator


def normalised(x, scale, shift):
    return F.batch_norm(x, None, None, scale, shift, training=True)


def published_by_hand(module, x, n_blocks, factors):
    """The published arithmetic on the module's weights, taken in the order of registration."""
    weights = module.parameters()

    def conv(x, padding=1):
        return F.conv2d(x, next(weights), next(weights), padding=padding)

    def prelu(x):
        return F.prelu(x, next(weights))

    def norm(x):
        return normalised(x, next(weights), next(weights))

    first = prelu(conv(x, 4))
    z = first
    for _ in range(n_blocks):
        z = z + norm(conv(prelu(norm(conv(z)))))
    z = first + norm(conv(z))
    for factor in factors:
        z = prelu(F.pixel_shuffle(conv(z), factor))
    z = torch.tanh(conv(z, 4))
    assert next(weights, None) is None
    return z


def judged_by_hand(module, z, n_blocks=8):
    weights = module.parameters()
    for i in range(n_blocks):
        z = F.conv2d(z, next(weights), next(weights), stride=1 + i % 2, padding=1)
        z = normalised(z, next(weights), next(weights)) if i else z
        z = F.leaky_relu(z, 0.2)
    z = F.adaptive_avg_pool2d(z, 6).flatten(1)
    z = F.leaky_relu(F.linear(z, next(weights), next(weights)), 0.2)
    z = F.linear(z, next(weights), next(weights))
    assert next(weights, None) is None
    return z


@pytest.mark.parametrize("scale", [2, 4])
def test_published_generator_is_the_published_function(scale):
    shape = geometry(T=2, h=10, w=9, scale=scale)
    model, (x, _) = build(shape, arch="published", n_residual_blocks=3, width=8), batch(2, shape)
    expected = published_by_hand(model.generator, x.flatten(0, 1), 3, prime_factors(scale))
    torch.testing.assert_close(model(x), expected.unflatten(0, (2, 2)), rtol=0, atol=1e-5)


def test_published_losses_are_the_published_ones():
    model, (x, y) = build(arch="published", pretrain_steps=1, **SMALL), batch(4)
    fake = published_by_hand(model.generator, x[:, 0], 2, (2, 2))
    on_real, on_fake = (judged_by_hand(model.discriminator, frames) for frames in (y[:, 0], fake))

    def bce(logits, label):
        return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, label))

    mse = (fake - y[:, 0]).square().mean()
    ((only, pretraining, _),) = model.losses(x, y, 0)
    assert only == "generator"
    torch.testing.assert_close(pretraining, mse)
    (first, d_loss, _), (second, g_loss, parts) = model.losses(x, y, 1)
    assert (first, second) == ("discriminator", "generator")
    torch.testing.assert_close(d_loss, bce(on_real, 1.0) + bce(on_fake, 0.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(g_loss, mse + 1e-3 * bce(on_fake, 1.0), rtol=1e-5, atol=0)
    assert set(parts) == {"content", "adversarial", "generator"}


def bicubic(x, scale=4):
    up = F.interpolate(x.flatten(0, 1), scale_factor=scale, mode="bicubic", align_corners=False)
    return up.unflatten(0, x.shape[:2])


def test_residual_starts_at_bicubic():
    x, _ = batch()
    assert torch.equal(build(consistent=False)(x), bicubic(x))
    x, _ = batch(2, rain())
    assert torch.equal(build(rain())(x), bicubic(x).relu())  # no rain is less than none


@pytest.mark.parametrize(
    ("scale", "factors"),
    [(2, [2]), (4, [2, 2]), (7, [7]), (12, [3, 2, 2]), (40, [5, 2, 2, 2]), (100, [5, 5, 2, 2])],
)
def test_factors_multiply_to_the_scale(scale, factors):
    assert prime_factors(scale) == factors
    shape = geometry(h=2, w=3, scale=scale)
    model = unzeroed(build(shape, **SMALL))
    steps = [m.upscale_factor for m in model.modules() if isinstance(m, nn.PixelShuffle)]
    assert steps == factors
    assert model(torch.zeros(1, 1, 1, 3, 2)).shape == (1, 1, 1, 3 * scale, 2 * scale)


def test_factors_may_be_given():
    model = build(factors=(4,), **SMALL)
    assert [m.upscale_factor for m in model.modules() if isinstance(m, nn.PixelShuffle)] == [4]
    with pytest.raises(ValueError, match=r"factors \[2, 3\] multiply to 6, the scale is 4"):
        build(factors=(2, 3))


@both
def test_frames_are_treated_one_by_one(arch):
    model = unzeroed(build(geometry(T=3), arch=arch, **SMALL)).eval()
    x = torch.rand(2, 5, 1, 7, 9)  # neither the length nor the size of the geometry
    whole = model(x)
    assert whole.shape == (2, 5, 1, 28, 36)
    alone = torch.cat([model(x[:, t : t + 1]) for t in range(5)], 1)
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("output", ["relu", "softplus"])
@pytest.mark.parametrize("floor", [-0.7, 0.0])
def test_nothing_is_below_the_floor(output, floor):
    shape = geometry(floor=floor, block_means=False)
    x = torch.rand(2, 1, 1, 8, 8) * 2 - 1.5 + floor
    bent, straight = (
        unzeroed(build(shape, output=o, **SMALL))(x).detach() for o in (output, "linear")
    )
    assert straight.min() < floor - 0.1
    assert bent.min() >= floor
    above = straight > floor + 0.1
    torch.testing.assert_close(bent[above], straight[above], rtol=0, atol=1e-4)


def test_rain_ends_in_relu_and_anything_else_does_not():
    assert build(rain()).output == "relu"
    assert build().output == "linear"


@pytest.mark.parametrize("output", ["linear", "relu", "softplus"])
def test_consistent_output_coarsens_to_x(output):
    shape = geometry(floor=-0.5)
    x, _ = batch(2, shape)
    x[0, :, :, :2] = -0.5  # no rain at all: none is made
    model = unzeroed(build(shape, output=output, **SMALL))
    assert model.consistent
    y = model(x)
    coarse = F.avg_pool2d(y.flatten(0, 1), 4).unflatten(0, (2, 1))
    torch.testing.assert_close(coarse, x, rtol=0, atol=1e-6)
    if output != "linear":
        assert y.min() >= -0.5
        torch.testing.assert_close(y[0, :, :, :8], torch.full_like(y[0, :, :, :8], -0.5))


def test_means_are_scaled_and_an_empty_block_is_filled_evenly():
    y = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 1, 2, 4)
    y.requires_grad_()
    found = scale_means(y, torch.tensor([2.0, 0.5]).view(1, 1, 1, 2), 2)
    expected = torch.tensor([[6.0, 2.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]).view(1, 1, 2, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    found.square().sum().backward()
    assert y.grad.isfinite().all()


def test_consistency_is_left_to_others_where_means_are_not_kept():
    assert not build(rain()).consistent
    with pytest.raises(ValueError, match="consistent: true needs x to be area means"):
        build(rain(), consistent=True)


@both
def test_each_half_leaves_the_other_alone(arch):
    model, (x, y) = build(arch=arch, pretrain_steps=0, **SMALL), batch()
    generator, discriminator = model.players().values()
    halves = model.losses(x, y, 0)
    next(halves)[1].backward()
    assert all(p.grad is None for p in generator.parameters())
    kept = [p.grad.clone() for p in discriminator.parameters()]
    assert all(g.any() for g in kept[:1] + kept[-2:])
    next(halves)[1].backward()
    assert all(p.grad.any() for p in list(generator.parameters())[-2:])
    after = [p.grad for p in discriminator.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, kept, strict=True))
    assert all(p.requires_grad for p in model.parameters())
    assert next(halves, None) is None


def test_one_generator_pass_an_iteration():
    model, (x, y) = build(pretrain_steps=0, **SMALL), batch()
    passes = []
    model.generator.register_forward_hook(lambda *_: passes.append(1))
    update(model, x, y, 0, adams(model))
    assert len(passes) == 1


def test_the_stages_of_a_run():
    model, (x, y) = build(pretrain_steps=3, pretrain="l1", content="mse", **SMALL), batch()
    played = [[player for player, *_ in model.losses(x, y, step)] for step in (0, 2, 3)]
    assert played == [["generator"], ["generator"], ["discriminator", "generator"]]
    error = (model(x) - y).detach()
    contents = [list(model.losses(x, y, step))[-1][2]["content"] for step in (2, 3)]
    torch.testing.assert_close(contents, [error.abs().mean(), error.square().mean()])


def test_without_a_weight_there_is_no_discriminator():
    model, (x, y) = build(pretrain_steps=0, lambda_adversarial=0, **SMALL), batch()
    assert [player for player, *_ in model.losses(x, y, 9)] == ["generator"]


@pytest.mark.parametrize("size", [(16, 16), (20, 20), (32, 40), (96, 72)])
@pytest.mark.parametrize("arch", ["residual", "published"])
def test_the_discriminator_takes_any_size(arch, size):
    judge = build(arch=arch, **SMALL).discriminator
    channels = 1 if arch == "published" else 2
    assert judge(torch.rand(3, channels, *size)).shape == (3, 1)


def test_smoothing_moves_the_best_verdict_on_real():
    logits = torch.linspace(-6, 6, 1201)
    nothing = torch.full((1,), -50.0)  # surely fake
    for smoothing in (0.1, 0.3):
        losses = [judging_loss("bce", each[None], nothing, smoothing) for each in logits]
        best = torch.sigmoid(logits[torch.stack(losses).argmin()])
        assert best.item() == pytest.approx(1 - smoothing, abs=0.01)


def test_lead_of_a_discriminator():
    real, fake = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0])
    assert lead(real, fake).item() == 0
    assert lead(torch.tensor([50.0]), torch.tensor([0.0])).item() == pytest.approx(0.6931, abs=1e-4)


def saturated(**settings):
    """What is logged after 50 steps of a discriminator whose generator never moves."""
    model, (x, y) = build(pretrain_steps=0, **SMALL | settings), batch()
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=1e-2)
    for step in range(50):
        _, loss, parts = next(model.losses(x, y, step))
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return parts


def test_a_discriminator_that_wins_can_be_held_back():
    """Training that ends at D loss 0.0000 teaches a generator nothing."""
    free = saturated(smoothing=0.0, condition=False)
    resting = saturated(smoothing=0.0, condition=False, rest_above=0.4)
    smooth = saturated(smoothing=0.1, condition=False)
    assert free["d_real"] - free["d_fake"] > 4
    assert resting["discriminator"] > 0.5
    assert resting["d_real"] - resting["d_fake"] < 2
    assert smooth["discriminator"] > 0.3  # the entropy of its labels is 0.325


def test_a_resting_discriminator_asks_for_no_gradient():
    model, (x, y) = build(pretrain_steps=0, rest_above=0.4, **SMALL), batch()
    last = model.discriminator.verdict[-1]
    loss, parts = next(model.losses(x, y, 0))[1:]
    assert loss.requires_grad
    assert parts["d_rests"] == 0
    with torch.no_grad():  # as sure as spectral norm allows, of everything being real
        last.bias.fill_(9.0)
    loss, parts = next(model.losses(x, y, 0))[1:]
    assert loss.requires_grad  # sure, and wrong about the fakes: it must learn


def test_faint_rain_is_judged_like_strong_rain():
    """Spectral norm hides what differs little, and normalised rain does."""
    x, y = batch(2, rain())
    parts = []
    for strength in (1.0, 0.5):
        model = build(rain(), pretrain_steps=0, **SMALL)
        parts.append(next(model.losses(strength * x, strength * y, 0))[2])
    torch.testing.assert_close(parts[0], parts[1], rtol=1e-4, atol=1e-6)


def test_no_rain_at_all_is_judged_without_trouble():
    model, (x, y) = build(rain(), pretrain_steps=0, **SMALL), batch(2, rain())
    optimizers = adams(model)
    for step in range(2):
        assert all(map(math.isfinite, update(model, 0 * x, 0 * y, step, optimizers).values()))
    assert all(p.isfinite().all() for p in model.parameters())


def nonlinear(function, *shape):
    a, b = torch.rand(*shape), torch.rand(*shape)
    zero = function(torch.zeros(*shape))
    apart = function(a + b) - zero - (function(a) - zero) - (function(b) - zero)
    return apart.abs().max().item()


@both
@torch.no_grad()
def test_no_activation_is_missing(arch):
    """Names in the wrong case made the specification's networks linear but for one layer."""
    model = unzeroed(build(arch=arch, **SMALL)).eval()
    bends = (nn.PReLU, nn.LeakyReLU)
    # head, one in each of 2 blocks, each of 2 sub-pixel steps
    assert sum(isinstance(m, bends) for m in model.generator.modules()) == 1 + 2 + 2
    assert sum(isinstance(m, bends) for m in model.discriminator.modules()) == 8 + 1
    channels = 1 if arch == "published" else 2
    assert nonlinear(model.generator.body, 1, 8, 6, 6) > 1e-4
    assert nonlinear(model.generator.tail, 1, 8, 6, 6) > 1e-4
    assert nonlinear(model.discriminator.body[:-1], 1, channels, 32, 32) > 1e-4


@both
def test_the_trunk_is_not_one_channel_wide(arch):
    with torch.device("meta"):
        model = build(rain(scale=100) if arch == "residual" else None, arch=arch)
    inner = [m for m in model.generator.modules() if isinstance(m, nn.Conv2d)][1:-1]
    assert min(min(m.in_channels, m.out_channels) for m in inner) >= 16
    biggest = max(count(m) for m in inner)
    assert biggest < 0.5 * count(model.generator)  # not all of it in one convolution


# VGG


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of torchvision's form, with the layers up to conv2_2."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save({f"features.{k}": v for k, v in layers(2, 2, True).state_dict().items()}, file)
    return file


def with_vgg(weights, shape=None, **settings):
    vgg = {"content": "vgg", "vgg_weights": weights, "vgg_layer": (2, 2), "pretrain_steps": 0}
    return build(shape, **SMALL | vgg | settings)


def test_vgg_content_is_the_distance_of_features(weights):
    model, (x, y) = with_vgg(weights, geometry(C=2), anchor=0.5), batch(2, geometry(C=2))
    model.prepare()
    with torch.no_grad():
        features = [model.vgg.module(frames.flatten(0, 1)) / 12.75 for frames in (model(x), y)]
        expected = (features[0] - features[1]).square().mean()
        anchor = (model(x) - y).abs().mean()
    (_, loss, parts) = list(model.losses(x, y, 0))[-1]
    torch.testing.assert_close(parts["content"], expected)
    torch.testing.assert_close(parts["anchor"], anchor)
    torch.testing.assert_close(loss, expected + 0.5 * anchor + 1e-4 * parts["adversarial"])
    plain = list(with_vgg(weights, geometry(C=2), anchor=0).losses(x, y, 0))[-1][2]
    assert set(plain) == {"content", "adversarial", "generator"}


def test_vgg_teaches_the_generator_and_nothing_else_sees_it(weights):
    model, (x, y) = with_vgg(weights, anchor=0, vgg_scale=1, lambda_adversarial=0), batch()
    bare = build(**SMALL)
    model.prepare()
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert count(model) == count(bare)
    optimizers = adams(model, 1e-3)
    steps = [update(model, x, y, step, optimizers)["content"] for step in range(15)]
    assert steps[-1] < 0.95 * steps[0]
    assert all(p.grad is None for p in model.vgg.module.parameters())


def test_black_is_the_floor(weights):
    model = with_vgg(weights, rain())
    model.prepare()
    assert (model.vgg.module.low, model.vgg.module.high) == (0.0, 1.0)
    model = with_vgg(weights)
    model.prepare()
    assert (model.vgg.module.low, model.vgg.module.high) == (-1.0, 1.0)


def test_vgg_does_not_see_what_is_missing(weights):
    model, (x, y) = with_vgg(weights), batch()
    y[0, :, :, :20, :12] = float("nan")
    outputs = []

    def keep(module, args, output):
        output.retain_grad()
        outputs.append(output)

    model.register_forward_hook(keep)
    list(model.losses(x, y, 0))[-1][1].backward()
    assert (outputs[0].grad[y.isnan()] == 0).all()
    assert outputs[0].grad[~y.isnan()].any()


def test_vgg_without_weights_says_what_to_do():
    told = r"download https://download.pytorch.org/models/vgg19-dcbb9e9d.pth .*model.vgg_weights"
    with pytest.raises(ValueError, match=told):
        build(content="vgg").prepare()
    with pytest.raises(ValueError, match=told):
        models.prepare(build(arch="published", content="vgg", **SMALL))
    build(content="l1").prepare()  # nothing is needed


def test_a_trained_model_needs_no_vgg(tmp_path):
    model = build(content="vgg", vgg_weights=tmp_path / "gone.pth", **SMALL)
    assert model(torch.zeros(1, 1, 1, 8, 8)).shape == (1, 1, 1, 32, 32)


# Settings and geometry


def test_arch_brings_its_defaults_and_the_given_wins():
    ours, published = Settings(), Settings(arch="published")
    assert (ours.norm, ours.output, ours.content, ours.condition) == (False, None, "mse", True)
    assert (published.norm, published.output, published.content) == (True, "tanh", "vgg")
    assert (published.n_residual_blocks, published.kernel, published.vgg_scale) == (16, 9, 1.0)
    assert Settings(arch="published", content="mse", width=8).content == "mse"
    for each in (ours, published, Settings(factors=(5, 2), vgg_weights="vgg.pth")):
        assert Settings(**each.model_dump(mode="json")) == each


def test_weights_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Settings(vgg_weights="vgg.pth").vgg_weights == tmp_path / "vgg.pth"


@pytest.mark.parametrize(
    "bad",
    [
        {"arch": "esrgan"},
        {"kernel": 4},
        {"factors": (1, 4)},
        {"output": "sigmoid"},
        {"smoothing": 0.5},
        {"lambda_adversarial": -1},
        {"content": "vgg16"},
        {"pretrain": "vgg"},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (rain(), {"output": "tanh"}, "output tanh needs y within -1..1"),
        (geometry(), {"output": "relu"}, "output relu needs a lowest value"),
        (geometry(), {"output": "tanh", "consistent": True}, "would leave tanh's"),
        (geometry(h=4), {"arch": "published"}, "16 by 32 pixels; batch norm after 4 halvings"),
        (geometry(h=2), {"content": "vgg"}, "8 by 32 pixels; stage 5 of VGG19 needs 16"),
        (geometry(scale=1), {}, "one whole number, 2 or more"),
    ],
)
def test_bad_geometry_is_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        build(shape, **settings)


@pytest.mark.parametrize(
    ("content", "dtype"),
    [("mse", torch.bfloat16), ("mse", torch.float16), ("vgg", torch.bfloat16)],
)
def test_autocast(weights, content, dtype):
    model, (x, y) = with_vgg(weights, content=content), batch()
    optimizers = adams(model)
    for step in (0, 1):
        with torch.autocast("cpu", dtype):
            halves = list(model.losses(x, y, step))
        for player, loss, parts in halves:
            assert loss.dtype == torch.float32
            assert all(p.isfinite() for p in parts.values())
            optimizers[player].zero_grad()
            loss.backward()
            optimizers[player].step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_first_five_losses_are_as_before(weights):
    losses = {}
    recipes = {
        "residual": {},
        "rain": {"shape": rain()},
        "published": {"arch": "published"},
        "vgg": {"content": "vgg", "vgg_weights": weights, "vgg_layer": (2, 2)},
    }
    for name, recipe in recipes.items():
        x, y = batch(2, recipe.get("shape"))
        model = build(**SMALL | {"pretrain_steps": 2} | recipe)
        optimizers = adams(model)
        losses[name] = [update(model, x, y, step, optimizers) for step in range(5)]
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was missing and is written; look at it, then run again")
    golden = json.loads(GOLDEN.read_text())
    for name, steps in losses.items():
        for step, before in zip(steps, golden[name], strict=True):
            assert step == pytest.approx(before, rel=1e-3, abs=1e-5)  # other CPUs sum otherwise
