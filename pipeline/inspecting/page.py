"""What `cli inspect --html` writes: one page that needs no network and fits a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import pages, software
from pipeline.inspecting import timeline, words
from pipeline.inspecting.thumbnails import Thumbnail, gradient, inline
from pipeline.pictures import INFRARED, Look, Palette, look

COLOURS = {
    timeline.SOUND: "#2b7a78",
    timeline.PARTLY: "#8fc9a8",
    timeline.TOO_MANY: "#f2a33a",
    timeline.EMPTY: "#737385",
    timeline.UNREADABLE: "#c8323c",
    timeline.OTHER_SHAPE: "#a4508b",
    timeline.NO_FILE: "var(--ground)",
    timeline.UNKNOWN: "#9db2c7",
}
Facts = Mapping[str, Any]


def of(facts: Facts, thumbnails: Sequence[Thumbnail], palette: Palette) -> str:
    """The page, HTML."""
    style = look(facts["channels"][0], palette, facts.get("accumulation_hours"))
    kind = {"file": "H5 file", "tree": "Raw tree", "store": "Store"}[facts["kind"]]
    return pages.template("inspect.html").render(
        title=f"{kind} {Path(facts['path']).name}",
        kind=facts["kind"],
        path=facts["path"],
        made=f"{software()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        rows=rows_of(facts),
        contents=contents(facts),
        tracks=[track_of(id, track, facts) for id, track in facts.get("tracks", {}).items()],
        legend=legend(facts),
        pictures=pictures(thumbnails, style),
        scale=scale(style),
        clouds=clouds(facts["channels"][0], palette),
        problems=facts["problems"],
        duplicates=facts.get("duplicates", []),
        refusal=facts.get("refusal", ""),
        notes=facts.get("notes", []),
        quick=facts.get("quick", False),
    )


def clouds(channel: Facts, palette: Palette) -> str:
    """How the pictures show them; "" of what is not infrared."""
    if channel["units"] != "K" or channel.get("standard_name", INFRARED) != INFRARED:
        return ""
    return (
        "Cold cloud is bright." if palette == "grey" else "Cold cloud is coloured, the rest grey."
    )


def rows_of(facts: Facts) -> list[tuple[str, str]]:
    """The totals, as the screen has them."""
    if facts["kind"] == "file":
        return [*words.named(facts), *words.worth(facts["image"], facts["settings"])]
    if facts["kind"] == "store":
        return words.rows_of_store(facts)
    return words.totals_of_tree(facts)


def contents(facts: Facts) -> list[dict[str, str]]:
    """Of one file: a line for each dataset and attribute."""
    lines = []
    for entry in facts.get("contents", ()):
        if entry["is"] != "dataset":
            lines.append({"name": entry["name"], "told": entry["is"]})
            continue
        shape = "x".join(map(str, entry["shape"])) or "one value"
        chunks = "x".join(map(str, entry["chunks"])) if entry["chunks"] else "no"
        filters = ", ".join(entry["filters"]) or "none"
        sizes = f"{words.size(entry['stored'])} in the file, {words.size(entry['plain'])} unpacked"
        told = f"{shape}, {entry['dtype']}, chunks {chunks}, filters {filters}; {sizes}"
        lines.append({"name": entry["name"], "told": told})
        for name, value in entry["attributes"].items():
            lines.append({"name": f"{entry['name']} / {name}", "told": str(value)})
    return lines


def track_of(id: str, track: Facts, facts: Facts) -> dict[str, Any]:
    """One typhoon: its name, its numbers in words, its strip of hours."""
    step = int(60 * (track.get("step_minutes") or 0))
    if not step:  # not one readable frame, or one alone
        step = 3600
    runs = timeline.strip(track["by_frame"], step)
    steps = max(1, sum(run["steps"] for run in runs))
    bars = [
        {
            "x": run["start"],
            "width": run["steps"],
            "colour": COLOURS[run["state"]],
            "title": span(run, step),
        }
        for run in runs
        if run["state"] != timeline.NO_FILE
    ]
    head = " · ".join(str(part) for part in (id, track.get("name")) if part)
    return {
        "id": id,
        "head": head,
        "told": told(track, facts),
        "steps": steps,
        "bars": bars,
        "satellites": spans_of(track["by_frame"], step),
        "days": days(runs[0]["first"], steps, step) if runs else [],
        "first": words.hour(runs[0]["first"]) if runs else "",
        "last": words.hour(runs[-1]["last"]) if runs else "",
        "summary": ", ".join(dict.fromkeys(run["state"] for run in runs)),
    }


def span(run: Facts, step: int) -> str:
    ends = words.hour(run["first"])
    if run["steps"] > 1:
        ends += f" to {words.hour(run['last'])}"
    return f"{ends} UTC: {run['state']}"


def spans_of(by_frame: Mapping[str, Sequence[Any]], step: int) -> list[dict[str, Any]]:
    """Which satellite saw the typhoon when; nothing where it was one throughout."""
    if len(set(by_frame["satellite"])) < 2:
        return []
    as_states = {"time": list(by_frame["time"]), "state": list(by_frame["satellite"])}
    return [
        {"x": run["start"], "width": run["steps"], "name": run["state"] or "unknown"}
        for run in timeline.strip(as_states, step)
        if run["state"] != timeline.NO_FILE
    ]


def days(first: str, steps: int, step: int) -> list[float]:
    """Where midnights lie, in steps from the first frame."""
    hour = int(first[11:13]) * 3600 + int(first[14:16]) * 60
    places = range(86400 - hour, steps * step, 86400)
    return [place / step for place in places]


def told(track: Facts, facts: Facts) -> str:
    """A track's numbers in a line; what is zero is left out."""
    if facts.get("quick"):
        parts = [words.counted(track["files"], "file")]
    elif track["frames"]:
        frames = words.counted(track["frames"], "frame")
        parts = [frames, words.counted(track["triplets"], "triplet")]
    else:
        parts = ["no readable frame"]
    parts.append(words.satellites(track))
    labels = (
        ("hours_missing", "hours missing"),
        ("too_many_missing", "with too much missing"),
        ("blank", "blank"),
        ("unreadable", "unreadable"),
        ("other_shapes", "of another shape"),
        ("duplicates", "twice"),
        ("frames_without_best_track", "without best track"),
    )
    parts += [f"{track[name]:g} {label}" for name, label in labels if track.get(name)]
    parts.append(words.size(track["bytes"]))
    return ", ".join(part for part in parts if part)


def legend(facts: Facts) -> list[tuple[str, str]]:
    """The states that occur, and their colours."""
    seen = {state for t in facts.get("tracks", {}).values() for state in t["by_frame"]["state"]}
    seen |= {timeline.NO_FILE} if seen else set()
    return [(state, COLOURS[state]) for state in timeline.STATES if state in seen]


def pictures(thumbnails: Sequence[Thumbnail], style: Look) -> dict[str, list[dict[str, str]]]:
    """By track."""
    found: dict[str, list[dict[str, str]]] = {}
    for each in thumbnails:
        when = f"{words.hour(each.time)} UTC" if each.time else ""
        caption = ", ".join(part for part in (when, each.satellite, each.state) if part)
        found.setdefault(each.track, []).append(
            {"source": inline(each.image, style), "caption": caption}
        )
    return found


def scale(style: Look) -> dict[str, Any]:
    return {
        "css": gradient(style),
        "label": style.label,
        "ticks": [style.told(tick) for tick in style.along(5)],
    }
