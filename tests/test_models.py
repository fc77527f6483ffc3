"""What every model must do, whatever it is. A new file in models/ is tested here by its name."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

import models
from models import Geometry

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives

PAST_WARM_UP = 1_000_000  # a step at which every player plays

GEOMETRY = {
    "superres": Geometry(x=(3, 1, 8, 8), y=(3, 1, 32, 32), unit_range=True, block_means=True),
    "forecast": Geometry(x=(4, 1, 32, 32), y=(4, 1, 32, 32)),
}

SMALL = {  # where the published widths would take minutes
    "simvp": {"hid_s": 8, "hid_t": 16, "n_s": 2, "n_t": 2},
    "pastnet": {"width": 16, "codes": 32, "code_width": 8, "hid_t": 16, "n_t": 2, "embed": 16},
}

STEPS = {"st_rainnet": 15, "srgan": 20}  # that a batch takes to be learnt, where 40 are too many

every_model = pytest.mark.parametrize("name", models.names())


def geometry(name):
    return GEOMETRY[models.find(name).TASK]


def build(name):
    torch.manual_seed(0)
    return models.build(name, geometry(name), SMALL.get(name, {}))


def batch(name, size=2):
    """Drifting stripes with sharp edges, in [-1, 1]: coarsened, or cut into past and future."""
    (T_in, C, _, _), (T_out, _, H, W) = geometry(name).x, geometry(name).y
    superres = models.find(name).TASK == "superres"
    t = torch.arange(T_out if superres else T_in + T_out).view(-1, 1, 1, 1)
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    phase = torch.arange(size).view(-1, 1, 1, 1, 1)
    frames = torch.tanh(3 * torch.sin((rows + columns + t) * 0.5 + phase)).expand(-1, -1, C, -1, -1)
    if not superres:
        return frames[:, :T_in].contiguous(), frames[:, T_in:].contiguous()
    coarse = F.avg_pool2d(frames.flatten(0, 1), H // geometry(name).x[2])
    return coarse.unflatten(0, (size, -1)), frames.contiguous()


def train(model, x, y, steps, lr=1e-3):
    """The loop's protocol; yields each step's players and losses."""
    optimizers = {n: torch.optim.Adam(p.parameters(), lr=lr) for n, p in model.players().items()}
    for step in range(PAST_WARM_UP, PAST_WARM_UP + steps):
        losses = {}
        for player, loss, parts in model.losses(x, y, step):
            optimizers[player].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[player].step()
            assert not any(p.requires_grad for p in parts.values())
            losses[player] = loss.item()
        yield losses


@every_model
def test_shapes(name):
    x, y = batch(name)
    assert models.find(name).TASK in GEOMETRY
    assert x.shape == (2, *geometry(name).x)
    assert build(name)(x).shape == y.shape == (2, *geometry(name).y)


@every_model
def test_reach_is_pixels_or_none(name):
    reach = build(name).reach
    assert reach is None or (isinstance(reach, int) and reach >= 0)


@every_model
def test_every_parameter_has_one_player(name):
    model = build(name)
    played = [id(p) for player in model.players().values() for p in player.parameters()]
    assert sorted(played) == sorted(id(p) for p in model.parameters())


@every_model
def test_learns_one_batch(name):
    model, (x, y) = build(name), batch(name)

    def error():
        with torch.no_grad():
            return (model(x) - y).abs().mean().item()

    before = error()
    yielded = list(train(model, x, y, steps=STEPS.get(name, 40)))
    assert all(set(losses) == set(model.players()) for losses in yielded)
    assert error() < 0.8 * before


@every_model
def test_checkpoint_gives_the_same_output(name):
    model, (x, y) = build(name), batch(name)
    list(train(model, x, y, steps=2))  # so that buffers have moved too
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = models.build(
        name, geometry(name), models.find(name).Settings(**SMALL.get(name, {})).model_dump()
    )
    again.load_state_dict(torch.load(file, weights_only=True), strict=True)
    ema = copy.deepcopy(model)
    with torch.no_grad():
        out = model.eval()(x)
        assert torch.equal(again.eval()(x), out)
        assert torch.equal(ema.eval()(x), out)


@every_model
def test_missing_truth_does_not_count(name):
    model, (x, y) = build(name), batch(name)
    y[0, :, :, :20, :12] = float("nan")
    y[1, 0] = float("nan")
    outputs = []

    def keep(module, args, output):
        if output.requires_grad:
            output.retain_grad()
            outputs.append(output)

    model.register_forward_hook(keep)
    for _, loss, parts in model.losses(x, y, PAST_WARM_UP):
        assert loss.isfinite()
        assert all(p.isfinite() for p in parts.values())
        loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for output in outputs:  # a model may train by a longer way than its forward
        assert (output.grad[y.isnan()] == 0).all()
        assert (output.grad[~y.isnan()] != 0).any()


@every_model
def test_truth_missing_altogether_is_survived(name):
    model, (x, y) = build(name), batch(name)
    for losses in train(model, x, torch.full_like(y, float("nan")), steps=2):
        assert all(torch.tensor(loss).isfinite() for loss in losses.values())
    assert all(p.isfinite().all() for p in model.parameters())


@every_model
def test_misspelt_setting_is_refused(name):
    with pytest.raises(ValidationError, match="widht"):
        models.build(name, geometry(name), {"widht": 8})


@every_model
def test_settings_are_frozen(name):
    settings = models.find(name).Settings()
    for field in type(settings).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, field, None)


def test_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"no model 'tempogen'; the models are .*tempogan"):
        models.build("tempogen", GEOMETRY["superres"], {})
