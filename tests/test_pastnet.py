import copy
import io
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

import models
from models import Geometry
from models._vq import AT_ONCE, Codebook
from models.pastnet import ResidualBlock, Settings, SpectralBlock, SpectralBranch, SpectralMixing
from pipeline.engine import Average

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives

SMALL = {
    "width": 16,
    "res_layers": 1,
    "res_units": 8,
    "codes": 32,
    "code_width": 8,
    "hid_t": 32,
    "n_t": 2,
    "patch": 8,
    "embed": 16,
}

both = pytest.mark.parametrize("arch", ["corrected", "faithful"])


def geometry(T=4, C=1, H=32, W=32, frames=None, channels=None, continues=()):
    y = (frames or T, channels or C, H, W)
    return Geometry((T, C, H, W), y, continues=continues)


def build(shape=None, **settings):
    torch.manual_seed(0)
    return models.build("pastnet", shape or geometry(), SMALL | settings)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(size=2, T=8):
    """A spot that drifts over 32 by 32 pixels, cut into past and future of four frames."""
    t = torch.arange(T).view(1, T, 1, 1, 1)
    start = torch.arange(size).view(-1, 1, 1, 1, 1) * 5 + 6
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    frames = torch.exp(-((rows - start - 2 * t) ** 2 + (columns - start) ** 2) / 10.0)
    return frames[:, :4], frames[:, 4:]


def count(module):
    return sum(p.numel() for p in module.parameters())


def codebook(codes=16, width=3, **settings):
    torch.manual_seed(0)
    return Codebook(codes, width, **settings)


def pictures(vectors):
    """(M, width) -> (1, width, M, 1), as a codebook takes them."""
    return vectors.T[None, :, :, None]


def unchanged(book, before):
    return all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


# The network


@pytest.mark.parametrize(
    ("settings", "published"),
    [({}, 16_498_326), ({"res_units": 64, "res_layers": 2}, 16_497_302)],
    ids=["script", "class"],
)
def test_published_counts(settings, published):
    shape = geometry(10, 1, 64, 64)
    model = models.build("pastnet", shape, {"arch": "faithful"} | settings)
    book = model.network.codebook
    # Released, the codes and their sums are nn.Parameter, though no optimizer may move them
    assert count(model) + book.codes.numel() + book.sums.numel() == published
    assert {name for name, _ in book.named_buffers()} == {"codes", "sums", "counts"}
    assert not list(book.parameters())


def test_published_counts_of_the_parts():
    network = models.build("pastnet", geometry(10, 1, 64, 64), {"arch": "faithful"}).network
    assert count(network.spectral) == 127_061
    assert count(network.translator) == 15_481_344
    assert count(network.encoder) + count(network.decoder) + 2 * 512 * 64 == 889_921


