"""The command line: one command per stage. Parses, calls the stage, prints. No logic."""

from __future__ import annotations

import errno
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

import models
import pipeline
from pipeline.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parent
for package in (models, pipeline):
    if Path(str(package.__file__)).resolve().parent.parent != ROOT:
        sys.exit(
            f"'{package.__name__}' was imported from {package.__file__}, not from {ROOT}: another "
            "project has a package of the same name. Install eddy in an environment of its own."
        )

MANY = 30  # rows of a table or list on the screen; the manifest has them all
SKIPPED = 3  # exit code: finished, with inputs left out
INTERRUPTED = 130

console = Console(soft_wrap=True, highlight=False)
complaints = Console(stderr=True, soft_wrap=True, highlight=False)


class Group(TyperGroup):
    """Turns a user's mistake into one sentence and an exit code; our own defects keep a trace."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(str(error), error.code)
        except BrokenPipeError:  # whoever reads our output has seen enough, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno is None:
                raise
            fail(on_disk(error), 1)
        except KeyboardInterrupt:
            fail("stopped; nothing half written is left. Run the same command again", INTERRUPTED)


def fail(sentence: str, code: int) -> None:
    complaints.print("[bold red]Error:[/]", sentence.replace("[", r"\["))
    raise typer.Exit(code)


def on_disk(error: OSError) -> str:
    """What the operating system refused, where, and the way out."""
    place = error.filename2 or error.filename  # the second is what a temporary was to become
    where = f"{place}: " if place else ""
    ways = {
        errno.ENOSPC: "free some space and run the same command again; what is finished is kept",
        errno.EDQUOT: "free some space and run the same command again; what is finished is kept",
        errno.EACCES: "choose a place that you may write to",
        errno.EROFS: "choose a place that you may write to",
    }
    way = ways.get(error.errno or 0)
    return f"{where}{(error.strerror or str(error)).lower()}" + (f"; {way}" if way else "")


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="From raw weather-satellite files to trained spatio-temporal models, through one Zarr "
    "store: inspect, convert, split, train, evaluate, report, infer. Try `cli demo` first.",
)

ManifestDir = Annotated[Path, typer.Option(help="Folder of manifests and splits.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Which = Annotated[str, typer.Option("--checkpoint", help="best, last, or as in epoch-0010.")]


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="An H5 file, a tree of them or its archive, or a store.")
    ],
    ids: Annotated[list[str] | None, typer.Option(help="Only these typhoons; commas.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tree by its names, sizes and tables only.")
    ] = False,
    max_missing: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="As of `cli convert`: flag frames with more. 0.01."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read a tree. Default: as needed.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write all of it here; - for stdout.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with pictures.")
    ] = None,
    palette: Annotated[
        Literal["enhanced", "grey"], typer.Option(help="Colours of cold cloud, or grey alone.")
    ] = "enhanced",
) -> None:
    """Look at raw files or a store: what is there, what is wrong, what converting would give.

    Example: cli inspect data/WP --html WP.html
    """
    from pipeline import inspection as stage

    chosen = [word for item in ids or () for word in item.replace(",", " ").split()]
    to_stdout = json == "-"
    data = Path(json) if json and not to_stdout else None
    stage.refuse_places(data, html)
    done = stage.inspect(
        path,
        ids=chosen,
        workers=workers,
        quick=quick,
        max_missing=max_missing,
        pictures=html is not None,
    )
    if to_stdout:
        sys.stdout.write(stage.as_json(done))
    else:
        for part in stage.screen(done, console, palette):
            console.print(part)
    stage.write(done, data, html, palette)
    if not to_stdout:
        for file in filter(None, (data, html)):
            console.print(f"Written   {file}", markup=False)
    for note in done.notes:
        complaints.print("[yellow]Note:[/]", note.replace("[", r"\["))
    if done.refusal:
        fail(done.refusal, 1)
    if to_stdout and done.problems:
        raise typer.Exit(SKIPPED)
    finish_with(done.problems)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Tree of H5 files, or its archive (the first part, or the folder of all); NetCDF "
            "or PNG files; MNIST digits; a JSON list of files."
        ),
    ] = Path("data/WP"),
    target: Annotated[Path, typer.Argument(metavar="STORE")] = Path("data/WP.zarr"),
    codec: Annotated[
        Literal["none", "zstd"],
        typer.Option(help="none: training maps the files; zstd: a third of the disk, slower."),
    ] = "none",
    max_missing: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Frames with a larger fraction missing are flagged: in no triplet. Default: 0.01; "
            "1 for gridded fields and PNG, which may lack the sea in every frame.",
        ),
    ] = None,
    valid_min: Annotated[
        float | None, typer.Option(help="Lower is missing. Default: the source's; 150 K, 0 mm.")
    ] = None,
    valid_max: Annotated[
        float | None, typer.Option(help="Higher is missing. Default: the source's, as 330 K.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(
            help="NetCDF: its variables, each a channel; commas. PNG: a name. Digital Typhoon V3: "
            "infrared, infrared_2, water_vapour, near_infrared, or 1 to 4. Default: all there are."
        ),
    ] = None,
    basin: Annotated[
        Literal["WP", "AU"] | None,
        typer.Option(help="Digital Typhoon V3: which basin; each has storms of the same ids."),
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="NetCDF: pressure levels in hPa, each a channel: 1000,925.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="NetCDF: W,E,S,N in degrees; 350,10,40,60 wraps.")
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(help="NetCDF: regrid to cells of so many degrees.")
    ] = None,
    regrid: Annotated[
        Literal["bilinear", "nearest", "conservative"] | None,
        typer.Option(help="How. Default: bilinear to finer cells, conservative to coarser ones."),
    ] = None,
    accumulate: Annotated[
        str | None,
        typer.Option(help="NetCDF: sums of rain, means of all else, over 24h; bear its start."),
    ] = None,
    covers: Annotated[
        str | None,
        typer.Option(help="NetCDF: the time that each amount is of, as 1h, if the file is wrong."),
    ] = None,
    track_by: Annotated[
        str | None,
        typer.Option(help="NetCDF: day, 10d, week, month, season, year, file, none. [year]"),
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(help="NetCDF: of the values, if the file is wrong. PNG: of --range."),
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--range", help="PNG: the values of black and white: 150,330.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(help="Between frames that bear no time, as 1h. PNG: [1h]")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="UTC, of the first such frame. Default: 1970-01-01.")
    ] = None,
    clips: Annotated[
        int | None, typer.Option(help="MNIST: clips of moving digits from each file. [1000]")
    ] = None,
    clip_frames: Annotated[int | None, typer.Option(help="MNIST: frames of a clip. [20]")] = None,
    digits: Annotated[int | None, typer.Option(help="MNIST: digits in a clip. [2]")] = None,
    image_size: Annotated[int | None, typer.Option(help="MNIST: side, pixels. [64]")] = None,
    seed: Annotated[int | None, typer.Option(help="MNIST: of what is drawn. [0]")] = None,
    ids: Annotated[list[str] | None, typer.Option(help="Only these typhoons; commas.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Instead: the workers of this dask scheduler, tcp://host:8786 or its "
            "scheduler file; see docs/CLUSTER.md."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also if typhoons lose frames or settings change.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first unreadable file.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be converted.")
    ] = False,
    manifest_dir: ManifestDir = Path("data_manifest"),
) -> None:
    """Convert raw files into a store; once per dataset release. Run again to go on or update.

    Example: cli convert data/WP data/WP.zarr

    Example: cli convert downloads/WP.tar.gz00 data/WP.zarr

    Example: cli convert data/V3-2025 data/V3.zarr --basin WP --variable infrared,water_vapour

    Example: cli convert era5/ rain.zarr --variable tp --accumulate 24h --track-by month

    Example: cli convert mnist/ digits.zarr --clips 2000
    """
    from pipeline import convert as stage
    from pipeline.sources import options as words

    chosen = [word for item in ids or () for word in item.replace(",", " ").split()]
    options = words.asked(
        variable=variable,
        basin=basin,
        levels=levels,
        region=region,
        resolution=resolution,
        regrid=regrid,
        accumulate=accumulate,
        covers=covers,
        track_by=track_by,
        units=units,
        value_range=value_range,
        step=step,
        start=start,
        clips=clips,
        clip_frames=clip_frames,
        digits=digits,
        image_size=image_size,
        seed=seed,
    )
    if dry_run:
        planned(source, chosen, options)
        return
    if workers and scheduler:
        raise UsageError("--workers are processes of this machine; give that or --scheduler")
    limits = {"max_missing": max_missing, "valid_min": valid_min, "valid_max": valid_max}
    settings = stage.ConvertSettings(
        codec=codec, options=options, **{k: v for k, v in limits.items() if v is not None}
    )
    done = stage.convert(
        source,
        target,
        settings,
        manifests=manifest_dir,
        ids=chosen,
        workers=workers,
        scheduler=scheduler,
        strict=strict,
        replace=replace,
    )
    names = ("track", "frames", "from", "to", "satellites", "gaps", "flagged", "triplets")
    table = Table(*names, box=None, padding=(0, 2, 0, 0))
    for id, record in list(done.records.items())[:MANY]:
        table.add_row(
            id,
            str(record["frames"]),
            record["start"][:10],
            record["end"][:10],
            " ".join(record["satellites"]),
            str(len(record["gaps"])),
            str(record["flagged"]),
            str(record["triplets"]),
        )
    console.print(table)
    more = len(done.records) - MANY
    frames = sum(record["frames"] for record in done.records.values())
    console.print(
        (f"... and {more} more tracks. " if more > 0 else "")
        + f"{len(done.records)} tracks, {frames} frames, {done.triplets} triplets"
        + (f"; {len(done.reused)} tracks were done before" if done.reused else "")
        + (f"; {len(done.kept)} kept that this source does not have" if done.kept else "")
    )
    if unmatched := sum(r["frames_without_best_track"] for r in done.records.values()):
        console.print(f"Frames without best track: {unmatched}")
    for note in done.notes:
        console.print(f"Note: {note}", markup=False)
    console.print(f"Store     {done.store}\nManifest  {done.manifest}")
    finish_with(done.problems)


def planned(source: Path, ids: list[str], options: Any) -> None:
    from pipeline import convert as stage
    from pipeline import sources

    release = stage.selected(sources.scan(source, options), ids)
    table = Table("track", "frames", "first", "last", "rows without file", box=None)
    for raw in release.tracks[:MANY]:
        first, last = raw.frames[0].time, raw.frames[-1].time
        table.add_row(raw.id, str(len(raw.frames)), *map(brief, (first, last, raw.unmatched_rows)))
    console.print(table)
    frames = sum(len(raw.frames) for raw in release.tracks)
    files = len({path for raw in release.tracks for frame in raw.frames for path in frame.paths})
    console.print(
        f"{len(release.tracks)} tracks, {files} files, {frames} frames; uncompressed about "
        f"{stage.uncompressed(release) / 2**30:.1f} GiB. Nothing was written."
    )
    for note in release.notes:
        console.print(f"Note: {note}", markup=False)
    finish_with(list(release.problems))


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="STORE")] = Path("data/WP.zarr"),
    source: Annotated[
        Path | None,
        typer.Option(
            help="The raw tree or archive too: read every frame again and compare, bit for bit."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per core.")
    ] = None,
) -> None:
    """Look for damage: read every byte of a store, and say what is not as it was written.

    Example: cli verify data/WP.zarr --source data/WP
    """
    from pipeline import verify as stage

    done = stage.verify(path, source=source, workers=workers)
    for fault in done.faults:
        line = f"{fault.where}: {fault.what}".replace("[", r"\[")
        console.print(f"[red]Fault:[/] {line}")
    ways_out = dict.fromkeys(fault.way_out for fault in done.faults)
    for way_out in ways_out:
        console.print(f"[yellow]Way out:[/] {way_out}")
    gib = done.bytes / 2**30
    console.print(
        f"{done.tracks} tracks, {done.frames} frames, {gib:.2f} GiB read"
        f" in {done.seconds:.1f} s ({gib / max(done.seconds, 1e-9):.2f} GiB/s)"
    )
    if done.equal is not None:
        console.print(f"{done.equal} of {done.frames} frames equal their files, bit for bit")
    if done.faults:
        fail(f"{path}: {len(done.faults)} faults, listed above", 1)
    console.print("Every byte is as it was written")


@app.command()
def split(
    path: Annotated[Path, typer.Argument(metavar="STORE")] = Path("data/WP.zarr"),
    eval_ids: Annotated[
        list[str] | None,
        typer.Option(help="Typhoons to set aside: 202107,202110, seasons 2015-2018, or @file."),
    ] = None,
    test_ids: Annotated[
        list[str] | None, typer.Option(help="Typhoons for the final test; as --eval-ids.")
    ] = None,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Instead of ids: this share of the typhoons, at random.")
    ] = None,
    eval_last: Annotated[
        float | None, typer.Option(help="Instead: the latest tracks, with this share of frames.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    preset: Annotated[
        Literal["ss-l2", "neurips23"] | None,
        typer.Option(
            help="As published. ss-l2: the last two seasons are the test; eval as asked, or the "
            "season before. neurips23: train before 2005, eval to 2014, test from 2015 on."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: data_manifest/STORE.split.json.")
    ] = None,
    manifest_dir: ManifestDir = Path("data_manifest"),
) -> None:
    """Set whole typhoons aside, and add up the statistics of the training ones.

    Example: cli split data/WP.zarr --eval-ids 202107,2018-2019

    Example: cli split data/WP.zarr --preset neurips23
    """
    from pipeline import manifest
    from pipeline import split as stage

    file = out or manifest.split_file(manifest_dir, path)
    replaced = file.exists()
    made = stage.split(
        path,
        file,
        eval_ids=eval_ids or (),
        test_ids=test_ids or (),
        eval_fraction=eval_fraction,
        eval_last=eval_last,
        seed=seed,
        preset=preset,
    )
    table = Table("part", "tracks", "triplets", "ids", title=str(file))
    for part in manifest.PARTS:
        ids = getattr(made, part)
        table.add_row(part, str(len(ids)), str(made.triplets[part]), listed(ids))
    console.print(table)
    if preset:  # what of it whole tracks cannot honour
        console.print(f"Chosen by {made.selected_by}", markup=False)
    if replaced:
        console.print("Note: this replaces the split that was there")
    if not made.triplets["train"]:
        console.print("[yellow]Warning:[/] the training tracks hold no triplet: nothing to train")
    for mean, std in zip(made.statistics.mean, made.statistics.std, strict=True):
        console.print(f"Training tracks: mean {mean:.2f}, standard deviation {std:.2f}")


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Settings, YAML or JSON.")] = None,
    store: Annotated[Path | None, typer.Option(help="Default: data/WP.zarr.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="Default: data_manifest/STORE.split.json.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/MODEL-TIME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the file, as in training.batch_size=8."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print all settings and stop.")] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Short for --set training.devices=N.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it would take: steps, memory, time."),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(help="With --dry-run: of a GPU, as 12GB; propose what fits into that."),
    ] = None,
) -> None:
    """Train a model into a run folder; --show lists every setting and its value.

    SIGTERM or Ctrl-C saves and stops; --resume goes on.

    Example: cli train configs/tempogan.yaml --store data/WP.zarr --run runs/first

    Example: cli train configs/tempogan.yaml --dry-run --memory 12GB
    """
    if memory and not dry_run:
        raise UsageError("--memory: what fits into so much is for a --dry-run to find out")
    if config and not config.is_file():  # said before torch is imported, which takes seconds
        raise UsageError(f"{config}: no such settings file")
    from pipeline import settings as run_settings
    from pipeline import train as stage
    from pipeline.reporting.words import count

    base = None
    if resume:
        if run is None:
            raise UsageError("--resume: say which run with --run DIR")
        base = run_settings.of_run(run)
    more = [*(set_ or ()), *([f"training.devices={devices}"] if devices else [])]
    settings, notes = run_settings.load(config, more, base)
    settings = run_settings.located(settings, store, split)
    for note in notes:
        complaints.print(f"Note: {note}")
    if show:
        console.print(run_settings.text(settings), end="")
        return
    if dry_run:
        rehearsed(settings, memory)
        return
    run = run or Path("runs") / f"{settings.model_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    done = stage.train(settings, run, resume=resume)
    if not done.first:
        return
    at = done.position
    console.print(
        f"{count(at.step, 'step')}, {count(at.epoch, 'epoch')}"
        + (f"; {done.stopped}" if done.stopped else "")
        + (
            f". Best validation RMSE {at.best:.3f} in epoch {at.best_epoch}"
            if at.best < math.inf
            else ""
        )
    )
    console.print(f"Run       {run}\nNext      cli evaluate {run}")


def rehearsed(settings: Any, memory: str | None) -> None:
    from pipeline import budget
    from pipeline import rehearse as stage

    done = stage.rehearse(settings, budget.bytes_of(memory) if memory else None)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for word, told in done.rows():
        table.add_row(Text(word), Text(told, overflow="fold"))
    console.print(table)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    on: Annotated[Literal["eval", "test"], typer.Option(help="Which tracks.")] = "eval",
    checkpoint: Which = "best",
    store: Annotated[Path | None, typer.Option(help="Default: the run's own.")] = None,
    split: Annotated[Path | None, typer.Option(help="Default: the run's own.")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Frames or windows at once; more are faster on a GPU.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with whole tracks.")] = 1,
    resamples: Annotated[
        int, typer.Option(min=100, help="Draws of tracks for the 95 % intervals.")
    ] = 1000,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Follow this place date by date, 50.1,8.7 or @row,column; may be repeated. Rain: "
            "else the wettest, the median and the driest."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Forecasts: so many steps ahead; beyond the trained ones on its own."
        ),
    ] = None,
    arrays: Annotated[
        Path | None,
        typer.Option(help="Folder for inputs, truth and predictions as .npy files, by track."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Score a run on whole tracks that it has not seen, with the baselines beside it.

    Example: cli evaluate runs/first --on test

    Example: cli evaluate runs/forecast --steps 24 --arrays runs/forecast/arrays
    """
    from pipeline import evaluate as stage
    from pipeline.reporting.words import count

    done = stage.evaluate(
        run,
        on=on,
        which=checkpoint,
        store_path=store,
        split_path=split,
        device=device,
        batch_size=batch_size,
        processes=workers,
        resamples=resamples,
        sites=site or (),
        steps=steps,
        arrays=arrays,
    )
    scores = done.scores
    if len(scores.tracks) > 1:
        console.print(track_table(scores.tracks, scores.units))
    console.print(method_table(scores.rows, scores.units))
    if differences := scores.differences("model", scores.baseline):
        told = beside(differences["rmse"], scores.units["rmse"], len(scores.tracks))
        console.print(f"Model minus {scores.baseline}: RMSE {told}")
    else:
        console.print("One track: how far another might score otherwise cannot be said")
    if scores.is_forecast:
        step = scores.about["step_seconds"]
        console.print(lead_table(scores.leads, step, scores.units["rmse"]))
    left_out = f"; {count(done.left_out, 'flagged frame')} left out" if done.left_out else ""
    leads = len(scores.leads) if scores.is_forecast else 0
    rate = scores.frames / (leads or 1) / max(done.seconds, 1e-9)
    console.print(
        f"{scored(scores.frames, leads, len(scores.tracks))}{left_out}; "
        f"{rate:.2f} {'windows' if leads else 'frames'}/s"
    )
    for note in done.notes:
        console.print("[yellow]Note:[/]", note.replace("[", r"\["))
    if done.sites:
        console.print(f"Sites     {done.sites}")
    which = " --on test" if on == "test" else ""
    if arrays:
        console.print(f"Arrays    {arrays}")
    console.print(f"Scores    {done.file}\nNext      cli report {run}{which}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder, after `cli evaluate`.")],
    on: Annotated[Literal["eval", "test"], typer.Option(help="Which tracks.")] = "eval",
    out: Annotated[
        Path | None, typer.Option(help="Default: report.html in the run folder.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames to show, beside those of the largest and smallest gain; of a forecast "
            "windows.",
        ),
    ] = 3,
    store: Annotated[Path | None, typer.Option(help="Default: the one that was scored.")] = None,
    device: Device = "auto",
) -> None:
    """Make one page of a run's scores, curves and pictures; it opens in any browser, offline.

    Example: cli report runs/first
    """
    from pipeline import report as stage
    from pipeline.reporting.words import count

    done = stage.report(run, on=on, out=out, frames=frames, store_path=store, device=device)
    loop = f", and a loop of {done.loop}" if done.loop else ""
    console.print(f"{count(done.stills, done.shown)}{loop}; {done.size / 2**20:.1f} MiB")
    console.print(f"Report    {done.file}")


