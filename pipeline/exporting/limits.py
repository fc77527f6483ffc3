"""Of a model card: what the model has not seen, cannot do and does badly."""

from __future__ import annotations

from pipeline.exporting.judged import early, lost, smooth
from pipeline.exporting.material import Material, pixel, sides, weather
from pipeline.familiarity import short
from pipeline.outputs.layout import lasting
from pipeline.reporting.words import TIMES, after, count, listed
from pipeline.tasks import INTERPOLATED, Forecast


def limits(m: Material) -> list[str]:
    """What it cannot do, a sentence or more each."""
    data, made = m.trained.data, []
    tracks = count(len(data.train), "track")
    other = ", and of any other place, season or instrument," if weather(m) else ""
    if data.seen.get("min"):
        ranges = [
            f"{c['name']} {short(low)} to {short(high)}{after(c['units'])}"
            for c, low, high in zip(m.channels, data.seen["min"], data.seen["max"], strict=True)
        ]
        made.append(
            f"It has seen values of {listed(ranges)}, in {tracks}. Of anything beyond{other} "
            "nothing is known; `cli infer` says so where an input is unlike the training tracks."
        )
    else:
        made.append(
            f"It was trained on {tracks}, and which values and satellites it saw was not recorded."
        )
    if satellites := data.seen.get("satellites"):
        made.append(f"It has seen images of {listed(satellites)}, and of no other satellite.")
    coarse, side = (m.attrs.get(key) for key in ("native_grid_degrees", "grid_degrees"))
    if coarse and side and coarse > 1.001 * side:
        made.append(
            f"The data were regridded from {coarse:g}° to {side:g}°: nothing in them is finer than "
            "they were before."
        )
    made += of_forecast(m) if m.forecast else of_super_resolution(m)
    for scores in m.scores:
        made += [told for told in (early(scores), lost(scores), smooth(scores)) if told]
    made.append(
        "It gives one answer without saying how sure it is, has been checked by no weather "
        "service, and must not be used for warnings."
        if weather(m)
        else "It gives one answer without saying how sure it is."
    )
    return made


def of_super_resolution(m: Material) -> list[str]:
    coarse, fine = (pixel(m, times) for times in sides(m))
    if m.finer.truth == "interpolated":
        return [f"It learnt from {INTERPOLATED}."]
    made = []
    if coarse:
        made.append(f"It learnt to go from pixels of {coarse} to {fine}, and from no other.")
    made.append(
        f"Detail finer than {coarse or 'the input'} is the model's estimate, not observed. Used on "
        f"frames as fine as {fine or 'the training data'} it works one step beyond all that it was "
        "trained and scored on: finer than that there was no truth."
    )
    how = "the mean of each block" if m.finer.coarsening == "area" else m.finer.coarsening
    made.append(
        f"In training, coarse frames were made of fine ones ({how} of "
        f"{m.finer.factor}{TIMES}{m.finer.factor} pixels). A real coarse sensor has noise, blur "
        "and shifts of its own, of which it knows nothing."
    )
    return made


def of_forecast(m: Material) -> list[str]:
    assert m.forecast
    step, task = m.trained.data.step, m.trained.task
    assert isinstance(task, Forecast)
    reach = f" ({lasting(step * m.forecast.future)})" if step else ""
    made = [
        f"It says {count(m.forecast.future, 'frame')}{reach} at once. `cli infer --steps` goes "
        "farther by feeding forecasts back, and errors add up."
        if task.targets == task.inputs and m.forecast.region is None
        else f"It says {count(m.forecast.future, 'frame')}{reach} and cannot go farther."
    ]
    if step:
        made.append(f"Frames must be {lasting(step)} apart, without a gap.")
    if side := pixel(m, 1):
        made.append(f"It learnt on frames of {side} per pixel, and on no other.")
    if "storm" in str(m.attrs.get("projection", "")):
        made.append(
            "Frames are centred on the storm at their own time: where the storm will be is not "
            "forecast."
        )
    if m.forecast.outside != "seen":
        made.append(
            "It is a control of an experiment (task.outside "
            f"{m.forecast.outside}), and should not be used for anything else."
        )
    return made