def released(model, x):
    """The released forward pass in eval mode, of the model's weights; x divides by the patch."""
    net, (B, T, C, H, W) = model.network, x.shape

    def residuals(z, blocks):
        for block in blocks:
            first, norm1, _, second, norm2 = block.body
            z = z.clone()
            y = F.relu_(z)  # in place: the skip adds what is left of z
            y = F.relu(norm1(F.conv2d(y, first.weight, padding=1)))
            z = z + norm2(F.conv2d(y, second.weight))
        return F.relu(z)

    def layer(z, conv, **options):
        return F.conv2d(z, conv.weight, conv.bias, **options)

    frames = x.reshape(B * T, C, H, W)
    halve, _, quarter, _, third, *blocks, _, narrow = net.encoder
    z = F.relu(layer(frames, halve, stride=2, padding=1))
    z = layer(F.relu(layer(z, quarter, stride=2, padding=1)), third, padding=1)
    z = layer(residuals(z, blocks), narrow)
    codes = net.codebook.codes
    flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    z = codes[torch.cdist(flat, codes).argmin(1)].reshape(B * T, H // 4, W // 4, -1)
    z = z.permute(0, 3, 1, 2)
    z = net.translator(z.reshape(B, -1, H // 4, W // 4)).reshape(B * T, -1, H // 4, W // 4)
    widen, *blocks, _, up, _ = net.decoder.body
    z = residuals(layer(z, widen, padding=1), blocks)
    last = net.decoder.last
    z = F.relu(F.conv_transpose2d(z, up.weight, up.bias, stride=2, padding=1))
    z = F.conv_transpose2d(z, last.weight, last.bias, stride=2, padding=1)

    branch = net.spectral
    patch = branch.patches.kernel_size[0]
    tokens = layer(frames, branch.patches, stride=patch).flatten(2).transpose(1, 2)  # (N, hw, E)
    tokens = tokens + branch.positions.flatten(2).transpose(1, 2)
    for block in branch.blocks:
        norm, filtering = block.among
        tokens = tokens + filtered(filtering, normed(tokens, norm), H // patch, W // patch)
        norm, widening, _ = block.within
        wide = F.gelu(F.linear(normed(tokens, norm), widening.weight, widening.bias))
        tokens = tokens + F.adaptive_avg_pool1d(wide, tokens.shape[-1])
    tokens = normed(tokens, branch.norm).transpose(1, 2).reshape(B * T, -1, H // patch, W // patch)
    first, _, second, _, third = branch.tail
    tokens = torch.tanh(F.conv_transpose2d(tokens, first.weight, first.bias, stride=2))
    tokens = torch.tanh(F.conv_transpose2d(tokens, second.weight, second.bias, stride=2))
    tokens = F.conv_transpose2d(tokens, third.weight, third.bias, stride=patch // 4)
    return (z + tokens).reshape(x.shape)


def normed(tokens, norm):
    return F.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, 1e-6)


def filtered(filtering, tokens, h, w):
    """The released filter: (N, h w, E), the imaginary part from the new real one."""
    (w1r, w1i), (w2r, w2i) = filtering.weights1, filtering.weights2
    (b1r, b1i), (b2r, b2i) = filtering.bias1, filtering.bias2
    f = torch.fft.rfft2(tokens.reshape(-1, h, w, tokens.shape[-1]), dim=(1, 2), norm="ortho")
    shape = f.shape
    f = f.reshape(*shape[:3], 4, -1)[..., None, :]  # (N, h, w', 4, 1, E / 4)
    real = F.relu(f.real @ w1r - f.imag @ w1i + b1r[:, None])
    imaginary = F.relu(f.real @ w1i + f.imag @ w1r + b1i[:, None])
    real = real @ w2r - imaginary @ w2i + b2r[:, None]
    imaginary = real @ w2i + imaginary @ w2r + b2i[:, None]
    f = (real + 1j * imaginary).reshape(shape)
    return torch.fft.irfft2(f, s=(h, w), dim=(1, 2), norm="ortho").reshape(tokens.shape)


@pytest.mark.parametrize("C", [1, 2])
def test_faithful_is_the_released_arithmetic(C):
    x = random(2, 4, C, 32, 48)
    model = build(geometry(4, C, 32, 48), arch="faithful", depth=2, res_layers=2)
    for p in model.network.spectral.parameters():
        nn.init.normal_(p, std=0.3)  # so that every term is felt
    list(model.losses(x, x, 0))  # batch norm and codes have moved
    with torch.no_grad():
        expected = released(model.eval(), x)
        assert torch.allclose(model(x), expected, atol=1e-5)
        corrected = build(geometry(4, C, 32, 48), depth=2, res_layers=2, mixing=False).eval()
        corrected.load_state_dict(model.state_dict())
        assert not torch.allclose(corrected(x), expected, atol=1e-2)


def test_corrected_filter_multiplies_complex_numbers():
    mixing, tokens = SpectralMixing(16, overwritten=False).double(), random(3, 6, 5, 16).double()
    for p in mixing.parameters():
        nn.init.normal_(p)
    w1, b1, w2, b2 = (
        torch.complex(*p) for p in (mixing.weights1, mixing.bias1, mixing.weights2, mixing.bias2)
    )
    f = torch.fft.fft2(tokens, dim=(1, 2), norm="ortho")[:, :, :3].unflatten(-1, (4, 4))
    hidden = torch.einsum("nhwgi,gio->nhwgo", f, w1) + b1
    hidden = torch.complex(hidden.real.relu(), hidden.imag.relu())
    out = (torch.einsum("nhwgi,gio->nhwgo", hidden, w2) + b2).flatten(-2)
    expected = torch.fft.irfft2(out, s=(6, 5), dim=(1, 2), norm="ortho")
    with torch.no_grad():
        assert torch.allclose(mixing(tokens), expected)
        mixing.overwritten = True
        assert not torch.allclose(mixing(tokens), expected, rtol=0.01)


def test_skip_of_a_residual_block():
    x = random(2, 4, 8, 8)
    for cut in (False, True):
        block = ResidualBlock(4, 2, cut).eval()
        nn.init.zeros_(block.body[3].weight)  # the body is silent
        assert torch.equal(block(x), x.relu() if cut else x)


def test_corrected_uses_every_parameter_and_faithful_leaves_one_layer():
    x, y = batch()
    for arch, unused in (("corrected", set()), ("faithful", {"weight", "bias"})):
        model = build(arch=arch)
        next(model.losses(x, y, 0))[1].backward()
        still = {name for name, p in model.network.named_parameters() if p.grad is None}
        assert still == {f"spectral.blocks.0.back.{name}" for name in unused}


def test_second_linear_layer_counts():
    tokens, block = random(1, 4, 4, 8), SpectralBlock(8, faithful=False)
    with torch.no_grad():
        before = block(tokens)
        block.back.bias += 1.0
        assert torch.allclose(block(tokens), before + 1)


@pytest.mark.parametrize(
    "shape",
    [
        geometry(H=48, W=80),
        geometry(H=50, W=66),
        geometry(C=2),
        geometry(T=3, frames=6),
        geometry(T=6, frames=2, C=3, channels=1, H=21, W=17),
        geometry(T=1, frames=1, H=5, W=5),
    ],
    ids=str,
)
@pytest.mark.parametrize("mixing", [True, False])
def test_shapes(shape, mixing):
    model = build(shape, mixing=mixing)
    x, y = random(2, *shape.x), random(2, *shape.y)
    ((_, loss, _),) = model.losses(x, y, 0)
    loss.backward()
    assert model(x).shape == y.shape
    assert loss.isfinite()


@both
def test_other_sizes_and_batches_than_built_for(arch):
    model = build(arch=arch).eval()
    for B, H, W in ((1, 32, 32), (3, 50, 66), (2, 16, 40)):
        assert model(random(B, 4, 1, H, W)).shape == (B, 4, 1, H, W)


def test_a_padded_field_is_the_mirrored_field():
    model, x = build().eval(), random(1, 4, 1, 32, 32)
    with torch.no_grad():
        whole = model(F.pad(x[..., :28, :], (0, 0, 0, 4, 0, 0), "reflect"))
        assert torch.equal(model(x[..., :28, :]), whole[..., :28, :])


def test_positions_are_interpolated_for_another_size():
    branch = SpectralBranch(Settings(**SMALL), 1, 1, (32, 32))
    nn.init.zeros_(branch.patches.weight)
    nn.init.zeros_(branch.patches.bias)
    seen = []
    branch.blocks.register_forward_pre_hook(lambda _, args: seen.append(args[0].movedim(-1, 1)))
    branch(torch.zeros(1, 1, 32, 32))
    branch(torch.zeros(1, 1, 64, 64))
    assert torch.equal(seen[0], branch.positions)
    assert seen[1].shape == (1, 16, 8, 8)
    assert torch.allclose(seen[1][..., 0, 0], branch.positions[..., 0, 0])  # in the corner
    assert torch.allclose(
        F.avg_pool2d(seen[1], 2)[..., 1, 1], F.avg_pool2d(seen[1][..., 2:4, 2:4], 2)[..., 0, 0]
    )


@pytest.mark.parametrize(
    ("frames", "mixing", "sources"),
    [
        (4, True, [{0, 1, 2, 3}] * 4),
        (4, False, [{0}, {1}, {2}, {3}]),
        (2, False, [{2}, {3}]),
        (6, False, [{0}, {1}, {2}, {3}, {3}, {3}]),
        (6, True, [{0, 1, 2, 3}] * 6),
    ],
)
def test_frames_that_the_spectrum_answers_from(frames, mixing, sources):
    model = build(geometry(frames=frames), mixing=mixing)
    x = random(1, 4, 1, 32, 32).requires_grad_()
    coarse = model.network._coarse(x)
    assert coarse.shape == (1, frames, 1, 32, 32)
    for t, expected in enumerate(sources):
        (slope,) = torch.autograd.grad(coarse[:, t].sum(), x, retain_graph=True)
        assert {s for s in range(4) if slope[:, s].any()} == expected


@pytest.mark.parametrize("arch", ["corrected", pytest.param("faithful", marks=pytest.mark.slow)])
def test_learns_one_batch(arch):
    model, (x, y) = build(arch=arch), batch()
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    for step in range(70):
        ((player, loss, parts),) = model.losses(x, y, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert player == "forecaster"
    assert parts["content"] < 0.05 * y.var()


@pytest.mark.parametrize("silent", ["spectral", pytest.param("decoder", marks=pytest.mark.slow)])
def test_each_branch_learns_alone(silent):
    model, (x, y) = build(), batch()
    for p in getattr(model.network, silent).parameters():
        nn.init.zeros_(p).requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 6e-3)
    for step in range(60):
        ((_, loss, parts),) = model.losses(x, y, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["content"] < 0.3 * y.var()


def test_residual_starts_at_the_last_frame():
    shape = geometry(C=3, channels=2, frames=5, continues=(2, 0))
    model, x = build(shape, residual=True).eval(), random(2, *shape.x)
    last = x[:, -1:, [2, 0]].expand(-1, 5, -1, -1, -1)
    assert torch.equal(model(x), last)
    plain = build(shape).eval()
    assert not torch.allclose(plain(x), last, atol=0.1)
    model.train()
    ((_, loss, parts),) = model.losses(x, last + 0.5, 0)
    assert parts["content"] == pytest.approx(0.25)
    loss.backward()
    lasts = (model.network.decoder.last, model.network.spectral.tail[-1])
    assert all(layer.weight.grad.any() for layer in lasts)
    with torch.no_grad():
        lasts[0].bias += 0.25
        lasts[1].bias += 0.5
        assert torch.allclose(model.eval()(x), last + 0.75)


# The loss


def test_loss_is_content_and_commitment_of_the_same_scale():
    x, y = random(2, 4, 1, 32, 32) * 3, random(2, 4, 1, 32, 32, seed=2)
    for kind, scale in (("mse", x.var(correction=0)), ("l1", x.std(correction=0))):
        model = build(loss=kind).eval()
        ((_, loss, parts),) = model.losses(x, y, 0)
        error = model(x) - y
        content = error.abs().mean() if kind == "l1" else error.square().mean()
        assert torch.isclose(parts["content"], content)
        assert parts["commitment"] > 0
        assert torch.isclose(loss, content + 0.25 * scale * parts["commitment"])
        assert not any(p.requires_grad for p in parts.values())


def test_faithful_leaves_the_commitment_out():
    (x, y), model = batch(), build(arch="faithful").eval()
    ((_, loss, parts),) = model.losses(x, y, 0)
    assert loss == parts["content"]
    assert parts["commitment"] > 0


def test_missing_truth_does_not_count():
    (x, y), model = batch(), build()
    y[0, :, :, :20, :12] = float("nan")
    y[1, 0] = float("nan")
    seen = ~y.isnan()
    answers = []
    model.network.register_forward_hook(lambda *args: answers.append(args[-1][0]))
    ((_, loss, parts),) = model.losses(x, y, 0)
    answers[0].retain_grad()
    loss.backward()
    assert parts["content"] == pytest.approx((answers[0] - y)[seen].square().mean().item())
    assert not answers[0].grad[~seen].any()
    assert answers[0].grad[seen].all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# The codebook


def test_each_vector_becomes_its_nearest_code():
    book, vectors = codebook(), random(50, 3)
    codes, distance, _ = book(pictures(vectors), learn=False)
    between = torch.cdist(vectors, book.codes)
    assert torch.equal(codes[0, :, :, 0].T, book.codes[between.argmin(1)])
    assert torch.isclose(distance, between.min(1).values.square().mean() / 3)


def test_nearest_in_parts():
    book, vectors = codebook(codes=5, width=2), random(AT_ONCE + 100, 2)
    assert torch.equal(book.nearest(vectors), torch.cdist(vectors, book.codes).argmin(1))


def test_gradients_pass_straight_through():
    book, z = codebook(), random(2, 3, 4, 5).requires_grad_()
    slope = random(2, 3, 4, 5, seed=7)
    codes, distance, _ = book(z, learn=True)
    (straight,) = torch.autograd.grad((codes * slope).sum(), z, retain_graph=True)
    assert torch.equal(straight, slope)
    (drawn,) = torch.autograd.grad(distance, z)
    assert torch.allclose(drawn, 2 * (z - codes).detach() / z.numel())


def test_perplexity():
    book = codebook(codes=8, width=8)
    book.codes.copy_(torch.eye(8))
    for used in (1, 2, 8):
        vectors = torch.eye(8)[torch.arange(24) % used]
        assert book(pictures(vectors), learn=False)[2] == pytest.approx(used)
    skewed = torch.eye(8)[[0, 0, 0, 1]]  # 2 ** entropy in bits
    assert book(pictures(skewed), learn=False)[2] == pytest.approx(2**0.8112781, rel=1e-5)


def test_codes_follow_by_moving_averages():
    """Two batches by hand: 0.9 and 0.1, from counts 0 and sums that are not the codes'."""
    book = codebook(codes=2, width=1, decay=0.9)
    book.codes.copy_(torch.tensor([[0.0], [10.0]]))
    book.sums.copy_(torch.tensor([[1.0], [2.0]]))
    codes, *_ = book(pictures(torch.tensor([[1.0], [3.0], [9.0]])), learn=True)
    assert codes.flatten().tolist() == [0.0, 0.0, 10.0]  # as they were
    # counts 0.1 × (2, 1); sums 0.9 × (1, 2) + 0.1 × (1 + 3, 9)
    assert book.counts.tolist() == pytest.approx([0.2, 0.1], rel=1e-3)
    assert book.sums.flatten().tolist() == pytest.approx([1.3, 2.7])
    assert book.codes.flatten().tolist() == pytest.approx([6.5, 27.0], rel=1e-3)
    book(pictures(torch.tensor([[7.0]])), learn=True)
    assert book.counts.tolist() == pytest.approx([0.28, 0.09], rel=1e-3)
    assert book.sums.flatten().tolist() == pytest.approx([1.87, 2.43])
    assert book.codes.flatten().tolist() == pytest.approx([6.67857, 27.0], rel=1e-3)


def test_counts_are_smoothed_as_published(monkeypatch):
    monkeypatch.setattr(models._vq, "SMOOTHING", 0.1)  # 1e-5 would hardly be seen
    book, vectors = codebook(codes=4, width=2, decay=0.5), random(30, 2)
    counts, sums = book.counts.clone(), book.sums.clone()
    for _ in range(3):
        chose = F.one_hot(torch.cdist(vectors, book.codes).argmin(1), 4).float()
        book(pictures(vectors), learn=True)
        counts = 0.5 * counts + 0.5 * chose.sum(0)
        total = counts.sum()
        counts = (counts + 0.1) / (total + 4 * 0.1) * total
        sums = 0.5 * sums + 0.5 * chose.T @ vectors
        assert torch.allclose(book.counts, counts)
        assert torch.allclose(book.codes, sums / counts[:, None], rtol=1e-4)


def test_unused_codes_are_flung_away_unless_revived():
    near = random(200, 3) * 0.01 + 5  # all nearest to one code
    book = codebook(revive_below=0.0)
    book(pictures(near), learn=True)
    assert (book.codes.norm(dim=1) > 1e3).sum() == 15
    book = codebook(revive_below=0.02)
    for _ in range(3):
        book(pictures(near), learn=True)
    assert book(pictures(near), learn=False)[2] > 8
    assert (book.codes - 5).abs().max() < 0.1


def test_codes_hardly_used_become_vectors_and_others_stay():
    book, vectors = codebook(codes=4, width=2, revive_below=0.1), random(40, 2)
    book.codes.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 0.0], [0.0, 50.0]]))
    book.counts.copy_(torch.tensor([20.0, 20.0, 1.0, 4.0]))
    book.sums.copy_(book.codes * book.counts[:, None])
    plain = copy.deepcopy(book)
    plain.revive_below = 0.0
    for each in (book, plain):
        each(pictures(vectors), learn=True)
    # The mean count is 11: the third code is below a tenth of it, the fourth is not
    assert torch.equal(book.codes[[0, 1, 3]], plain.codes[[0, 1, 3]])
    assert torch.equal(book.counts[[0, 1, 3]], plain.counts[[0, 1, 3]])
    assert (book.codes[2] == vectors).all(1).any()
    assert book.counts[2] == pytest.approx(2 * 0.1 * float(plain.counts.mean()))
    assert torch.allclose(book.sums[2] / book.counts[2], book.codes[2])


def test_badly_told_vectors_are_revived_first():
    """Rain in a dry field: one vector of a hundred is far from every code, and gets one at once."""
    book = codebook(codes=4, width=2, revive_below=0.1)
    book.codes.zero_()
    book.codes[1:] = 100.0
    book.counts.copy_(torch.tensor([100.0, 0.0, 0.0, 0.0]))
    book.sums.zero_()
    dry = torch.zeros(100, 2)
    dry[37] = torch.tensor([3.0, 4.0])
    book(pictures(dry), learn=True)
    assert (book.codes == torch.tensor([3.0, 4.0])).all(1).any()


def test_revival_follows_the_seed_and_takes_few_vectors():
    few = random(5, 3)  # fewer than codes
    books = []
    for seed in (3, 3, 4):
        book = codebook(revive_below=0.02)
        torch.manual_seed(seed)
        book(pictures(few), learn=True)
        books.append(book.codes.clone())
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])
    taken = (books[0][:, None] == few).all(2)  # the other codes are means of those that chose them
    assert taken.sum() >= 16 - 5
    assert taken.any(0).all()