@app.command()
def infer(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    input: Annotated[
        Path,
        typer.Argument(
            help="A typhoon's raw folder, one H5 file, a raw tree; NetCDF files; or a store."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="To write: a .nc file, a .zarr, or a folder of GeoTIFFs (.tif).")
    ],
    mode: Annotated[
        Literal["enhance", "check", "forecast"] | None,
        typer.Option(
            help="enhance: frames finer than the input. forecast: those that come after it. check: "
            "coarsen and restore, or forecast, what is known, and compare. Default: not check."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Forecast from this UTC hour, as 2021071912. Default: the latest."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Frames to forecast. Default: as many as trained.")
    ] = None,
    format: Annotated[
        Literal["netcdf", "zarr", "geotiff"] | None,
        typer.Option(help="Default: what the ending of --out says. geotiff: one per frame."),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(
            min=2, help="Mean and spread of so many of the run's weights: its checkpoints'."
        ),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Which typhoon, where there are several.")] = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="NetCDF: where it has another name than in training.")
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="NetCDF: of its values, where the files do not say.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(help="NetCDF: between files that bear no time, as 24h.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="NetCDF: time of the first of them, as 2023-08-01.")
    ] = None,
    pictures: Annotated[
        str, typer.Option(help="How many PNGs, or all, none, or UTC hours 2021071900,2021071912.")
    ] = "3",
    mp4: Annotated[
        bool, typer.Option("--mp4", help="Animate all frames; the default without --gif.")
    ] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Animate them as a GIF.")] = False,
    no_animation: Annotated[bool, typer.Option("--no-animation", help="Neither.")] = False,
    palette: Annotated[
        Literal["enhanced", "grey"], typer.Option(help="Colours of cold cloud, or grey alone.")
    ] = "enhanced",
    tile: Annotated[
        int, typer.Option(min=1, help="Input pixels per side; smaller needs less memory.")
    ] = 256,
    checkpoint: Which = "best",
    device: Device = "auto",
) -> None:
    """Run a model on a typhoon or gridded fields: NetCDF, Zarr or GeoTIFFs, pictures, an animation.

    Stopped, the same command goes on. docs/PRODUCTS.md says what an output holds.

    Example: cli infer runs/first data/WP/image/202107 --out 202107.nc --mode check

    Example: cli infer runs/ahead data/WP/image/202107 --out next.nc --at 2021071912
    """
    from pipeline import infer as stage
    from pipeline.reporting.words import count
    from pipeline.sources import options

    done = stage.infer(
        run,
        input,
        out,
        mode=mode,
        at=at,
        steps=steps,
        format=format,
        which=checkpoint,
        members=ensemble or 0,
        id=id,
        options=options.asked(variable=variable, units=units, step=step, start=start),
        tile=tile,
        device=device,
        pictures=pictures,
        animations=stage.wanted(mp4=mp4, gif=gif, none=no_animation),
        palette=palette,
    )
    for note in done.notes:
        console.print(f"Note: {note}", markup=False)
    if done.leads:
        console.print(lead_table(list(done.leads), done.step, done.units["rmse"]))
        console.print(method_table(done.scores, done.units))
    elif done.scores:
        console.print(score_table({}, done.scores, done.units))
    told = f"{done.id}: {count(done.frames, 'frame')} of {done.shape[0]}x{done.shape[1]}"
    if done.since:
        from pipeline.outputs.layout import lasting

        told += f", one every {lasting(done.step)} from {done.since} on"
    console.print(told, markup=False)
    console.print(f"{done.format:<9} {done.file}", markup=False)
    for path in done.pictures:
        console.print(f"Picture   {path}", markup=False)
    for path in done.animations:
        console.print(f"Animation {path}", markup=False)
    finish_with(done.problems)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the measure.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("comparison"),
    on: Annotated[Literal["eval", "test"], typer.Option(help="Which tracks.")] = "eval",
    pictures: Annotated[int, typer.Option(min=0, help="Frames to draw; of forecasts windows.")] = 3,
    store: Annotated[Path | None, typer.Option(help="Default: the first run's own.")] = None,
    device: Device = "auto",
) -> None:
    """Hold runs that were evaluated on the same tracks against the first: differences and maps.

    Example: cli compare runs/first runs/second
    """
    from pipeline import compare as stage

    done = stage.compare(runs, out, on=on, count=pictures, store_path=store, device=device)
    console.print(method_table(done.rows, done.units))
    first = next(iter(done.rows))
    for run, by_score in done.differences.items():
        told = beside(by_score["rmse"], done.units["rmse"], done.tracks)
        console.print(f"{run} minus {first}: RMSE {told}")
    if not done.differences:
        console.print("One track: how far another might differ cannot be said")
    for note in done.notes:
        console.print(f"Note: {note}")
    console.print(scored(done.frames, done.leads, done.tracks))
    console.print(f"All       {done.file}")
    for path in done.pictures:
        console.print(f"Picture   {path}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make. Default: export in the run's folder.")
    ] = None,
    checkpoint: Which = "best",
    onnx: Annotated[
        bool,
        typer.Option("--onnx", help=r"Also model.onnx, compared with torch; needs eddy\[onnx]."),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(min=18, help="Of ONNX. Default: what torch prefers.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where an exported model lies.")
    ] = False,
) -> None:
    """Make a folder of a model to keep or to give away: safetensors, settings, a model card, ONNX.

    `cli infer` takes the folder for a run, and its README.md says what the model is worth.

    Example: cli export runs/first --out first-model

    Example: cli export runs/ahead --checkpoint last --onnx
    """
    from pipeline import export as stage
    from pipeline.exporting.card import mib
    from pipeline.reporting.words import after

    done = stage.export(run, out, which=checkpoint, onnx=onnx, opset=opset, replace=replace)
    for note in done.notes:
        complaints.print("[yellow]Note:[/]", note.replace("[", r"\["))
    for name, size in done.files.items():
        console.print(f"{name:<18} {mib(size):>9}", markup=False)
    if done.onnx:
        most = ", ".join(
            f"{value:.2g}{after(done.units[name])} ({name})"
            for name, value in done.onnx.differences.items()
        )
        console.print(
            f"onnxruntime and torch differ by {most} at most, {done.onnx.relative:.1g} of the "
            "range of the values",
            markup=False,
        )
    console.print(f"Model     {done.out}", markup=False)
    console.print(f"Card      {done.out / next(iter(done.files))}", markup=False)
    console.print(f"Next      cli infer {done.out} INPUT --out out.nc", markup=False)
    finish_with(done.problems)


