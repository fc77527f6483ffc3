"""TempoGAN for super-resolution: one generator per frame, a spatial and a temporal discriminator.

x (B, T, C, h, w) -> y (B, T, C, H, W) with H = scale h and W = scale w, the scale measured from the
geometry. A trained generator takes any T, h and w.

arch "eddy" is the specification's networks (x4, batch norm, tanh), layer for layer and in its
order. It differs in the discriminators' last activation: they return logits, and the loss is BCE
with logits, the same function.
arch "residual", the default, is the same trunk without batch norm that adds detail to the bicubic
up-sampling; its discriminators are bounded by spectral norm, see what frames have beyond x, and
judge every frame of the window.

After Xie et al. 2018 (tempoGAN), whose temporal discriminator sees advected frames; these are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models import Geometry, Parts
from models._blocks import Residual, conv, keep_means, reach, scale_of, upsampled
from models._losses import (
    Adversarial,
    Content,
    content_loss,
    fooling_loss,
    frozen,
    judging_loss,
    r1,
    resting,
)
from models._ranks import mean_everywhere, ranks, spread_everywhere
from models._settings import taken_by

TASK = "superres"

# What the specification's recipe has otherwise than our defaults; arch "eddy" takes these where a
# setting is not given.
SPECIFIED = {
    "lambda_adv_s": 1e-3,
    "lambda_adv_t": 1e-3,
    "warmup_steps": 0,
    "condition_dt": False,
    "judged": "frames",
    "temporal_pool": 1,
    "consistent": False,
}


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    arch: Literal["residual", "eddy"] = "residual"
    """residual: ours, detail added to bicubic; eddy: the specification's, with its defaults."""
    n_residual_blocks: PositiveInt = 8
    """Of the generator's trunk; each sees 2 pixels of x farther. As specified."""
    width: PositiveInt = 64
    """Channels of the trunk; time and memory grow with its square. As specified."""
    content: Content = "l1"
    """The loss of each pixel. l1: as specified; mse: what RMSE asks for, and blurs more."""
    lambda_content: NonNegativeFloat = 1.0
    """Weight of the content loss. As specified."""
    # What these two bring back is power, not knowledge: they cost a typhoon's RMSE some 6 %
    # (docs/RESULTS.md), and more of them more.
    lambda_adv_s: NonNegativeFloat = 5e-4
    """Weight of the spatial discriminator's loss; 0: none. More is finer and less right.
    Specified 1e-3."""
    lambda_adv_t: NonNegativeFloat = 2e-3
    """Weight of the temporal discriminator's loss; 0: none. Specified 1e-3."""
    adversarial: Adversarial = "bce"
    """The game's loss. bce: as specified; hinge: stands a strong discriminator better."""
    r1_gamma: NonNegativeFloat = 0.0
    """Penalty on the discriminators' gradient at real frames, usually 1 to 10; 0: none. It costs a
    second backward pass."""
    r1_every: PositiveInt = 16
    """Steps between such penalties, each that many times the weight (lazy, as in StyleGAN2)."""
    rest_above: NonNegativeFloat = 0.0
    """A discriminator rests while mean log D(real) - mean log D(fake) is above this; 0: never.
    TecoGAN 0.4."""
    warmup_steps: NonNegativeInt = 500
    """Steps of content alone, until there is detail worth judging; then discriminators join."""
    condition_dt: bool = True
    """The temporal discriminator sees x beside y, as the spatial one does."""
    # In units of its spread detail is, of typhoons x4, a sixth of the frames' own, and hidden by
    # the rest. With weights of 1e-3 frames left the picture as content alone makes it.
    judged: Literal["detail", "frames"] = "detail"
    """What discriminators are shown. frames: as specified; detail: what frames have beyond x."""
    # The finest detail of cloud does not outlive an hour: shown it, the discriminator asked for
    # noise.
    temporal_pool: PositiveInt = 2
    """The temporal discriminator sees means of so many pixels squared; 1: all, as specified."""
    consistent: bool = True
    """Block means of the output are made exactly x, which cannot raise the RMSE where x is the area
    mean of y; for any other task.coarsening set it to false."""

    _as_specified = taken_by("eddy", SPECIFIED)


