"""What an inspection found, in words and with units: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.inspecting import timeline
from pipeline.reporting.words import size

NOT_KNOWN = "?"
LONGEST = 60  # characters of an attribute or a name
GRADES = {
    2: "tropical depression",
    3: "tropical storm",
    4: "severe tropical storm",
    5: "typhoon",
    6: "extratropical",
    7: "entering the area",
    9: "storm strength or more",
}
Facts = Mapping[str, Any]

Rows = list[tuple[str, str]]


def totals_of_tree(facts: Facts) -> Rows:
    total = facts["totals"]
    rows = [
        ("Tracks", number(total["tracks"])),
        ("Files", f"{number(total['files'])}, {size(total['bytes'])}"),
    ]
    if not facts["quick"]:
        kept = f"{number(total['frames'])}, of them {number(total['flagged'])} flagged"
        rows += [
            ("Frames", f"{kept} ({total['too_many_missing']} with too much missing, "
                       f"{total['blank']} blank)"),
            ("Left out", f"{total['unreadable']} unreadable, {total['other_shapes']} of another "
                         f"shape, {total['duplicates']} for an hour that has one"),
        ]  # fmt: skip
    rows += [
        ("Gaps", gaps(total)),
        ("Satellites", satellites(total)),
        ("Best track", f"{counted(total['frames_without_best_track'], 'frame')} without a row, "
                       f"{counted(total['best_track_rows_without_frame'], 'row')} without a frame"),
    ]  # fmt: skip
    if facts["quick"]:
        rows.append(("Triplets", f"{number(total['triplets_at_most'])} if every frame is sound"))
    else:
        rows += [
            ("Triplets", number(total["triplets"])),
            ("Values", statistics(total["statistics"], facts["channels"])),
            ("As a store", f"{size(total['store_bytes'])} uncompressed, about a third of that "
                           "with --codec zstd"),
        ]  # fmt: skip
    return [*rows, *licence(facts)]


def rows_of_store(facts: Facts) -> Rows:
    total, settings = facts["totals"], facts["settings"]
    how = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    low, high = (facts["channels"][0][end] for end in ("valid_min", "valid_max"))
    units = facts["channels"][0]["units"]
    return [
        ("Format", f"version {facts['format_version']}, finished"),
        ("Made by", str(facts.get("history") or facts.get("software"))),
        ("Settings", f"{how}; valid {low:g}..{high:g} {units}"),
        ("Conversion", str(facts["manifest_hash"])[:12]),
        ("On disk", f"{size(total['bytes'])}, {counted(total['tracks'], 'track')}"),
        ("Frames", f"{number(total['frames'])}, of them {number(total['flagged'])} flagged "
                   f"({total['too_many_missing']} with too much missing, {total['blank']} blank)"),
        ("Gaps", gaps(total)),
        ("Satellites", satellites(total)),
        ("Triplets", number(total["triplets"])),
        ("Values", statistics(total["statistics"], facts["channels"])),
        *licence(facts),
    ]  # fmt: skip


def attributes(entries: Sequence[Facts]) -> Rows:
    """A line for each dataset that has any."""
    return [
        ("Attributes", f"{entry['name']}: " + ", ".join(
            f"{printable(key)} {printable(value)}" for key, value in entry["attributes"].items()
        ))
        for entry in entries
        if entry.get("attributes")
    ]  # fmt: skip


def named(facts: Facts) -> Rows:
    name = facts["name"]
    if name is None:
        return []
    rows = [
        ("Time", f"{hour(name['time'])} UTC"),
        ("Typhoon", f"{name['track']}: storm {int(name['track'][4:])} of {name['track'][:4]}"),
        ("Satellite", name["satellite"]),
        ("Channel", f"{name['channel']}, {name['channel_name']}"),
    ]
    if told := best_track(facts["best_track"] or {}):
        rows.append(("Best track", told))
    return rows


def best_track(row: Facts) -> str:
    """Where the storm was and how strong; what the table leaves out is left out."""
    value = {name: each["value"] for name, each in row.items() if each["value"] is not None}
    told = []
    if {"latitude", "longitude"} <= value.keys():
        south, west = value["latitude"] < 0, (value["longitude"] + 180) % 360 < 180
        told.append(f"{abs(value['latitude']):.1f}°{'S' if south else 'N'}")
        east = abs((value["longitude"] + 180) % 360 - 180)
        told.append(f"{east:.1f}°{'W' if west else 'E'}")
    if "central_pressure" in value:
        told.append(f"{value['central_pressure']:.0f} {row['central_pressure']['units']}")
    if value.get("max_wind"):  # 0 stands for "not analysed"
        told.append(f"{value['max_wind']:.0f} {row['max_wind']['units']}")
    if value.get("grade") in GRADES:
        told.append(GRADES[value["grade"]])
    if value.get("interpolated"):
        told.append("interpolated")
    return ", ".join(told)


def worth(image: Facts, settings: Facts) -> Rows:
    units, (low, high) = image["units"], image["valid_range"]
    stored = (image["stored_min"], image["stored_max"])
    between = f"{stored[0]:.2f} to {stored[1]:.2f} {units}" if stored[0] is not None else "none"
    told = (("below", image["below_range"]), ("above", image["above_range"]),
            ("no number", image["not_a_number"]))  # fmt: skip
    kinds = ", ".join(f"{number(count)} {what}" for what, count in told if count)
    missing = f"{number(image['missing'])} of {number(image['pixels'])} pixels"
    if image["missing"]:
        missing += f", {100 * image['missing_fraction']:.3g} % ({kinds})"
    most = f"{100 * settings['max_missing']:.3g} %"
    verdict = {
        timeline.SOUND: "sound",
        timeline.PARTLY: "partly missing, and still used",
        timeline.TOO_MANY: f"flagged: more than {most} of it is missing",
        timeline.EMPTY: "flagged: blank",
    }[image["state"]]
    return [
        ("In the file", between),
        ("Missing", f"{missing}; valid is {low:g}..{high:g} {units}"),
        ("Valid", statistics(image["statistics"], [{"units": units, "name": ""}])),
        ("Distinct", f"{number(image['distinct_values'])} values"),
        ("Blank", "yes" if image["blank"] else "no"),
        ("As a frame", verdict),
    ]


def number(value: float | None) -> str:
    if value is None:
        return NOT_KNOWN
    return f"{value:,}" if value >= 10_000 else str(value)


def counted(many: float, noun: str) -> str:
    """A number and its noun: 1 hour, 2 hours."""
    return f"{many:,.12g} {noun}" + ("" if many == 1 else "s")


def gaps(total: Facts) -> str:
    if not total["gaps"]:
        return "none"
    return f"{number(total['gaps'])}; {counted(total['hours_missing'], 'hour')} without a frame"


def hour(text: str) -> str:
    """An ISO time for a person: the release has whole hours."""
    return text[:16].replace("T", " ")


def satellites(of: Facts) -> str:
    """With the number of frames of each, where there are several."""
    seen = of.get("satellites") or {}
    if len(seen) == 1:
        return next(iter(seen)) or "unknown"
    changes = of.get("satellite_changes") or 0
    many = changes if isinstance(changes, int) else len(changes)
    told = [f"{name or 'unknown'} ({frames})" for name, frames in seen.items()]
    return ", ".join([*told, *([counted(many, "change")] if many else [])])


def statistics(found: Facts, channels: Sequence[Facts]) -> str:
    """Of each channel, in its units."""
    told = []
    for i, channel in enumerate(channels):
        low, high, mean, std = (found[name][i] for name in ("min", "max", "mean", "std"))
        if mean is None:
            told.append("none")
            continue
        name = f"{channel['name']}: " if len(channels) > 1 else ""
        told.append(f"{name}{low:.2f} to {high:.2f} {channel['units']}, mean {mean:.2f}, "
                    f"standard deviation {std:.2f}")  # fmt: skip
    return "; ".join(told)


def licence(facts: Facts) -> Rows:
    return [
        (head, str(facts[name]))
        for head, name in (("Licence", "license"), ("Credit", "attribution"))
        if facts.get(name)
    ]


def printable(value: object, longest: int = LONGEST) -> str:
    """What an untrusted file says, cut, and without what would move a terminal's cursor."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"