@app.command()
def upstream(
    config: Annotated[
        Path, typer.Argument(help="Settings of a training, and a section upstream; YAML or JSON.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("upstream"),
    store: Annotated[Path | None, typer.Option(help="Default: the settings' own.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="Default: data_manifest/STORE.split.json.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each arm, instead of the settings'.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the file, as in upstream.min_reached=0.5."),
    ] = None,
) -> None:
    """Does what lies upstream of a region help to forecast it? With controls, seeds, intervals.

    Stopped, the same command goes on.

    Example: cli upstream configs/upstream.yaml --store data/rain.zarr --out upstream
    """
    from pipeline import settings as run_settings
    from pipeline import train as training
    from pipeline import upstream as stage
    from pipeline.experiment import plan
    from pipeline.reporting.words import after

    more = [*(set_ or ()), *([f"upstream.seeds={seeds}"] if seeds else [])]
    settings, asked, notes = plan.load(config, more)
    settings = run_settings.located(settings, store, split)
    for note in notes:
        complaints.print(f"Note: {note}")

    def say(line: str) -> None:
        console.print(line, markup=False)

    done = stage.upstream(settings, asked, out, train=training.train, say=say)
    found = done.findings
    units = {name: found.units if name == "rmse" else "1" for name in found.scores["upstream"]}
    console.print(method_table(found.scores, units))
    for each in found.deciding:
        gain = "{:.3f}{} [{:.3f}, {:.3f}]".format(each.gain[0], after(found.units), *each.gain[1:])
        console.print(f"{each.other} minus upstream: RMSE {gain}", markup=False)
    for note in (str(done.sees), *found.notes()):
        console.print("[yellow]Note:[/]", note.replace("[", r"\["))
    console.print(f"\n{found.verdict()}\n", markup=False)
    console.print(f"Page      {done.page}\nAll       {done.file}")


def track_table(tracks: dict[str, Any], units: dict[str, str]) -> Table:
    """RMSE by track: the methods side by side."""
    rows = list(next(iter(tracks.values())))
    heads = [f"{row} [{units['rmse']}]" for row in rows]
    lines = {
        id: [f"{found[row]['rmse']:.3f}" for row in rows]
        for id, found in list(tracks.items())[:MANY]
    }
    table = number_table("RMSE of", heads, lines)
    if len(tracks) > MANY:
        table.add_row(f"and {len(tracks) - MANY} more")
    return table


def method_table(rows: dict[str, dict[str, float]], units: dict[str, str]) -> Table:
    """Every score, the methods side by side."""
    lines = {
        f"{name} [{unit}]": [f"{round(scores[name], 3) + 0.0:.3f}" for scores in rows.values()]
        for name, unit in units.items()
    }
    return number_table("score", list(rows), lines)


SHOWN_LEADS = 12


def lead_table(leads: list[dict[str, dict[str, float]]], step: int, unit: str) -> Table:
    """RMSE by lead time, the methods side by side; of many leads some, evenly."""
    from pipeline.outputs.layout import lasting

    last = len(leads) - 1
    some = sorted({round(i * last / max(1, SHOWN_LEADS - 1)) for i in range(SHOWN_LEADS)})
    lines = {
        lasting((lead + 1) * step): [f"{scores['rmse']:.3f}" for scores in leads[lead].values()]
        for lead in (some if last >= SHOWN_LEADS else range(last + 1))
    }
    return number_table(f"rmse [{unit}] after", list(leads[0]), lines)


def number_table(first: str, heads: list[str], lines: dict[str, list[str]]) -> Table:
    """Numbers, by name; on a narrow screen names and heads fold, but no number is cut."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    for head, values in zip(heads, zip(*lines.values(), strict=True), strict=True):
        table.add_column(Text(head), overflow="fold", min_width=max(map(len, values)))
    for name, told in lines.items():
        table.add_row(Text(name), *(Text(value, no_wrap=True, overflow="ignore") for value in told))
    return table


def scored(frames: int, leads: int, tracks: int) -> str:
    """How much was scored; leads: lead times that each window has, 0 where there are none."""
    from pipeline.reporting.words import count

    if leads:
        what = f"{count(frames // leads, 'window')} of {count(leads, 'lead time')}, in"
    else:
        what = f"{count(frames, 'frame')} of"
    return f"{what} {count(tracks, 'track')}"


def beside(difference: tuple[float, float, float], unit: str, tracks: int) -> str:
    """A difference and its interval over so many tracks."""
    from pipeline.reporting.words import after
    from pipeline.resampling import FEW

    told, low, high = (f"{value:+.3f}" for value in difference)
    rough = f" ({tracks} tracks: rough)" if tracks < FEW else ""
    return f"{told}{after(unit)}, with 95 % between {low} and {high}{rough}"


def score_table(
    tracks: dict[str, dict[str, dict[str, float]]],
    rows_of_all: dict[str, dict[str, float]],
    units: dict[str, str],
) -> Table:
    names = list(units)
    heads = (f"{n} [{units[n]}]".replace("[", r"\[") for n in names)
    table = Table("track", "method", *heads, box=None, padding=(0, 2, 0, 0))
    each = list(tracks.items())[:MANY] if len(tracks) > 1 else []
    for id, rows in [*each, ("all", rows_of_all)]:
        for row, scores in rows.items():
            table.add_row(id, row, *(f"{round(scores[n], 3) + 0.0:.3f}" for n in names))
    return table


DEMO_SETTINGS = """\
# TempoGAN, small enough for about a minute on two CPU cores.
model:
  name: tempogan
  n_residual_blocks: 4
  warmup_steps: 600       # content alone; then both discriminators join
training:
  epochs: 6
  crops_per_window: 40
  batch_size: 4           # windows of 3 frames
  patch_size: 64
  lr: 1.0e-3
  ema: 0.99
"""
DEMO_MARK = ".made-by-cli-demo"


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder to make; an earlier demo there is replaced.")
    ] = Path("demo"),
) -> None:
    """Run the whole job on invented typhoons: about two minutes on two cores."""
    import json
    import shutil
    import time

    from pipeline.progress import progress
    from pipeline.sources.synthetic import demo_storms, write_tree

    if out.exists() and any(out.iterdir()):
        if not (out / DEMO_MARK).exists():
            raise UserError(f"{out}: holds something else than a demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / DEMO_MARK).touch()
    seconds: dict[str, float] = {}

    def step(name: str, *words: str | Path) -> None:
        """One command, as a user would type it."""
        console.print(f"\n[bold cyan]$ cli {name} {' '.join(map(str, words))}[/]")
        begun = time.monotonic()
        code = app([name, *map(str, words)], standalone_mode=False)
        if code:
            raise typer.Exit(code)
        seconds[name] = time.monotonic() - begun

    console.print("[bold]A raw tree in the release's form, with invented storms[/]")
    begun = time.monotonic()
    storms = demo_storms(hours=9)
    total = sum(len(storm.image_hours()) for storm in storms)
    with progress("write raw files", total, "frames") as advance:
        write_tree(out / "WP", storms, progress=advance)
    seconds["raw files"] = time.monotonic() - begun
    held_out = storms[-1].id
    step("inspect", out / "WP", "--quick")
    (out / "demo.yaml").write_text(DEMO_SETTINGS)
    manifests = out / "data_manifest"
    step("convert", out / "WP", out / "WP.zarr", "--manifest-dir", manifests)
    step("split", out / "WP.zarr", "--eval-ids", held_out, "--manifest-dir", manifests)
    data = ("--store", out / "WP.zarr", "--split", manifests / "WP.split.json")
    step("train", out / "demo.yaml", *data, "--run", out / "run")
    step("evaluate", out / "run")
    step("report", out / "run")
    step(
        "infer", out / "run", out / "WP" / "image" / held_out,
        "--out", out / f"{held_out}.nc", "--mode", "check",
    )  # fmt: skip

    scores = json.loads((out / "run" / "scores.json").read_text())
    won = scores["model"]["rmse"] < scores["bicubic"]["rmse"]
    table = Table("RMSE on a typhoon never trained on", "K", title="\nDemo")
    for row in ("bicubic", "bicubic_means", "model"):
        table.add_row(row, f"{scores[row]['rmse']:.3f}")
    table.add_section()
    for name, spent in seconds.items():
        table.add_row(name, f"{spent:.0f} s")
    console.print(table)
    console.print("[bold]Look at[/]")
    for path in sorted(p for p in out.rglob(f"{held_out}*") if p.suffix in (".png", ".mp4", ".nc")):
        console.print(f"  {path}")
    console.print(f"  {out / 'run' / 'report.html'}")
    console.print(f"  tensorboard --logdir {out / 'run' / 'tensorboard'}")
    if not won:
        fail("the model did not beat bicubic interpolation; the demo should", 1)


def finish_with(problems: list[str]) -> None:
    """Name the inputs that were left out; exit 3 when there are any."""
    for problem in problems[:MANY]:
        console.print("[yellow]Left out:[/]", problem.replace("[", r"\["))
    if len(problems) > MANY:
        console.print(f"... and {len(problems) - MANY} more")
    if problems:
        raise typer.Exit(SKIPPED)


def listed(ids: list[str]) -> str:
    return " ".join(ids[:8]) + (" ..." if len(ids) > 8 else "")


def brief(value: object) -> str:
    """For a cell: times without seconds, numbers without needless digits."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text[:13].replace("T", " ") + "h" if text[4:5] == "-" and "T" in text else text


if __name__ == "__main__":
    app()
