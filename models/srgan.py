"""SRGAN for super-resolution by any factor: SRResNet, a discriminator, and VGG19 if wanted.

x (B, T, C, h, w) -> y (B, T, C, H, W) with H = scale h and W = scale w, the scale measured from the
geometry. Frames are treated one by one; a trained generator takes any T, h and w.

Ledig et al. 2017. arch "published" is the networks and losses of their common re-implementation
(github.com/sgrvinod/a-PyTorch-Tutorial-to-Super-Resolution), layer for layer, for one channel or
more, except that the discriminator learns before the generator, not after.
arch "residual", the default, adds detail to the bicubic up-sampling, without batch norm, in a trunk
with a narrow tail; where the geometry has a floor (rain), nothing is below it. Its discriminator is
bounded by spectral norm, and sees x beside y.

A run has two stages: content alone for pretrain_steps (then it is an SRResNet), after that content
and the discriminator.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models import Geometry, Parts
from models._blocks import (
    Residual,
    conv,
    keep_means,
    prime_factors,
    reach,
    scale_means,
    scale_of,
    upsampled,
)
from models._losses import (
    Adversarial,
    Content,
    content_loss,
    fooling_loss,
    frozen,
    judging_loss,
    resting,
)
from models._ranks import spread_everywhere
from models._settings import taken_by
from models._vgg import SOURCE, Aside, loaded

TASK = "superres"

Output = Literal["linear", "relu", "softplus", "tanh"]

# What arch "published" has otherwise than our defaults, where a setting is not given.
PUBLISHED = {
    "n_residual_blocks": 16,
    "width": 64,
    "fine_width": 64,
    "kernel": 9,
    "norm": True,
    "output": "tanh",
    "consistent": False,
    "discriminator_width": 64,
    "discriminator_hidden": 1024,
    "condition": False,
    "content": "vgg",
    "vgg_scale": 1.0,
    "anchor": 0.0,
    "lambda_adversarial": 1e-3,
    "smoothing": 0.0,
}


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    arch: Literal["residual", "published"] = "residual"
    """residual: detail added to bicubic, ours; published: SRGAN, whose defaults it takes."""
    n_residual_blocks: PositiveInt = 8
    """Of the generator's trunk; each sees 2 pixels of x farther. Published 16."""
    width: PositiveInt = 64
    """Channels of the trunk; time and memory grow with its square. As published."""
    fine_width: PositiveInt = 16
    """Channels while up-sampling; published 64, which costs most of the time."""
    kernel: PositiveInt = 5
    """Side of the first and last convolution, pixels; odd. Published 9."""
    norm: bool = False
    """Batch norm in the generator. Published true."""
    factors: tuple[Annotated[int, Field(ge=2)], ...] | None = None
    """Sub-pixel steps, which multiply to the scale; null: its prime factors, the largest first
    (4 = 2, 2, as published; 40 = 5, 2, 2, 2)."""
    output: Output | None = None
    """The last activation; published tanh. relu and softplus are counted from the least value that
    there is (0 mm). null: relu where there is one, else linear."""
    consistent: bool | None = None
    """Block means of the output are made exactly x, which cannot raise the RMSE where x is the area
    mean of y. null: wherever it is."""
    discriminator_width: PositiveInt = 32
    """Channels of the discriminator's first convolution. Published 64."""
    discriminator_blocks: PositiveInt = 8
    """Its convolutions. As published."""
    discriminator_hidden: PositiveInt = 128
    """Units of its last layer but one. Published 1024."""
    condition: bool = True
    """The discriminator sees x beside y. Published false."""
    pretrain_steps: NonNegativeInt = 2000
    """Steps of content alone; then the discriminator joins. Published 1e6, as another run."""
    pretrain: Content = "mse"
    """The loss of each pixel in those steps. As published."""
    content: Content | Literal["vgg"] = "mse"
    """And after them; vgg: of features of VGG19, as published, which needs vgg_weights."""
    vgg_weights: Path | None = None
    """The file vgg19-dcbb9e9d.pth or alike, for content vgg; null: none."""
    vgg_layer: tuple[int, int] = (5, 4)
    """Whose features: stage and convolution. As published."""
    vgg_relu: bool = True
    """Features after that convolution's activation. As published."""
    vgg_scale: PositiveFloat = 1 / 12.75
    """By what features are multiplied; as in the paper. arch published: 1."""
    anchor: NonNegativeFloat = 1.0
    """Weight of an L1 loss beside content vgg, which knows no units. Published 0."""
    # Published 1e-3, beside features. Of ERA5 rain x4, whose mse is 5e-4, 1e-4 brought back a tenth
    # of the finest detail's power (mse alone: a fiftieth) for 2 % more RMSE.
    lambda_adversarial: NonNegativeFloat = 1e-4
    """Weight of the discriminator's loss; 0: none. More: finer, less right. Published 1e-3."""
    adversarial: Adversarial = "bce"
    """The game's loss. bce: as published; hinge: stands a strong discriminator better."""
    # Against a discriminator that wins altogether:
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """bce's label of a real frame is 1 - smoothing. Published 0."""
    rest_above: NonNegativeFloat = 0.0
    """The discriminator rests while mean log D(real) - mean log D(fake) is above this; 0: never.
    TecoGAN 0.4."""

    _as_published = taken_by("published", PUBLISHED)

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("expected an odd number")
        return kernel

    @field_validator("vgg_weights")
    @classmethod
    def _from_anywhere(cls, file: Path | None) -> Path | None:
        return file.expanduser().absolute() if file else None  # a run is resumed from any folder


