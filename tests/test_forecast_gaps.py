"""A forecast of one frame is judged frame after frame, and what follows a gap follows nothing."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline import convert as converting
from pipeline import evaluate as evaluating
from pipeline import settings as run_settings
from pipeline import split as splitting
from pipeline import train as training
from pipeline.convert import ConvertSettings
from pipeline.metrics import Motion
from pipeline.scorecard import Judge
from pipeline.sources.synthetic import Storm, write_tree

SET = [
    "model.name=st_rainnet",
    "model.hidden=[4, 4]",
    "task.past=3",
    "task.future=1",
    "training.patch_size=32",
    "training.validation_crops=1",
]


def test_frames_on_both_sides_of_a_gap_are_not_consecutive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storms = [
        Storm("202101", datetime(2021, 7, 1, tzinfo=UTC), hours=6),
        Storm("202102", datetime(2021, 7, 9, tzinfo=UTC), hours=16, gaps=(7,)),
    ]
    write_tree(tmp_path / "WP", storms, size=32)
    store = tmp_path / "WP.zarr"
    converting.convert(tmp_path / "WP", store, ConvertSettings(), manifests=tmp_path, workers=1)
    splitting.split(store, tmp_path / "split.json", eval_ids=["202102"])
    found = run_settings.located(run_settings.load(None, SET)[0], store, tmp_path / "split.json")
    training.Trainer.of(found, tmp_path / "run").save("best")  # untrained will do

    judged: list[bool] = []
    frame = Judge.frame
    monkeypatch.setattr(
        Judge,
        "frame",
        lambda self, *a, follows, **k: (
            judged.append(follows) or frame(self, *a, follows=follows, **k)
        ),
    )
    scores = evaluating.evaluate(tmp_path / "run").scores
    numbers = [each.number for each in scores.by_track["202102"].frames]
    assert numbers == [3, 4, 5, 6, 10, 11, 12, 13, 14]  # of the 15 frames there are
    assert judged == [False, True, True, True, False, True, True, True, True]
    motion = scores.by_track["202102"].cards[0]["model"].part(Motion)
    assert np.isclose(motion.pixels, 7 * 32 * 32)
