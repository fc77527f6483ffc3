"""How good is a run? A plain residual network, trained on the same typhoons, for comparison.

64 wide, 8 blocks, no batch norm, two sub-pixel doublings, last layer zero over bicubic; block-mean
coarsening; 500 steps of 8 single-frame crops of 128, L1, Adam 5e-4 with cosine decay. Scored as
`cli evaluate` scores, on the same frames, as a ratio to bicubic's RMSE:

    python benchmarks/superres_reference.py RUN
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import checkpoint, manifest, metrics, store
from pipeline.loader import Loader
from pipeline.metrics import Errors

STEPS, BATCH, PATCH, WIDTH, BLOCKS, FACTOR = 500, 8, 128, 64, 8, 4
CENTRE, SCALE = 240.0, 90.0  # kelvin: 150..330 K is -1..1


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def conv(inward: int, outward: int) -> nn.Conv2d:
            return nn.Conv2d(inward, outward, 3, padding=1)

        self.head = conv(1, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH)) for _ in range(BLOCKS)
        )
        double = [conv(WIDTH, 4 * WIDTH), nn.PixelShuffle(2), nn.ReLU()]
        again = [conv(WIDTH, 4 * WIDTH), nn.PixelShuffle(2), nn.ReLU()]
        self.tail = nn.Sequential(*double, *again, conv(WIDTH, 1))
        for parameter in self.tail[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        first = features = self.head(x)
        for block in self.blocks:
            features = features + block(features)
        return bicubic(x) + self.tail(first + features)


def bicubic(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=FACTOR, mode="bicubic", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder that `cli evaluate` has scored")
    run = parser.parse_args().run
    ours = json.loads((run / "scores.json").read_text())
    trained = checkpoint.load(checkpoint.in_run(run, ours["checkpoint"]))
    opened = store.open_store(trained.settings.data.store)
    split = manifest.read_split(trained.settings.data.split_file, opened)

    torch.manual_seed(0)
    model, begun = Plain(), time.monotonic()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    tracks = [opened.track(id) for id in split.train]
    windows = sum(len(track.windows(1)) for track in tracks)
    crops = -(-STEPS * BATCH // windows)
    loader = Loader(tracks, window=1, patch=PATCH, batch=BATCH, crops_per_window=crops)
    for _, frames in zip(range(STEPS), loader.epoch(0), strict=False):
        y = (frames[:, 0] - CENTRE) / SCALE
        seen = ~y.isnan()
        y = y.nan_to_num(0.0)
        loss = (model(F.avg_pool2d(y, FACTOR)) - y).abs()[seen].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.monotonic() - begun

    model.eval()
    peak = metrics.peak(opened.channels)
    for id in split.part(ours["on"]):
        track = opened.track(id)
        plain = rival = Errors()
        for first in track.windows(1):
            truth = torch.from_numpy(track.checked(int(first), 1))
            x = (trained.task.split(truth[None])[0][0] - CENTRE) / SCALE
            x = x.nan_to_num((split.statistics.mean[0] - CENTRE) / SCALE)
            with torch.no_grad():
                plain += Errors.of(model(x) * SCALE + CENTRE, truth, peak)
            rival += Errors.of(bicubic(x) * SCALE + CENTRE, truth, peak)
        base = rival.scores()["rmse"]
        rows = {row: s["rmse"] / base for row, s in ours["tracks"][id].items()}
        rows["plain network"] = plain.scores()["rmse"] / base
        told = "  ".join(f"{row} {value:.4f}" for row, value in sorted(rows.items()))
        print(f"{id}: RMSE over bicubic's ({base:.3f} K): {told}")
    print(f"plain network: {STEPS} steps of {BATCH} crops of {PATCH}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