def test_a_field_without_any_difference_is_survived():
    book = codebook(revive_below=0.02)
    for _ in range(3):
        book(torch.zeros(1, 3, 8, 8), learn=True)
    assert all(value.isfinite().all() for value in book.state_dict().values())


@both
def test_the_codebook_learns_in_training_alone(arch):
    model, (x, y) = build(arch=arch), batch()
    book = model.network.codebook
    before = copy.deepcopy(book.state_dict())
    model(x)
    model.eval()
    list(model.losses(x, y, 0))
    model.train()
    with torch.no_grad():
        list(model.losses(x, y, 0))
    assert unchanged(book, before)
    addresses = {name: value.data_ptr() for name, value in book.named_buffers()}
    list(model.losses(x, y, 0))
    assert not any(torch.equal(value, before[name]) for name, value in book.state_dict().items())
    assert addresses == {name: value.data_ptr() for name, value in book.named_buffers()}


@both
def test_state_goes_round_with_its_buffers(arch):
    model, (x, y) = build(arch=arch), batch()
    for step in range(3):
        list(model.losses(x, y, step))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = models.build("pastnet", geometry(), Settings(**SMALL, arch=arch).model_dump())
    again.load_state_dict(torch.load(file, weights_only=True))
    clone = copy.deepcopy(model)
    losses = []
    for each in (model, again, clone):
        torch.manual_seed(5)
        ((_, loss, _),) = each.losses(x, y, 3)
        losses.append((loss.item(), each.network.codebook.codes.clone()))
    for loss, codes in losses[1:]:
        assert loss == losses[0][0]
        assert torch.equal(codes, losses[0][1])


