"""A tiny raw tree, written by hand: what the release's files are, at 16x16 pixels."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline import convert as converting
from pipeline import store
from pipeline.convert import ConvertSettings
from pipeline.sources.synthetic import Storm, write_tree

# A console keeps the width that it finds when it is made; tests give theirs each time
os.environ.pop("COLUMNS", None)
# A script's background job ignores Ctrl-C, and so would all that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM = Path("/usr/bin/chromium")
START = datetime(2021, 7, 19, tzinfo=UTC)
COLUMNS = "year,month,day,hour,grade,lat,lng,pressure,wind,dir50,intp"


class Tiny:
    """Hours count from 2021-07-19 00 UTC."""

    def __init__(self, root: Path) -> None:
        self.home = root
        self.root = root / "raw"
        self.root.mkdir()

    def pixels(self, seed: int = 0, shape: tuple[int, int] = (16, 16)) -> np.ndarray:
        """A sound frame, float64 kelvin."""
        return np.random.default_rng(seed).uniform(200, 300, shape)

    def path(self, hour: int, id: str = "202101", satellite: str = "HMW8") -> Path:
        name = f"{START + timedelta(hours=hour):%Y%m%d%H}-{id}-{satellite}-1.h5"
        return self.root / "image" / id / name

    def write(
        self,
        hour: int,
        id: str = "202101",
        pixels: np.ndarray | None = None,
        *,
        dataset: str = "Infrared",
        units: object = np.bytes_(b"K (kelvin)"),
        satellite: str = "HMW8",
    ) -> Path:
        path = self.path(hour, id, satellite)
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            data = file.create_dataset(
                dataset, data=self.pixels(hour + int(id)) if pixels is None else pixels
            )
            if units is not None:
                data.attrs["units"] = units
        return path

    def track(self, id: str = "202101", hours: Sequence[int] = range(6)) -> list[Path]:
        return [self.write(hour, id) for hour in hours]

    def rows(self, hours: Sequence[int], values: str = "5,20.5,135.25,965,75,0,0") -> list[str]:
        times = [START + timedelta(hours=hour) for hour in hours]
        return [f"{t.year},{t.month},{t.day},{t.hour},{values}" for t in times]

    def table(self, id: str, rows: Sequence[str], columns: str = COLUMNS) -> Path:
        path = self.root / "metadata" / f"{id}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
        return path

    def conversion(
        self, target: str = "S.zarr", *, ids: Sequence[str] = (), workers: int = 1, **settings
    ) -> converting.Conversion:
        how = {key: settings.pop(key) for key in ("strict", "replace") if key in settings}
        return converting.convert(
            self.root,
            self.home / target,
            ConvertSettings(**settings),
            manifests=self.home / "manifests",
            ids=ids,
            workers=workers,
            **how,
        )

    def store(self, target: str = "S.zarr", **options) -> store.Store:
        return store.open_store(self.conversion(target, **options).store)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder for trainings: WP.zarr and WP.split.json."""
    import torch

    from pipeline import split

    torch.set_num_threads(1)

    def make(
        storms: int, hours: int, size: int, damage: Callable[[Path], None] | None = None
    ) -> Path:
        """The last storm is for evaluation; damage: what is to be done to each raw file."""
        home = tmp_path_factory.mktemp("data")
        ids = [f"20210{n}" for n in range(1, storms + 1)]
        made = [
            Storm(id, datetime(2021, 7, n, tzinfo=UTC), hours, latitude=10.0 + n)
            for n, id in enumerate(ids, 1)
        ]
        for file in write_tree(home / "WP", made, size=size):
            if damage:
                damage(file)
        settings = ConvertSettings(max_missing=0.9)
        converting.convert(home / "WP", home / "WP.zarr", settings, manifests=home, workers=1)
        split.split(home / "WP.zarr", home / "WP.split.json", eval_ids=ids[-1:])
        return home

    return make


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path]) -> Path:
    """For trainings: WP.zarr, of three storms of 10 hours, 48x48, and WP.split.json."""
    return make_data(storms=3, hours=10, size=48)


@pytest.fixture
def stop_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the trainings of a test told to stop in one of their steps, counted from now."""
    from pipeline import trainer

    def stop_in(step: int, number: signal.Signals = signal.SIGTERM) -> None:
        real, steps = trainer.update, []

        def counted(*args: Any) -> Any:
            steps.append(1)
            if len(steps) == step:
                os.kill(os.getpid(), number)
            return real(*args)

        monkeypatch.setattr(trainer, "update", counted)

    return stop_in


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Only for one file: while it runs, so does an event loop, which others must not."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: the page cannot be tried in a browser")
    with api.sync_playwright() as p:
        running = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def new_tab(browser: Any) -> Any:
    """Makes a tab; what it complained of or asked the network for is in its .faults."""

    def make() -> Any:
        made = browser.new_page(viewport={"width": 1280, "height": 900})
        made.faults = []
        made.on("console", lambda m: made.faults.append(m.text))
        made.on("pageerror", lambda e: made.faults.append(str(e)))
        made.on("request", lambda r: r.url[:5] in ("file:", "data:") or made.faults.append(r.url))
        return made

    return make
