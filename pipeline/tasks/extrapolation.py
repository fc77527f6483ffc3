"""The future without learning: what was seen last, the mean of the past, motion that goes on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import metrics


def persistence(past: Tensor, steps: int) -> Tensor:
    """(B, T, C, H, W) -> (B, steps, C, H, W): the last frame stays."""
    return past[:, -1:].expand(-1, steps, -1, -1, -1).clone()


def past_mean(past: Tensor, steps: int) -> Tensor:
    """(B, T, C, H, W) -> (B, steps, C, H, W): the mean of the past, which no motion can hurt."""
    return past.mean(1, keepdim=True).expand(-1, steps, -1, -1, -1).clone()


def moved_on(past: Tensor, steps: int, visible: Tensor | None = None) -> Tensor:
    """(B, T, C, H, W) -> (B, steps, C, H, W): the last frame, moved as it moved before it.

    Lagrangian persistence: the optical flow of the last two frames, of each channel its own, is
    held, and each later frame is the last one as it lies that many steps upstream (backward
    semi-Lagrangian). What comes in over an edge is the edge's value. One frame of past: it stays.
    visible: as past, where motion is looked for, if not there.
    Source: Germann & Zawadzki 2002, doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2.
    """
    if past.shape[1] < 2:
        return persistence(past, steps)
    visible = past if visible is None else visible
    pairs = zip(*(visible[:, t].flatten(0, 1) for t in (-2, -1)), strict=True)  # (H, W) each
    flow = torch.stack([motion(before, after) for before, after in pairs])
    last = past[:, -1].flatten(0, 1)  # (N, H, W)
    H, W = last.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(H, device=past.device), torch.arange(W, device=past.device), indexing="ij"
    )
    start = torch.stack([columns, rows]).to(past.dtype)  # (2, H, W), as the flow
    at = start.expand(len(last), -1, -1, -1)
    made = []
    for _ in range(steps):
        at = at - sampled(flow, at)
        made.append(sampled(last[:, None], at)[:, 0])
    B, C = past.shape[0], past.shape[2]
    return torch.stack(made, 1).unflatten(0, (B, C)).transpose(1, 2)


def motion(before: Tensor, after: Tensor) -> Tensor:
    """(H, W) each -> (2, H, W): columns, rows moved, pixels per step; 0 where nothing is to see."""
    low, high = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    if high <= low:
        return before.new_zeros(2, *before.shape)
    return metrics.flow(before, after, low, high).to(before.dtype)


def sampled(fields: Tensor, at: Tensor) -> Tensor:
    """(N, C, H, W) at columns and rows (N, 2, H, W), bilinear; edges hold beyond them."""
    H, W = fields.shape[-2:]
    size = torch.tensor([W, H], dtype=at.dtype, device=at.device)
    places = (at.movedim(1, -1) + 0.5) * 2 / size - 1
    return F.grid_sample(fields, places, padding_mode="border", align_corners=False)