def test_averaged_weights_have_the_codebook_too():
    model, (x, y) = build(), batch()
    average = Average(model, 0.5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(20):
        next(model.losses(x, y, step))[1].backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
    for _ in range(40):  # the model rests: the average arrives
        average.update(model)
    with torch.no_grad():
        ours, theirs = model.eval()(x), average.module(x)
    assert torch.allclose(average.module.network.codebook.codes, model.network.codebook.codes)
    assert torch.allclose(ours, theirs, atol=1e-4)


def rank(number, port, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=number, world_size=2)
    torch.manual_seed(number)  # ranks draw differently
    for settings in ({"revive_below": 0.0}, {"revive_below": 0.05}):
        book = codebook(**settings)
        torch.manual_seed(number)
        for step in range(4):
            book(pictures(random(60, 3, seed=step)[number::2]), learn=True)
        results.put((number, settings["revive_below"], book.codes.tolist(), book.counts.tolist()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_keep_one_codebook():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=rank, args=(n, port, results)) for n in range(2)]
    for process in ranks:
        process.start()
    found = {(n, kind): values for n, kind, *values in (results.get(timeout=60) for _ in range(4))}
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    for kind in (0.0, 0.05):
        assert found[0, kind] == found[1, kind]
    alone = codebook()
    for step in range(4):
        alone(pictures(random(60, 3, seed=step)), learn=True)
    codes, counts = (torch.tensor(values) for values in found[0, 0.0])
    assert torch.allclose(codes, alone.codes, rtol=1e-3)
    assert torch.allclose(counts, alone.counts, rtol=1e-4)


# Precision and settings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model, (x, y) = build(), batch()
    made = []
    model.network.decoder.register_forward_hook(lambda *args: made.append(args[-1].dtype))
    with torch.autocast("cpu", dtype):
        ((_, loss, parts),) = model.losses(x, y, 0)
        assert model(x).dtype == torch.float32
    loss.backward()
    assert loss.dtype == torch.float32
    assert set(made) == {torch.float32}  # half precision has too few steps for the last layer
    assert all(p.isfinite() for p in parts.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.network.codebook.codes.dtype == torch.float32


def test_half_precision_is_near_to_single():
    model, (x, _) = build().eval(), batch()
    with torch.no_grad():
        model.network.codebook.codes.normal_(std=0.3)
        full = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert (half - full).abs().mean() < 0.1 * full.std()


def test_arch_brings_its_defaults_and_the_given_wins():
    ours, released = Settings(), Settings(arch="faithful")
    assert (ours.mixing, ours.commitment, ours.revive_below) == (True, 0.25, 0.02)
    assert (released.mixing, released.commitment, released.revive_below) == (False, 0.0, 0.0)
    assert Settings(arch="faithful", commitment=0.1).commitment == 0.1
    for each in (ours, released):
        assert Settings(**each.model_dump(mode="json")) == each


@pytest.mark.parametrize(
    "bad",
    [
        {"arch": "v2"},
        {"width": 15},
        {"patch": 6},
        {"embed": 30},
        {"decay": 1.0},
        {"revive_below": 1.0},
        {"n_t": 1},
        {"loss": "huber"},
        {"commitment": -0.1},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (geometry(), {"residual": True}, "residual: true adds changes to the last frame"),
        (Geometry((4, 1, 8, 8), (4, 1, 32, 32)), {}, "a forecast keeps both"),
        (geometry(T=3), {"code_width": 4}, "12 channels .*do not divide into 8 groups"),
    ],
)
def test_bad_geometry_is_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        build(shape, **settings)
