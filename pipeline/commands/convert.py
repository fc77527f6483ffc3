"""`cli convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from pipeline.commands import completion, onward
from pipeline.commands.arguments import MACHINE, Ids, Json, ManifestDir, Workers, flag, option
from pipeline.commands.screen import (
    MANY,
    again,
    brief,
    console,
    finish_with,
    ids_in,
    note,
    starting,
    stoppable,
    told,
    write_json,
)
from pipeline.errors import UsageError

CHANNELS = "Channels"
MISSING = "Missing pixels"
GRIDDED = "Gridded fields (NetCDF)"
PICTURES = "PNG, and files without times"
DIGITS = "Moving MNIST"
KEYS = {
    "store": "the store",
    "manifest": "the manifest, which has a record of every track",
    "tracks": "ids of all in the store",
    "frames": "number in the store",
    "triplets": "number in the store",
    "done_before": "ids of tracks that were not redone",
    "not_in_source": "ids of tracks that were kept, though this source has them not",
    "left_out": "files that could not be read, a sentence each",
    "notes": "sentences",
}
DRY_KEYS = {
    "source": "what would be read",
    "tracks": "frames by id",
    "files": "number",
    "frames": "number",
    "bytes": "of the store, uncompressed",
    "free": "bytes on the disk of the store; null where it has no number",
    "left_out": "files that cannot be, a sentence each",
    "notes": "sentences",
}


def convert(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Tree of H5 files, or its archive (a part of it, all parts, or their folder); "
            "NetCDF or PNG files; MNIST digits; a JSON list of files. Default: data/WP.",
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="STORE",
            help="To write; one that is there is brought up to date. Default: data/WP.zarr.",
            autocompletion=completion.stores,
        ),
    ] = None,
    codec: Annotated[
        Literal["none", "zstd"],
        option(
            "none|zstd",
            "none: training maps the files, 1 MB per frame; zstd: a third of the disk, slower.",
        ),
    ] = "none",
    ids: Ids = None,
    dry_run: Annotated[bool, flag("--dry-run", "Only say what would be converted.")] = False,
    replace: Annotated[
        bool, flag("--replace", "Also if typhoons lose frames or settings change.")
    ] = False,
    strict: Annotated[bool, flag("--strict", "Stop at the first unreadable file.")] = False,
    variable: Annotated[
        list[str] | None,
        option(
            "NAMES",
            "NetCDF: its variables, each a channel; commas. PNG: a name. Digital Typhoon V3: "
            "infrared, infrared_2, water_vapour, near_infrared, or 1 to 4. Default: all there are.",
            CHANNELS,
        ),
    ] = None,
    basin: Annotated[
        Literal["WP", "AU"] | None,
        option("WP|AU", "Digital Typhoon V3: which; each has storms of the same ids.", CHANNELS),
    ] = None,
    levels: Annotated[
        str | None,
        option("LIST", "NetCDF: pressure levels in hPa, each a channel: 1000,925.", CHANNELS),
    ] = None,
    max_missing: Annotated[
        float | None,
        option(
            "SHARE",
            "Frames with a larger share of missing pixels are flagged: in no triplet. Default: "
            "0.01; 1 for gridded fields and PNG, which may lack the sea in every frame.",
            MISSING,
            min=0,
            max=1,
        ),
    ] = None,
    valid_min: Annotated[
        float | None,
        option("VALUE", "Lower is missing. Default: the source's; 150 K, 0 mm.", MISSING),
    ] = None,
    valid_max: Annotated[
        float | None,
        option("VALUE", "Higher is missing. Default: the source's, as 330 K.", MISSING),
    ] = None,
    region: Annotated[
        str | None, option("W,E,S,N", "Cut this box, degrees; 350,10,40,60 wraps.", GRIDDED)
    ] = None,
    resolution: Annotated[
        float | None, option("DEGREES", "Regrid to cells of this side.", GRIDDED)
    ] = None,
    regrid: Annotated[
        Literal["bilinear", "nearest", "conservative"] | None,
        option(
            "HOW",
            "bilinear, nearest or conservative. Default: bilinear to finer cells, conservative "
            "to coarser ones.",
            GRIDDED,
        ),
    ] = None,
    accumulate: Annotated[
        str | None,
        option("TIME", "Sums of rain, means of all else, over 24h; bear its start.", GRIDDED),
    ] = None,
    track_by: Annotated[
        str | None,
        option(
            "STRETCH",
            "Time that makes a track: day, 10d, week, month, season, year, file, none. "
            "Default: year.",
            GRIDDED,
        ),
    ] = None,
    units: Annotated[
        str | None,
        option("UNITS", "Of the values, if the file is wrong. PNG: of --range.", GRIDDED),
    ] = None,
    covers: Annotated[
        str | None,
        option("TIME", "What each amount is of, as 1h, if the file is wrong.", GRIDDED),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW,HIGH",
            help="PNG: the values of black and white: 150,330.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    step: Annotated[
        str | None,
        option("TIME", "Between frames that bear no time, as 30min. PNG: 1h.", PICTURES),
    ] = None,
    start: Annotated[
        str | None, option("DATE", "UTC, of the first such frame. Default: 1970-01-01.", PICTURES)
    ] = None,
    clips: Annotated[
        int | None, option("N", "Clips made from each file. Default: 1000.", DIGITS)
    ] = None,
    clip_frames: Annotated[int | None, option("N", "Of a clip. Default: 20.", DIGITS)] = None,
    digits: Annotated[int | None, option("N", "In a clip. Default: 2.", DIGITS)] = None,
    image_size: Annotated[
        int | None, option("PIXELS", "Side of a frame. Default: 64.", DIGITS)
    ] = None,
    seed: Annotated[int | None, option("N", "Of what is drawn. Default: 0.", DIGITS)] = None,
    workers: Workers = None,
    scheduler: Annotated[
        str | None,
        option(
            "ADDRESS",
            "Instead of --workers, those of this dask scheduler: tcp://host:8786 or its scheduler "
            "file; see docs/CLUSTER.md.",
            MACHINE,
        ),
    ] = None,
    manifest_dir: ManifestDir = Path("data_manifest"),
    json: Json = None,
) -> None:
    """Convert raw files into a store; again, to go on or to update.

    Once per dataset release. Writes the store, one Zarr array per typhoon that training maps, and
    a manifest that names every gap, every flagged and unreadable frame. Stopped, the same command
    goes on: finished typhoons are not redone.

    A frame is flagged when it is blank or lacks too many pixels. A triplet, what TempoGAN trains
    on, is three frames in a row without a gap or a flag.

    Examples:
        cli convert data/WP data/WP.zarr --dry-run
        cli convert data/WP data/WP.zarr
        An archive as it was downloaded, without unpacking it:
        cli convert downloads/WP.tar.gz* data/WP.zarr
        cli convert data/V3-2025 data/V3.zarr --basin WP --variable infrared,water_vapour
        Gridded fields, and Moving MNIST:
        cli convert era5/ rain.zarr --variable tp --accumulate 24h --track-by month
        cli convert mnist/ digits.zarr --clips 2000
    """
    with stoppable("nothing was written; the same command starts over"):
        with starting():
            from pipeline import convert as stage
            from pipeline.inspecting.words import counted
            from pipeline.sources import options as words

        source, store = places(sources or [], target)
        chosen = ids_in(ids)
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
        limits = {"max_missing": max_missing, "valid_min": valid_min, "valid_max": valid_max}
        settings = stage.ConvertSettings(
            codec=codec, options=options, **{k: v for k, v in limits.items() if v is not None}
        )
        if dry_run:
            planned(source, store, chosen, settings, json)
            return
    if workers and scheduler:
        raise UsageError("--workers are processes of this machine; give that or --scheduler")

    def kept() -> str:
        ready = stage.finished_ids(store) if store.is_dir() else []
        if not ready:
            return "no track is finished yet; the same command starts over"
        return f"{counted(len(ready), 'finished track')} kept in {store}; the same command goes on"

    with stoppable(kept):
        done = stage.convert(
            source,
            store,
            settings,
            manifests=manifest_dir,
            ids=chosen,
            workers=workers,
            scheduler=scheduler,
            strict=strict,
            replace=replace,
        )
    frames = sum(record["frames"] for record in done.records.values())
    write_json(
        json,
        KEYS,
        {
            "store": done.store,
            "manifest": done.manifest,
            "tracks": list(done.records),
            "frames": frames,
            "triplets": done.triplets,
            "done_before": done.reused,
            "not_in_source": done.kept,
            "left_out": done.problems,
            "notes": done.notes,
        },
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
    console.print(
        (f"... and {more} more tracks. " if more > 0 else "")
        + f"{len(done.records)} tracks, {frames} frames, {done.triplets} triplets"
        + (f"; {len(done.reused)} tracks were done before" if done.reused else "")
        + (f"; {len(done.kept)} kept that this source does not have" if done.kept else "")
    )
    if unmatched := sum(r["frames_without_best_track"] for r in done.records.values()):
        console.print(f"Frames without best track: {unmatched}")
    for sentence in done.notes:
        note(sentence)
    told("Store", done.store)
    told("Manifest", done.manifest)
    finish_with(done.problems, *onward.to_split(done.store, converted=True))


def places(sources: list[Path], target: Path | None) -> tuple[Path, Path]:
    """What to read and the store to write; the last of two or more is the store.

    Raises UserError.
    """
    given = [*sources, *([target] if target else [])]
    if len(given) < 2:
        return (given or [Path("data/WP")])[0], Path("data/WP.zarr")
    *sources, store = given
    from pipeline.sources import archive

    named = (archive.NAME.fullmatch(path.name) for path in (store, *sources))
    if archive.belongs(store) and (part := next(filter(None, named), None)):
        what = "is a part" if archive.NAME.fullmatch(store.name) else "are the sums"
        raise UsageError(
            f"{store}: {what} of an archive, not a store to write, which comes last: "
            f"cli convert {store.parent / part['stem']}* data/WP.zarr"
        )
    return (sources[0] if len(sources) == 1 else archive.one_source(sources)), store


def planned(source: Path, store: Path, ids: list[str], settings: Any, json: str | None) -> None:
    """What --dry-run says."""
    from pipeline import convert as stage
    from pipeline import room, sources
    from pipeline.reporting.words import size as in_bytes

    release = stage.selected(sources.scan(source, settings.options), ids)
    frames = sum(len(raw.frames) for raw in release.tracks)
    files = len({path for raw in release.tracks for frame in raw.frames for path in frame.paths})
    size, free = stage.uncompressed(release, release.tracks), room.free(store)
    write_json(
        json,
        DRY_KEYS,
        {
            "source": source,
            "tracks": {raw.id: len(raw.frames) for raw in release.tracks},
            "files": files,
            "frames": frames,
            "bytes": size,
            "free": free,
            "left_out": list(release.problems),
            "notes": list(release.notes),
        },
    )
    table = Table("track", "frames", "first", "last", "rows without file", box=None)
    for raw in release.tracks[:MANY]:
        first, last = raw.frames[0].time, raw.frames[-1].time
        table.add_row(raw.id, str(len(raw.frames)), *map(brief, (first, last, raw.unmatched_rows)))
    console.print(table)
    console.print(
        f"{len(release.tracks)} tracks, {files} files, {frames} frames; uncompressed about "
        f"{in_bytes(size)}. Nothing was written."
    )
    if free is not None:
        told("Free", f"{in_bytes(free)} on the disk of {store}")
    if lacking := stage.lacking(release, release.tracks, store, settings):
        note(lacking)
    for sentence in release.notes:
        note(sentence)
    finish_with(list(release.problems), *again())