class SRResNet(nn.Module):
    """(N, C, h, w) -> (N, C, scale h, scale w), before the last activation."""

    def __init__(self, settings: Settings, channels: int, factors: list[int]) -> None:
        super().__init__()
        width, fine, kernel = settings.width, settings.fine_width, settings.kernel
        blocks = (Residual(width, settings.norm) for _ in range(settings.n_residual_blocks))
        self.head = nn.Sequential(conv(channels, width, kernel), nn.PReLU())
        self.body = nn.Sequential(*blocks)
        self.post = nn.Sequential(conv(width, width))
        if settings.norm:
            self.post.append(nn.BatchNorm2d(width))
        self.tail = nn.Sequential()
        for factor in factors:
            self.tail.extend([conv(width, fine * factor**2), nn.PixelShuffle(factor), nn.PReLU()])
            width = fine
        self.last = conv(fine, channels, kernel)
        self.base = prod(factors) if settings.arch == "residual" else None
        if self.base:  # it starts at the bicubic baseline exactly
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        fine = self.tail(first + self.post(self.body(first)))
        with torch.autocast(x.device.type, enabled=False):  # bf16 has steps of 1/256 near 1
            y = self.last(fine.to(self.last.weight.dtype))
            return y + upsampled(x, self.base, "bicubic") if self.base else y


