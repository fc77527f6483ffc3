import copy
import json
import os
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models._vgg import DEVIATION, MEAN, Aside, Features, layers, loaded

torch.set_num_threads(1)

LAST = (2, 2)  # the shortest part of VGG19 that has a pool in it: 260,160 weights


def small(directory: Path, name: str = "vgg.pth") -> Path:
    """A weights file of torchvision's form, with the layers up to conv2_2 and a classifier."""
    torch.manual_seed(3)
    weights = {f"features.{k}": v for k, v in layers(*LAST, True).state_dict().items()}
    weights["classifier.0.bias"] = torch.zeros(4)
    file = directory / name
    if file.suffix == ".safetensors":
        write_safetensors(file, weights)
    else:
        torch.save(weights, file)
    return file


def write_safetensors(file: Path, weights: dict[str, torch.Tensor]) -> None:
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        raw = value.numpy().tobytes()
        offsets = [len(blob), len(blob) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        blob += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + blob)


def load(file: Path, **options) -> Features:
    return loaded(file, *LAST, **{"relu": True, "low": -1.0, "high": 1.0} | options)


def test_features_have_the_published_count_and_shape():
    whole = Features(5, 4)
    assert whole(torch.zeros(1, 2, 32, 48)).shape == (2, 512, 2, 3)
    assert sum(p.numel() for p in whole.parameters()) == 20_024_384
    assert len(whole.features) == 36  # features[:36] of torchvision


def test_layers_lie_where_torchvision_has_them():
    with torch.device("meta"):
        whole = layers(5, 4, True)
    at = {kind: [i for i, m in enumerate(whole) if isinstance(m, kind)] for kind in LAYERS}
    assert at[nn.Conv2d] == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    assert at[nn.MaxPool2d] == [4, 9, 18, 27]
    assert at[nn.ReLU] == [i + 1 for i in at[nn.Conv2d]]


LAYERS = (nn.Conv2d, nn.ReLU, nn.MaxPool2d)


@pytest.mark.parametrize(
    ("stage", "conv", "relu", "length"), [(2, 2, True, 9), (2, 2, False, 8), (1, 1, False, 1)]
)
def test_truncation(stage, conv, relu, length):
    assert len(layers(stage, conv, relu)) == length


@pytest.mark.parametrize(("stage", "conv"), [(6, 1), (0, 1), (1, 3), (2, 0)])
def test_layers_that_vgg19_has_not(stage, conv):
    with pytest.raises(ValueError, match=f"no convolution {conv} in stage {stage}; its stages"):
        layers(stage, conv, True)


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
@pytest.mark.parametrize("relu", [True, False])
def test_features_by_hand(tmp_path, name, relu):
    file = small(tmp_path, name)
    w = torch.load(small(tmp_path), weights_only=True)
    frames = torch.rand(2, 2, 8, 8) * 6 + 1  # 1..7: black and white
    pictures = torch.cat([frames[:, :1], frames[:, 1:]], 1).flatten(0, 1).unsqueeze(1)
    z = ((pictures - 1) / 6).repeat(1, 3, 1, 1)
    z = (z - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    for i in (0, 2, 5, 7):
        if i == 5:
            z = F.max_pool2d(z, 2)
        z = F.conv2d(z, w[f"features.{i}.weight"], w[f"features.{i}.bias"], padding=1)
        z = F.relu(z) if relu or i < 7 else z
    found = load(file, relu=relu, low=1.0, high=7.0)(frames)
    assert found.shape == (4, 128, 4, 4)
    torch.testing.assert_close(found, z, rtol=1e-5, atol=1e-5)


def test_loaded_features_are_frozen_and_use_no_random_numbers(tmp_path):
    file = small(tmp_path)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    vgg = load(file)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in vgg.parameters())
    assert not vgg.training
    assert {p.device.type for p in vgg.parameters()} == {"cpu"}


def test_half_precision_files_are_read(tmp_path):
    half = {k: v.half() for k, v in torch.load(small(tmp_path), weights_only=True).items()}
    torch.save(half, tmp_path / "half.pth")
    assert {p.dtype for p in load(tmp_path / "half.pth").parameters()} == {torch.float32}


def test_old_files_are_read(tmp_path):
    """Torchvision's own file is from before torch wrote ZIPs; such files may hold Parameters."""
    new = torch.load(small(tmp_path), weights_only=True)
    old = {k: nn.Parameter(v) for k, v in new.items()}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = load(tmp_path / "old.pth")
    assert not any(p.requires_grad for p in found.parameters())
    assert all(torch.equal(v, new[k]) for k, v in found.state_dict().items())


class Evil:
    def __reduce__(self):
        return os.system, ("exit 7",)


def test_a_pickle_in_a_weights_file_runs_nothing(tmp_path, monkeypatch):
    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="not a readable file of weights"):
        load(tmp_path / "evil.pth")


def changed(file: Path, key: str, value: object) -> None:
    torch.save({**torch.load(file, weights_only=True), key: value}, file)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: f.unlink(), "no such file of VGG19 weights; https://download.pytorch.org"),
        (lambda f: f.write_bytes(b"<html>not found</html>"), "not a readable file of weights"),
        (lambda f: f.write_bytes(f.read_bytes()[:5000]), "not a readable file of weights"),
        (lambda f: torch.save([1], f), "holds a list, expected a state dict"),
        (lambda f: torch.save({"layer": torch.ones(1)}, f), "features.0.weight is missing"),
        (lambda f: changed(f, "features.7.bias", 3), "features.7.bias is missing"),
        (
            lambda f: changed(f, "features.0.weight", torch.ones(64, 1, 3, 3)),
            r"features.0.weight has shape \(64, 1, 3, 3\), expected \(64, 3, 3, 3\)",
        ),
    ],
)
def test_a_file_that_is_no_vgg19_is_refused(tmp_path, spoil, told):
    file = small(tmp_path)
    spoil(file)
    with pytest.raises(ValueError, match=told) as error:
        load(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 16,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 63)
        + b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1000]}}'[:63],
        struct.pack("<Q", 62) + b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}} ',
        struct.pack("<Q", 62) + b'{"a": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}} ',
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "v.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"v.safetensors: not a readable safetensors file"):
        load(tmp_path / "v.safetensors")


def test_what_lies_aside_is_no_part_of_its_holder(tmp_path):
    holder = nn.Linear(2, 2)
    holder.vgg = Aside(load(small(tmp_path)))
    assert set(holder.state_dict()) == {"weight", "bias"}
    assert len(list(holder.modules())) == 1
    assert copy.deepcopy(holder).vgg is holder.vgg
