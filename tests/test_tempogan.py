import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

import models
from models import Geometry
from models._losses import content_loss, r1
from models.tempogan import FAINT, Settings, in_detail

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives

GOLDEN = Path(__file__).parent / "golden" / "tempogan_losses.json"
SMALL = {"width": 8, "n_residual_blocks": 2}

both = pytest.mark.parametrize("arch", ["residual", "eddy"])


def geometry(T=3, C=1, h=8, w=8, scale=4):
    return Geometry(
        x=(T, C, h, w), y=(T, C, scale * h, scale * w), unit_range=True, block_means=True
    )


def build(shape=None, **settings):
    torch.manual_seed(0)
    return models.build("tempogan", shape or geometry(), settings)


def batch(size=2, shape=None):
    """Random truth in [-1, 1] and its area mean."""
    (_, C, h, _), (T, _, H, W) = (shape or geometry()).x, (shape or geometry()).y
    y = torch.rand(size, T, C, H, W, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return F.avg_pool2d(y.flatten(0, 1), H // h).unflatten(0, (size, T)), y


def unzeroed(model):
    """The residual arch starts with a last layer of zeros; here every layer matters."""
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return model


def update(model, x, y, step, optimizers):
    """One step of the loop; the losses and parts by name."""
    named = {}
    for player, loss, parts in model.losses(x, y, step):
        optimizers[player].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[player].step()
        named |= {player: loss.item()} | {name: p.item() for name, p in parts.items()}
    return named


def adams(model):
    return {n: torch.optim.Adam(p.parameters(), lr=1e-4) for n, p in model.players().items()}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_eddy_has_the_specified_counts():
    model = build(arch="eddy")
    spatial, temporal = model.discriminators["spatial"], model.discriminators["temporal"]
    assert [count(m) for m in (model.generator, spatial, temporal)] == [707_084, 690_785, 691_297]
    two = build(geometry(C=2), arch="eddy").discriminators
    assert [count(m) for m in two.values()] == [691_809, 692_833]


def normalised(x, scale, shift):
    return F.batch_norm(x, None, None, scale, shift, training=True)


def eddy_by_hand(module, x, n_blocks):
    """The specified arithmetic on the module's weights, taken in the order of registration."""
    weights = module.parameters()

    def conv(x, padding):
        return F.conv2d(x, next(weights), next(weights), padding=padding)

    def prelu(x):
        return F.prelu(x, next(weights))

    def norm(x):
        return normalised(x, next(weights), next(weights))

    def twice(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    first = prelu(conv(x, 2))
    z = first
    for _ in range(n_blocks):
        z = z + norm(conv(prelu(norm(conv(z, 1))), 1))
    z = first + norm(conv(z, 1))
    z = prelu(conv(twice(z), 1))
    z = prelu(conv(twice(z), 1))
    z = conv(z, 2)
    assert next(weights, None) is None
    return z  # before tanh


def judge_by_hand(module, seen):
    weights = module.parameters()
    z = F.conv2d(seen, next(weights), next(weights), stride=2, padding=1)
    z = F.leaky_relu(z, 0.2)
    for _ in range(3):
        z = F.conv2d(z, next(weights), next(weights), stride=2, padding=1)
        z = F.leaky_relu(normalised(z, next(weights), next(weights)), 0.2)
    z = F.linear(z.mean((2, 3)), next(weights), next(weights))
    assert next(weights, None) is None
    return z  # before the sigmoid


def test_eddy_generator_is_the_specified_function():
    model, (x, _) = build(arch="eddy"), batch()
    expected = torch.tanh(eddy_by_hand(model.generator, x.flatten(0, 1), 8)).unflatten(0, (2, 3))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


def test_eddy_losses_are_the_specified_ones():
    model, (x, y) = build(arch="eddy", **SMALL), batch(4)
    fake = torch.tanh(eddy_by_hand(model.generator, x.flatten(0, 1), 2)).view_as(y)
    beside = F.interpolate(x[:, 1], scale_factor=4, mode="bilinear", align_corners=False)

    def believed(name, frames):
        seen = torch.cat([frames[:, 1], beside], 1) if name == "spatial" else frames[:, :, 0]
        return torch.sigmoid(judge_by_hand(model.discriminators[name], seen))

    def bce(p, label):
        return F.binary_cross_entropy(p, torch.full_like(p, label))

    names = ("spatial", "temporal")
    judging = sum(bce(believed(n, y), 1.0) + bce(believed(n, fake), 0.0) for n in names)
    fooling = sum(bce(believed(n, fake), 1.0) for n in names)
    (first, d_loss, _), (second, g_loss, parts) = model.losses(x, y, 0)
    assert (first, second) == ("discriminators", "generator")
    torch.testing.assert_close(d_loss, judging, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        g_loss, (fake[:, 1] - y[:, 1]).abs().mean() + 1e-3 * fooling, rtol=1e-5, atol=0
    )
    assert set(parts) == {"content", "adv_s", "adv_t"}


def bicubic(x, scale=4):
    up = F.interpolate(x.flatten(0, 1), scale_factor=scale, mode="bicubic", align_corners=False)
    return up.unflatten(0, x.shape[:2])


def test_residual_starts_at_bicubic():
    x, _ = batch()
    assert torch.equal(build(consistent=False)(x), bicubic(x))


@both
def test_consistent_output_coarsens_to_x(arch):
    model, (x, _) = unzeroed(build(arch=arch, consistent=True, **SMALL)), batch()
    coarse = F.avg_pool2d(model(x).flatten(0, 1), 4).unflatten(0, (2, 3))
    torch.testing.assert_close(coarse, x, rtol=0, atol=1e-6)


def test_consistency_never_raises_the_error():
    x, y = batch()
    free = unzeroed(build(consistent=False, **SMALL))
    tied = build(consistent=True, **SMALL)
    tied.load_state_dict(free.state_dict())
    # an orthogonal projection on a set that holds the truth: error² falls by the step's length²
    fell = (free(x) - y).square().sum() - (tied(x) - y).square().sum()
    torch.testing.assert_close(fell, (free(x) - tied(x)).square().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [2, 3, 5, 6])
def test_residual_takes_other_factors(scale):
    shape = geometry(h=8, w=9, scale=scale)
    x, y = batch(1, shape)
    assert build(shape, temporal_pool=1, **SMALL)(x).shape == y.shape


@both
@pytest.mark.parametrize("T", [1, 5])
def test_any_length_and_size(arch, T):
    model = build(arch=arch, **SMALL).eval()
    assert model(torch.zeros(2, T, 1, 7, 9)).shape == (2, T, 1, 28, 36)


@both
def test_each_half_leaves_the_other_alone(arch):
    model, (x, y) = build(arch=arch, **SMALL), batch()
    generator, discriminators = model.players().values()
    halves = model.losses(x, y, 1000)
    next(halves)[1].backward()
    assert all(p.grad is None for p in generator.parameters())
    kept = [p.grad.clone() for p in discriminators.parameters()]
    assert all(g.any() for g in kept[::2])  # weights; batch norm takes a bias' gradient away
    next(halves)[1].backward()
    assert all(p.grad.any() for p in list(generator.parameters())[-2:])
    assert all(
        torch.equal(p.grad, k) for p, k in zip(discriminators.parameters(), kept, strict=True)
    )
    assert all(p.requires_grad for p in model.parameters())
    assert next(halves, None) is None


@both
def test_one_generator_pass_an_iteration(arch):
    model, (x, y) = build(arch=arch, **SMALL), batch()
    passes = []
    model.generator.register_forward_hook(lambda *_: passes.append(1))
    update(model, x, y, 1000, adams(model))
    assert len(passes) == 1


def test_warm_up_is_content_alone():
    model, (x, y) = build(warmup_steps=3, **SMALL), batch()
    played = [[player for player, *_ in model.losses(x, y, step)] for step in (0, 2, 3)]
    assert played == [["generator"], ["generator"], ["discriminators", "generator"]]


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ({"lambda_adv_s": 0}, {"content", "d_t", "d_real_t", "d_fake_t", "adv_t"}),
        ({"lambda_adv_t": 0}, {"content", "d_s", "d_real_s", "d_fake_s", "adv_s"}),
        ({"lambda_adv_s": 0, "lambda_adv_t": 0}, {"content"}),
    ],
)
def test_a_weight_of_zero_is_a_discriminator_not_run(weights, parts):
    model, (x, y) = build(**weights, **SMALL), batch()
    optimizers = adams(model)
    named = update(model, x, y, 1000, optimizers)
    assert set(named) - set(optimizers) == parts


def judged_pictures(model, x, y):
    """What the spatial discriminator is shown in its own half: real, generated, x beside them."""
    shown = []
    hook = model.discriminators["spatial"].register_forward_pre_hook(
        lambda _, given: shown.append(given)
    )
    next(model.losses(x, y, 1000))
    hook.remove()
    ((frames, beside),) = shown
    real, made = frames.detach().chunk(2)
    return real, made, beside.chunk(2)[0]


def test_judged_is_what_frames_have_beyond_x():
    model, (x, y) = unzeroed(build(**SMALL)), batch()
    real, made, beside = judged_pictures(model, x, y)
    smooth = F.interpolate(x.flatten(0, 1), scale_factor=4, mode="bilinear", align_corners=False)
    detail, ours = y.flatten(0, 1) - smooth, model(x).detach().flatten(0, 1) - smooth
    spread = detail.square().mean().sqrt()
    torch.testing.assert_close(real, detail / spread)
    torch.testing.assert_close(made, ours / spread)  # of the truth, lest a blur look sharp
    torch.testing.assert_close(beside, smooth / smooth.std(correction=0))


def test_judged_frames_are_shown_as_they_are():
    model, (x, y) = unzeroed(build(judged="frames", **SMALL)), batch()
    real, made, beside = judged_pictures(model, x, y)
    assert torch.equal(real, y.flatten(0, 1))
    torch.testing.assert_close(made, model(x).detach().flatten(0, 1))
    smooth = F.interpolate(x.flatten(0, 1), scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.equal(beside, smooth)


def test_faint_detail_is_shown_like_strong_detail():
    """Spectral norm hides what differs little, and real and generated frames share all of x."""
    (x, y), (_, other) = batch(), batch(3)
    smooth = bicubic(x)
    seen = torch.ones_like(y, dtype=torch.bool)
    strong, faint = (
        in_detail(smooth + s * y, smooth + s * other[:2], smooth, seen) for s in (1.0, 0.1)
    )
    for one, another in zip(strong, faint, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-5)
    fainter = in_detail(smooth + 1e-5 * y, smooth, smooth, seen)[0]
    assert fainter.abs().max() <= 1e-5 / FAINT * 1.1  # noise is not blown up


def test_detail_counts_where_the_truth_is_known():
    y = torch.tensor([3.0, -1.0, 7.0, 2.0]).view(1, 1, 1, 2, 2)
    beside = torch.tensor([0.0, 3.0, 5.0, 2.0]).view_as(y)
    seen = torch.tensor([True, True, False, True]).view_as(y)
    real, made, _ = in_detail(y.where(seen, 0.0), -y.where(seen, 0.0), beside, seen)
    spread = (9 + 16 + 0) ** 0.5 / 3**0.5
    assert real.flatten().tolist() == pytest.approx([3 / spread, -4 / spread, 0, 0])
    assert made.flatten().tolist() == pytest.approx([-3 / spread, -2 / spread, 0, -4 / spread])
    flat, _, coarse = in_detail(beside, beside, beside, seen & False)
    assert not flat.any()
    assert coarse.isfinite().all()
    nothing = in_detail(0 * beside, 0 * beside, 0 * beside, seen)
    assert all(picture.eq(0).all() for picture in nothing)


def test_the_temporal_discriminator_sees_means():
    """What has no means over 2x2 pixels is hidden from it, and what has is not."""
    x, y = batch()
    chess = 1.0 - 2 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2)
    stripes = 1.0 - 2 * (torch.arange(32) // 2).remainder(2)

    def verdicts(added, pool):
        model = build(temporal_pool=pool, lambda_adv_s=0, judged="frames", **SMALL).eval()
        parts = next(model.losses(x, y + added, 1000))[2]
        return parts["d_real_t"].item()

    assert verdicts(chess, 2) == pytest.approx(verdicts(0, 2), abs=1e-6)
    assert verdicts(chess, 1) != pytest.approx(verdicts(0, 1), abs=1e-4)
    assert verdicts(stripes, 2) != pytest.approx(verdicts(0, 2), abs=1e-4)


@pytest.mark.parametrize("adversarial", ["bce", "hinge"])
@pytest.mark.parametrize("mask", [False, True])
@both
def test_r1_is_added_every_few_steps(arch, adversarial, mask):
    x, y = batch()
    if mask:
        y[:, 0, :, :9] = float("nan")
    ours = {"arch": arch, "adversarial": adversarial, **SMALL}
    plain = next(build(**ours).losses(x, y, 1024))[1]
    model = build(r1_gamma=2.0, r1_every=8, **ours)
    _, loss, parts = next(model.losses(x, y, 1024))
    torch.testing.assert_close(loss, plain + 2 / 2 * 8 * (parts["r1_s"] + parts["r1_t"]))
    assert "r1_s" not in next(model.losses(x, y, 1025))[2]
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.discriminators.parameters())


def test_r1_of_a_plane_is_its_slope_squared():
    slope = torch.tensor([3.0, 4.0, 12.0], requires_grad=True)
    seen = torch.tensor([[True, True, True], [True, True, False]])
    penalty = r1(lambda real, _: real @ slope, torch.rand(2, 3), None, seen)
    assert penalty.item() == pytest.approx((169 + 25) / 2)
    penalty.backward()
    assert slope.grad.tolist() == pytest.approx([2 * 3, 2 * 4, 12])  # half the batch sees the 12


def test_content_counts_the_pixels_seen():
    nan = float("nan")
    prediction = torch.tensor([1.0, 5.0, 7.0], requires_grad=True)
    assert content_loss("l1", prediction, torch.tensor([0.0, 2.0, nan])).item() == 2  # (1 + 3) / 2
    assert content_loss("mse", prediction, torch.tensor([0.0, 2.0, nan])).item() == 5  # (1 + 9) / 2
    nothing = content_loss("l1", prediction, torch.full((3,), nan))
    nothing.backward()
    assert nothing.item() == 0
    assert prediction.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("adversarial", ["bce", "hinge"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@both
def test_autocast(arch, dtype, adversarial):
    model, (x, y) = build(arch=arch, adversarial=adversarial, r1_gamma=1.0, **SMALL), batch()
    optimizers = adams(model)
    for step in (1024, 1025):
        with torch.autocast("cpu", dtype):
            halves = list(
                zip(("discriminators", "generator"), model.losses(x, y, step), strict=True)
            )
        for player, (_, loss, parts) in halves:
            assert loss.dtype == torch.float32
            assert all(p.isfinite() for p in parts.values())
            optimizers[player].zero_grad()
            loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_arch_brings_its_defaults_and_the_given_wins():
    ours, specified = Settings(), Settings(arch="eddy")
    assert (ours.condition_dt, ours.consistent) == (True, True)
    assert (ours.judged, ours.temporal_pool) == ("detail", 2)
    assert (specified.lambda_adv_s, specified.lambda_adv_t) == (1e-3, 1e-3)
    assert (specified.warmup_steps, specified.condition_dt, specified.consistent) == (
        0,
        False,
        False,
    )
    assert (specified.judged, specified.temporal_pool) == ("frames", 1)
    assert Settings(arch="eddy", warmup_steps=7, condition_dt=True).warmup_steps == 7
    assert Settings(**specified.model_dump()) == specified


@pytest.mark.parametrize(
    "bad",
    [{"arch": "edsr"}, {"width": 0}, {"lambda_adv_s": -1}, {"r1_every": 0}, {"content": "l3"}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        ((3, 1, 8, 8), (2, 1, 32, 32), {}, "3 frames of 1 channels and y 2 of 1"),
        ((3, 1, 8, 8), (3, 2, 32, 32), {}, "3 frames of 1 channels and y 3 of 2"),
        ((3, 1, 8, 8), (3, 1, 32, 24), {}, "8 by 8 pixels and y 32 by 24"),
        ((3, 1, 8, 8), (3, 1, 33, 33), {}, "8 by 8 pixels and y 33 by 33"),
        ((3, 1, 8, 8), (3, 1, 8, 8), {}, "one whole number, 2 or more"),
        ((3, 1, 8, 8), (3, 1, 16, 16), {"arch": "eddy"}, "scale 4, not 2"),
        (
            (3, 1, 3, 8),
            (3, 1, 12, 32),
            {},
            "12 by 32 pixels; the spatial discriminator needs 16 by 16",
        ),
        ((3, 1, 7, 8), (3, 1, 28, 32), {}, "temporal discriminator needs 32 by 32, or a smaller"),
        ((3, 1, 7, 8), (3, 1, 28, 32), {"arch": "eddy"}, "28 by 32 .* spatial .* needs 32 by 32"),
        ((1, 1, 8, 8), (1, 1, 32, 32), {}, "set lambda_adv_t to 0"),
    ],
)
def test_bad_geometry_is_refused(x, y, settings, message):
    with pytest.raises(ValueError, match=message):
        models.build("tempogan", Geometry(x, y, unit_range=True, block_means=True), settings)


def test_single_small_frames_are_fine_without_discriminators():
    shape = geometry(T=1, h=3, w=3)
    model = build(shape, lambda_adv_s=0, lambda_adv_t=0, **SMALL)
    assert model(torch.zeros(1, 1, 1, 3, 3)).shape == (1, 1, 1, 12, 12)


def test_first_five_losses_are_as_before():
    x, y = batch()
    losses = {}
    for arch in ("residual", "eddy"):
        model = build(arch=arch, warmup_steps=2, **SMALL)
        optimizers = adams(model)
        losses[arch] = [update(model, x, y, step, optimizers) for step in range(5)]
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was missing and is written; look at it, then run again")
    golden = json.loads(GOLDEN.read_text())
    for arch, steps in losses.items():
        for step, before in zip(steps, golden[arch], strict=True):
            assert step == pytest.approx(before, rel=1e-3, abs=1e-5)  # other CPUs sum otherwise