class Discriminator(nn.Module):
    """Frames of any size, (N, channels, H, W) -> (N, 1) logits, high for real.

    Convolutions of which every second one halves and the others double the channels, a mean over
    pool×pool parts, and two linear layers.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        n_blocks: int,
        hidden: int,
        pool: int,
        norm: Literal["batch", "spectral"],
    ) -> None:
        super().__init__()
        self.body = nn.Sequential()
        inward = channels
        for i in range(n_blocks):
            outward = width * 2 ** (i // 2)
            self.body.append(nn.Conv2d(inward, outward, 3, stride=1 + i % 2, padding=1))
            if norm == "batch" and i:  # none after the first
                self.body.append(nn.BatchNorm2d(outward))
            self.body.append(nn.LeakyReLU(0.2))
            inward = outward
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.verdict = nn.Sequential(
            nn.Linear(inward * pool**2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )
        if norm == "spectral":
            for layer in (*self.body, *self.verdict):
                if not isinstance(layer, nn.LeakyReLU):
                    spectral_norm(layer)

    def forward(self, frames: Tensor) -> Tensor:
        return self.verdict(self.pool(self.body(frames)).flatten(1))


class Model(nn.Module):
    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        scale = scale_of(geometry)
        _, C, H, W = geometry.y
        published = settings.arch == "published"
        factors = list(settings.factors or prime_factors(scale))
        if prod(factors) != scale:
            raise ValueError(f"factors {factors} multiply to {prod(factors)}, the scale is {scale}")
        output = settings.output or ("linear" if geometry.floor is None else "relu")
        if output == "tanh" and not geometry.unit_range:
            raise ValueError(
                "output tanh needs y within -1..1: scaling.kind range, or another model.output"
            )
        if output in ("relu", "softplus") and geometry.floor is None:
            raise ValueError(
                f"output {output} needs a lowest value, as rain has in mm; take output linear"
            )
        consistent = geometry.block_means if settings.consistent is None else settings.consistent
        if consistent and not geometry.block_means:
            raise ValueError(
                "consistent: true needs x to be area means of y in a linear scaling; leave it out"
            )
        if consistent and output == "tanh":
            raise ValueError("consistent: true would leave tanh's -1..1; set one of them otherwise")
        halvings = settings.discriminator_blocks // 2
        if settings.lambda_adversarial and published and min(H, W) <= 2**halvings:
            raise ValueError(
                f"y is {H} by {W} pixels; batch norm after {halvings} halvings needs more than "
                f"{2**halvings}"
            )
        stage = settings.vgg_layer[0]
        if settings.content == "vgg" and min(H, W) < 2 ** (stage - 1):
            raise ValueError(
                f"y is {H} by {W} pixels; stage {stage} of VGG19 needs {2**stage // 2}"
            )
        self.settings, self.scale, self.floor = settings, scale, geometry.floor
        self.output, self.consistent = output, consistent
        self.vgg: Aside | None = None

        self.generator = SRResNet(settings, C, factors)
        self.discriminator = Discriminator(
            C * (1 + settings.condition),
            settings.discriminator_width,
            settings.discriminator_blocks,
            settings.discriminator_hidden,
            pool=6 if published else 1,
            norm="batch" if published else "spectral",
        )
        # Fixed block means add nothing to it: a pixel's correction comes from its own block
        self.reach = reach(self.generator.modules(), scale)

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def prepare(self) -> None:
        """Load VGG19 where the loss asks for it. ValueError: there are no weights."""
        ours = self.settings
        if ours.content != "vgg" or self.vgg:
            return
        if not ours.vgg_weights:
            raise ValueError(
                f"content vgg needs the weights of VGG19: download {SOURCE} (torchvision's) and "
                "set model.vgg_weights to that file, or set model.content to mse or l1"
            )
        stage, number = ours.vgg_layer
        low = -1.0 if self.floor is None else self.floor
        vgg = loaded(ours.vgg_weights, stage, number, relu=ours.vgg_relu, low=low, high=1.0)
        self.vgg = Aside(vgg.to(self.generator.last.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1)  # (B T, C, h, w)
        return self._finished(self.generator(frames), frames).unflatten(0, x.shape[:2])

    def _finished(self, y: Tensor, x: Tensor) -> Tensor:
        """The generator's answer with the last activation, and the means of x if consistent."""
        if self.output == "tanh":
            return torch.tanh(y)
        if self.output == "linear" or self.floor is None:
            return keep_means(y, x, self.scale) if self.consistent else y
        above = y - self.floor
        above = F.relu(above) if self.output == "relu" else F.softplus(above, BEND)
        if self.consistent:
            above = scale_means(above, (x - self.floor).clamp(min=0), self.scale)
        return self.floor + above

    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[tuple[str, Tensor, Parts]]:
        ours = self.settings
        fake, truth = self(x).flatten(0, 1), y.flatten(0, 1)  # (B T, C, H, W)
        if step < ours.pretrain_steps:
            content = content_loss(ours.pretrain, fake, truth)
            yield "generator", content, named(content=content, generator=content)
            return
        seen = ~truth.isnan()
        real, made = truth.where(seen, 0.0), fake.where(seen, 0.0)  # alike where nothing is known
        loss, parts = self._content(fake, truth, made, real)
        if ours.lambda_adversarial:
            coarse = x.flatten(0, 1)
            spread = self._spread(coarse)
            real, made = real / spread, made / spread
            beside = upsampled(coarse / spread, self.scale, "bilinear") if ours.condition else None
            yield "discriminator", *self._judge(real, made.detach(), beside)
            with frozen(self.discriminator):
                fooled = fooling_loss(ours.adversarial, self._verdict(made, beside))
            loss = loss + ours.lambda_adversarial * fooled
            parts |= named(adversarial=fooled)
        yield "generator", loss, parts | named(generator=loss)

    def _content(
        self, fake: Tensor, truth: Tensor, made: Tensor, real: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The second stage's content loss; made and real: fake and truth without missing pixels."""
        ours = self.settings
        if ours.content != "vgg":
            content = content_loss(ours.content, fake, truth)
            return content, named(content=content)
        self.prepare()
        assert self.vgg
        with torch.no_grad():
            expected = self.vgg.module(real).float()
        content = (ours.vgg_scale * (self.vgg.module(made).float() - expected)).square().mean()
        if not ours.anchor:
            return content, named(content=content)
        anchor = content_loss("l1", fake, truth)
        return content + ours.anchor * anchor, named(content=content, anchor=anchor)

    def _spread(self, x: Tensor) -> Tensor | float:
        """By what the discriminator's pictures are divided: the batch's standard deviation.

        Spectral norm lets a verdict differ no more than the pictures do, and rain differs little:
        without this, 250 steps on ERA5 rain left the discriminator's loss at ln 4, undecided.
        """
        return 1.0 if self.settings.arch == "published" else spread_everywhere(x).clamp(min=FAINT)

    def _judge(
        self, real: Tensor, fake: Tensor, beside: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss, without a gradient while it rests."""
        ours = self.settings
        if ours.arch == "published":  # batch norm: each kind is a batch of its own
            on_real, on_fake = self._verdict(real, beside), self._verdict(fake, beside)
        else:
            twice = None if beside is None else beside.repeat(2, 1, 1, 1)
            on_real, on_fake = self._verdict(torch.cat([real, fake]), twice).chunk(2)
        loss = judging_loss(ours.adversarial, on_real, on_fake, ours.smoothing)
        parts = named(  # logits: 0 is undecided
            discriminator=loss, d_real=on_real.float().mean(), d_fake=on_fake.float().mean()
        )
        if ours.rest_above:
            loss, parts["d_rests"] = resting(loss, on_real, on_fake, ours.rest_above)
        return loss, parts

    def _verdict(self, frames: Tensor, beside: Tensor | None) -> Tensor:
        return self.discriminator(frames if beside is None else torch.cat([frames, beside], 1))


FAINT = 0.02  # of the range: a batch that differs less is not shown with more contrast
BEND = 100.0  # softplus: it leaves the floor over some hundredths of the range, the width of a drop


def named(**losses: Tensor) -> dict[str, Tensor]:
    """To log: without gradients."""
    return {name: loss.detach() for name, loss in losses.items()}