class Eddy(nn.Module):
    """The specification's generator, x4: (N, C, h, w) -> (N, C, 4 h, 4 w), in (-1, 1)."""

    def __init__(self, channels: int, width: int, n_blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(conv(channels, width, 5), nn.PReLU())
        self.body = nn.Sequential(*(Residual(width, norm=True) for _ in range(n_blocks)))
        self.post = nn.Sequential(conv(width, width), nn.BatchNorm2d(width))
        self.tail = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv(width, width),
            nn.PReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv(width, width),
            nn.PReLU(),
            conv(width, channels, 5),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        features = self.tail[:-2](first + self.post(self.body(first)))
        with torch.autocast(x.device.type, enabled=False):  # bf16 has steps of 0.4 K near 1
            return self.tail[-2:](features.to(self.tail[-2].weight.dtype))


FINE = 8  # features per channel at the size of y


class Detail(nn.Module):
    """Bicubic up-sampling plus learnt detail: (N, C, h, w) -> (N, C, scale h, scale w).

    Starts at the bicubic baseline exactly, since the last convolution starts at zero.
    """

    def __init__(self, channels: int, width: int, n_blocks: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(conv(channels, width, 5), nn.PReLU())
        self.body = nn.Sequential(*(Residual(width, norm=False) for _ in range(n_blocks)))
        self.post = conv(width, width)
        # All sub-pixels in one go, then a small convolution among them. Measured on 40 MTSAT-1R
        # frames, RMSE over bicubic's after 160 steps and CPU time per step: this 0.945, 0.38 s;
        # without the last convolution 0.961, 0.33 s; doubling twice 0.957, 0.44 s. The tail of
        # "eddy" takes 1.26 s.
        last = conv(FINE * channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # it has one
        self.tail = nn.Sequential(
            conv(width, FINE * channels * scale**2), nn.PixelShuffle(scale), nn.PReLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        detail = self.tail(first + self.post(self.body(first)))
        return upsampled(x, self.scale, "bicubic") + detail


class Discriminator(nn.Module):
    """Four halvings and a mean: (N, channels, H, W) -> (N, 1) logits, high for real."""

    def __init__(self, channels: int, norm: Literal["batch", "spectral"]) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for inward, outward in ((channels, 32), (32, 64), (64, 128), (128, 256)):
            self.body.append(nn.Conv2d(inward, outward, 4, stride=2, padding=1))
            if norm == "batch" and len(self.body) > 1:  # none after the first
                self.body.append(nn.BatchNorm2d(outward))
            self.body.append(nn.LeakyReLU(0.2))
        self.verdict = nn.Linear(256, 1)
        if norm == "spectral":
            for layer in (*self.body, self.verdict):
                if not isinstance(layer, nn.LeakyReLU):
                    spectral_norm(layer)

    def forward(self, frames: Tensor, condition: Tensor | None) -> Tensor:
        seen = frames if condition is None else torch.cat([frames, condition], 1)
        return self.verdict(self.body(seen).mean((-2, -1)))


class Model(nn.Module):
    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        scale = scale_of(geometry)
        T, C, H, W = geometry.y
        eddy = settings.arch == "eddy"
        if eddy and scale != 4:
            raise ValueError(f"arch 'eddy' is for scale 4, not {scale}; arch 'residual' takes any")
        if eddy and not geometry.unit_range:
            raise ValueError(
                "arch 'eddy' ends in tanh and needs y within -1..1: scaling.kind range"
            )
        weights = {"spatial": settings.lambda_adv_s, "temporal": settings.lambda_adv_t}
        for name, pool in {"spatial": 1, "temporal": settings.temporal_pool}.items():
            # batch norm needs more than one pixel after four halvings
            smallest = pool * (32 if eddy else 16)
            if weights[name] and min(H, W) < smallest:
                way_out = ", or a smaller temporal_pool" if pool > 1 else ""
                raise ValueError(
                    f"y is {H} by {W} pixels; the {name} discriminator needs {smallest} by "
                    f"{smallest}{way_out}"
                )
        if weights["temporal"] and T < 2:
            raise ValueError(f"a window of {T} frame has no change to judge: set lambda_adv_t to 0")
        if settings.consistent and not geometry.block_means:
            raise ValueError("consistent: true needs x to be area means of y; set it to false")
        self.settings = settings
        self.scale = scale
        self.weights = {name: weight for name, weight in weights.items() if weight}
        # The specification compares, and judges in space, only the middle frame
        self.compared = slice(T // 2, T // 2 + 1) if eddy else slice(None)

        width, n_blocks = settings.width, settings.n_residual_blocks
        self.generator = Eddy(C, width, n_blocks) if eddy else Detail(C, width, n_blocks, scale)
        norm: Literal["batch", "spectral"] = "batch" if eddy else "spectral"
        self.discriminators = nn.ModuleDict(
            {
                "spatial": Discriminator(2 * C, norm),
                "temporal": Discriminator(T * C * (1 + settings.condition_dt), norm),
            }
        )
        # keep_means adds nothing to it: a pixel's correction comes from its own block
        self.reach = reach(self.generator.modules(), scale)

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminators": self.discriminators}

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0]
        frames = x.flatten(0, 1)  # (B T, C, h, w)
        y = self.generator(frames)
        if self.settings.consistent:
            y = keep_means(y, frames, self.scale)
        return y.unflatten(0, (B, -1))  # (B, T, C, H, W)

    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[tuple[str, Tensor, Parts]]:
        ours = self.settings
        fake = self(x)  # one pass serves both halves: G does not change while D learns
        content = content_loss(ours.content, fake[:, self.compared], y[:, self.compared])
        loss, parts = ours.lambda_content * content, {"content": content.detach()}
        if step >= ours.warmup_steps and self.weights:
            seen = ~y.isnan()
            real, fake = y.where(seen, 0.0), fake.where(seen, 0.0)  # alike where nothing is known
            beside = upsampled(x.flatten(0, 1), self.scale, "bilinear").view_as(y)
            if ours.judged == "detail":
                real, fake, beside = in_detail(real, fake, beside, seen)
            yield "discriminators", *self._judge(real, fake.detach(), beside, seen, step)
            with frozen(self.discriminators):
                adversarial, fooled = self._fool(fake, beside)
            loss, parts = loss + adversarial, parts | fooled
        yield "generator", loss, parts

    def _judge(
        self, real: Tensor, fake: Tensor, beside: Tensor, seen: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminators' loss; beside: x at the size of y. All (B, T, C, H, W)."""
        ours = self.settings
        total = real.new_zeros(())
        parts: dict[str, Tensor] = {}
        for name in self.weights:
            judge, s = self.discriminators[name], name[0]
            truth, made = self._view(name, real), self._view(name, fake)
            condition = self._condition(name, beside)
            if ours.arch == "eddy":  # batch norm: each kind is a batch of its own, as specified
                on_real, on_fake = judge(truth, condition), judge(made, condition)
            else:
                twice = None if condition is None else condition.repeat(2, 1, 1, 1)
                on_real, on_fake = judge(torch.cat([truth, made]), twice).chunk(2)
            loss = judging_loss(ours.adversarial, on_real, on_fake)
            parts |= {
                f"d_{s}": loss.detach(),
                f"d_real_{s}": on_real.detach().float().mean(),  # logits: 0 is undecided
                f"d_fake_{s}": on_fake.detach().float().mean(),
            }
            if ours.rest_above:
                loss, parts[f"d_rests_{s}"] = resting(loss, on_real, on_fake, ours.rest_above)
            total = total + loss
            # forward: what is compiled has no second derivative
            if loss.requires_grad and ours.r1_gamma and step % ours.r1_every == 0:
                known = self._view(name, seen.to(real.dtype)) == 1  # all of it, where pooled
                steepness = r1(judge.forward, truth, condition, known)
                total = total + ours.r1_gamma / 2 * ours.r1_every * steepness
                parts[f"r1_{s}"] = steepness.detach()
        return total, parts

    def _fool(self, fake: Tensor, beside: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's adversarial loss, weighted and summed."""
        total = fake.new_zeros(())
        parts: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            judge = self.discriminators[name]
            on_fake = judge(self._view(name, fake), self._condition(name, beside))
            loss = fooling_loss(self.settings.adversarial, on_fake)
            total = total + weight * loss
            parts[f"adv_{name[0]}"] = loss.detach()
        return total, parts

    def _view(self, name: str, frames: Tensor) -> Tensor:
        """A window as one discriminator sees it: frame by frame, or all frames as channels.

        (B T, C, H, W), or pooled (B, T C, H / temporal_pool, W / temporal_pool).
        """
        if name == "spatial":
            return frames[:, self.compared].flatten(0, 1)
        return F.avg_pool2d(frames.flatten(1, 2), self.settings.temporal_pool)

    def _condition(self, name: str, beside: Tensor) -> Tensor | None:
        if name == "temporal" and not self.settings.condition_dt:
            return None
        return self._view(name, beside)


FAINT = 0.005  # normalised; 0.45 K of typhoons: what differs less is not shown with more contrast


def in_detail(
    real: Tensor, fake: Tensor, beside: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the frames have beyond x, over its spread in the real ones; x over its own spread.

    beside: x at the size of y; seen: where the truth is known, elsewhere both details are 0. All
    (B, T, C, H, W). Spectral norm lets verdicts differ no more than the pictures do, and real and
    generated frames share all that x says.
    """
    detail, made = ((y - beside).where(seen, 0.0) for y in (real, fake))
    known = mean_everywhere(seen.sum().float()).clamp(min=1 / ranks())
    spread = (mean_everywhere(detail.square().sum()) / known).sqrt().clamp(min=FAINT)
    return detail / spread, made / spread, beside / spread_everywhere(beside).clamp(min=FAINT)
