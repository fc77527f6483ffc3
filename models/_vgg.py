"""VGG19's features, truncated: by what the content of two pictures is compared (Ledig et al. 2017).

Simonyan and Zisserman 2015, configuration E. Layers and keys are those of torchvision's
vgg19().features, so that its weight file fits; torchvision itself is not needed, and nothing is
ever fetched.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STAGES = (
    (64, 2),
    (128, 2),
    (256, 4),
    (512, 4),
    (512, 4),
)  # channels, convolutions; then a pool
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet; red, green, blue
SOURCE = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LONGEST_HEADER = 100 << 20  # bytes; the safetensors format allows no longer one


class Features(nn.Module):
    """Grey pictures (N, C, H, W) -> (N C, channels, h, w): conv `conv` of stage `stage`, from 1.

    Each channel is a picture of its own, all three colours alike; low and high are the values of
    black and white. relu: with the activation after that convolution (5, 4: features[:36]).
    """

    def __init__(
        self, stage: int, conv: int, *, relu: bool = True, low: float = -1.0, high: float = 1.0
    ) -> None:
        super().__init__()
        self.features = layers(stage, conv, relu)
        self.low, self.high = low, high

    def forward(self, frames: Tensor) -> Tensor:
        grey = (frames.flatten(0, 1)[:, None] - self.low) / (self.high - self.low)
        mean, deviation = (grey.new_tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
        return self.features((grey - mean) / deviation)  # (N C, 3, H, W) inwards


def layers(stage: int, conv: int, relu: bool) -> nn.Sequential:
    """vgg19().features up to a convolution. ValueError: VGG19 has none there."""
    if not 1 <= stage <= len(STAGES) or not 1 <= conv <= STAGES[stage - 1][1]:
        raise ValueError(
            f"VGG19 has no convolution {conv} in stage {stage}; "
            f"its stages have {', '.join(str(count) for _, count in STAGES)}"
        )
    made = nn.Sequential()
    inward = 3
    for number, (width, count) in enumerate(STAGES[:stage], start=1):
        for _ in range(count if number < stage else conv):
            made.extend([nn.Conv2d(inward, width, 3, padding=1), nn.ReLU()])
            inward = width
        if number < stage:
            made.append(nn.MaxPool2d(2))
    if not relu:
        made.pop(-1)
    return made


def loaded(file: Path, stage: int, conv: int, *, relu: bool, low: float, high: float) -> Features:
    """The features with the weights of a file, frozen, in evaluation mode, on the CPU.

    file: torchvision's vgg19-dcbb9e9d.pth, any state dict with its keys (features.0.weight ...) or
    the same as safetensors; only the layers up to the chosen one need be there. ValueError: it is
    no such file.
    """
    with torch.device("meta"):  # no random start, which would move the run's random numbers
        made = Features(stage, conv, relu=relu, low=low, high=high)
    expected = made.state_dict()
    given = safetensors(file) if file.suffix == ".safetensors" else state_dict(file)
    if lacking := [key for key in expected if not isinstance(given.get(key), Tensor)]:
        raise ValueError(f"{file}: no weights of VGG19, {lacking[0]} is missing; {SOURCE} has it")
    for key, value in expected.items():
        if given[key].shape != value.shape:
            raise ValueError(
                f"{file}: {key} has shape {tuple(given[key].shape)}, expected {tuple(value.shape)}"
            )
    made.load_state_dict({key: given[key].float() for key in expected}, assign=True)
    return made.eval().requires_grad_(False)


def state_dict(file: Path) -> dict[str, Any]:
    """What torch.save wrote; no code in it is run. ValueError: it is something else."""
    try:
        given = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file of VGG19 weights; {SOURCE} is one") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        # torch's own words speak of weights_only, and tempt to switch it off
        raise ValueError(f"{file}: not a readable file of weights; {SOURCE} is one") from None
    if not isinstance(given, dict):
        raise ValueError(f"{file}: holds a {type(given).__name__}, expected a state dict")
    return given


def safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. ValueError: it is something else.

    Source: https://github.com/huggingface/safetensors#format: the header's length (8 bytes, little
    endian), the header (JSON), the data.
    """
    try:
        content = bytearray(file.read_bytes())
        length = int.from_bytes(content[:8], "little")
        if length > min(LONGEST_HEADER, len(content)):
            raise ValueError("header beyond the end")
        data = memoryview(content)[8 + length :]
        header = json.loads(bytes(content[8 : 8 + length]))
        return {
            name: torch.frombuffer(data[slice(*entry["data_offsets"])], dtype=KINDS[entry["dtype"]])
            .reshape(entry["shape"])
            .clone()
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file of VGG19 weights; {SOURCE} is one") from None
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, OSError):
        raise ValueError(f"{file}: not a readable safetensors file of float weights") from None


class Aside:
    """A module that its holder uses and does not own.

    It is not among the holder's parameters, state and submodules; copies of the holder share it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Aside:
        return self
