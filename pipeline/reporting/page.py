"""A run's scores, training and pictures as one HTML page that needs nothing beside it."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipeline import pages
from pipeline.reporting.material import Material
from pipeline.reporting.panels import film, frames_of
from pipeline.reporting.plots import curves, over_leads, over_time, training
from pipeline.reporting.strips import strips_of
from pipeline.reporting.summary import capital, summary
from pipeline.reporting.tables import METHODS, grouped, heads, meanings, rows_of, scores_intro
from pipeline.reporting.words import TIMES, count

OF_THE_DATA = (  # attributes of a store
    "title",
    "source",
    "projection",
    "license",
    "attribution",
    "conversion",
    "time_label",
    "regridding",
    "accumulation_hours",
    "grid_degrees",
    "native_grid_degrees",
)


def render(material: Material) -> str:
    """The page; the same material gives the same text."""
    environment = pages.environment(trimmed=False)
    source = environment.loader
    assert source is not None
    script = Markup(source.get_source(environment, "report.js")[0])
    return environment.get_template("report.html").render(script=script, **context(material))


def context(m: Material) -> dict[str, Any]:
    """What the template is told."""
    scores = m.scores
    against = ", against interpolated truth" if scores.get("truth") == "interpolated" else ""
    does = f"{TIMES}{scores['factor']}" if not m.forecast else f"{m.leads[-1]} ahead"
    per_window = len(m.leads) or 1
    groups: list[dict[str, Any]] = [
        {"title": title, "scores": heads(m, names), "rows": rows_of(m, scores, names, True)}
        for title, names in grouped(list(scores["units"])).items()
    ]
    return {
        "software": m.software,
        "title": f"{m.model} {does} on {count(len(m.ids), 'track')} never trained on{against}",
        "kicker": f"Run {m.run} · {scores['on']} tracks · {m.quantity}",
        "summary": summary(m),
        "scores_intro": scores_intro(m),
        "groups": groups,
        "meanings": meanings(m),
        "methods": [
            {"label": m.label(row), "text": METHODS.get(row, "a baseline of the task")}
            for row in m.rows
        ],
        "tracks": [
            {
                "id": id,
                "frames": scores["track_frames"][id] // per_window,
                "rows": rows_of(m, rows, [s["name"] for s in groups[0]["scores"]], False),
            }
            for id, rows in scores["tracks"].items()
        ],
        "of_a_track": "windows" if m.forecast else "frames",
        "tracks_note": " ".join(
            [
                *map(capital, m.notes),
                "The other scores of each track are in scores.csv beside scores.json.",
            ]
        ),
        **over_leads(m),
        **over_time(m),
        "training": training(m),
        "forecast": m.forecast,
        **(strips_of(m) if m.forecast else frames_of(m)),
        "film": film(m, m.board.loop) if m.board.loop else None,
        "curves": curves(m),
        "facts": facts(m),
        "settings": m.settings,
    }


def facts(m: Material) -> dict[str, list[tuple[str, str]]]:
    s = m.scores
    software = [
        ("page", m.software),
        *((name.replace("_", " "), str(value)) for name, value in m.about.items() if value),
        ("checkpoint", f"{s['checkpoint']}, epoch {s['epoch']}"),
    ]
    trained, scored = s["trained_manifest_hash"], s["manifest_hash"]
    if trained == scored:
        software += [("trained and scored on conversion", scored)]
    else:
        software += [("trained on conversion", trained), ("scored on conversion", scored)]
    data = [
        (name.replace("_", " "), str(m.attrs[name])) for name in OF_THE_DATA if m.attrs.get(name)
    ]
    if s.get("truth"):
        data += [("truth", s["truth"])]
    data += [
        ("store", s["store"]),
        ("manifest hash", str(m.attrs.get("manifest_hash", "not known"))),
    ]
    data += [("channel", f"{s['channel']['long_name']} [{s['channel']['units']}]")]
    return {"software": software, "data": data}
