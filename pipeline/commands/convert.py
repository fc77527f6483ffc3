"""`cli convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from pipeline.commands.arguments import ManifestDir
from pipeline.commands.screen import MANY, brief, console, finish_with
from pipeline.errors import UsageError


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
