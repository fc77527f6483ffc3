"""What the numbers of a gridded variable are: an amount of rain, a rate of it, or a state.

Rain becomes millimetres per step, whatever its units were. An amount or a rate is of an interval
that ends, or begins, at the time it bears; ECMWF's accumulations end there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UserError

RAIN = re.compile(
    r"precip(?!itable)|rain|snowfall|^(tp|cp|lsp|sf|pr|prc|rr|tprate|mtpr|mcpr|mlspr)$",
    re.IGNORECASE,
)
NO_RAIN = re.compile(r"type|probab|fraction|duration|precipitable|flag|height|quality", re.I)
ECMWF_RAIN = ("142", "143", "144", "228")  # of ECMWF's table 128, where CDO gives no name: var228
MILLIMETRES = {  # in one unit of depth
    "m": 1000.0,
    "metre": 1000.0,
    "meter": 1000.0,
    "m of water equivalent": 1000.0,
    "m of water": 1000.0,
    "cm": 10.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "kg m-2": 1.0,
    "kg/m2": 1.0,
    "in": 25.4,
    "inch": 25.4,
}
SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "h": 3600, "hr": 3600, "hour": 3600}
SECONDS |= {"3h": 10800, "3hr": 10800, "6h": 21600, "6hr": 21600, "d": 86400, "day": 86400}
MONTH = ("month", "mon")
RATE = re.compile(r"(.+?)(?:/| per | )(\d?[a-z]+?)s?(?:-1)?")
EXPECTED = "expected m, cm, mm, kg m-2 or in, or one of them per s, hour, day or month"
MOST_OF_A_DAY = 2000.0  # mm; the most ever measured in 24 hours is 1825 mm
MOST = 20_000.0  # mm, of longer intervals; the wettest month ever had 9300 mm
PACKING = 0.05  # mm; a packed field is off by less, and so may be a little below zero
RANGES: dict[str, tuple[float, float]] = {  # of states; wide, since damage alone is to be found
    "K": (100.0, 400.0),
    "degC": (-150.0, 100.0),
    "%": (-20.0, 200.0),
    "m s-1": (-200.0, 200.0),
    "Pa": (0.0, 120_000.0),
    "hPa": (0.0, 1200.0),
    "kg kg-1": (-0.01, 0.2),
    "m2 s-2": (-10_000.0, 700_000.0),
    "gpm": (-1000.0, 70_000.0),
}
ANYTHING = (-1e9, 1e9)
CF_UNITS = {"m s**-1": "m s-1", "m/s": "m s-1", "m**2 s**-2": "m2 s-2", "kg kg**-1": "kg kg-1"}
CF_UNITS |= {"kg/kg": "kg kg-1", "kelvin": "K", "millibars": "hPa", "mb": "hPa", "(0 - 1)": "1"}
ONE_HOUR = 3600


@dataclass(frozen=True)
class Meaning:
    """How a variable's numbers are to be taken."""

    kind: Literal["amount", "rate", "state"]
    units: str  # as the file has them
    factor: float = 1.0  # amount: mm in one unit; rate: mm per `per` seconds in one unit
    per: int = 0  # seconds; 0: of a calendar month
    covers: int | None = None  # seconds that an amount is of; None: the file does not say
    label: Literal["end", "start"] | None = None  # of the interval, that the time is

    @property
    def rain(self) -> bool:
        return self.kind != "state"


def meaning(
    where: str,
    name: str,
    attrs: Mapping[str, Any],
    file: Mapping[str, Any],
    units: str | None,
    covers: int | None,
    times: Literal["monthly", "daily", "other"],
) -> Meaning:
    """What a variable is, by its attributes, its file's, and the user's own word.

    units, covers: what the user says of them; times: one a month on the same day of it, one a day
    or fewer at 00 UTC, or neither. Raises UserError for rain in units that are none, and for
    amounts that run on through the day as those of ERA5-Land do.
    """
    monthly = times == "monthly"
    told = (units or str(attrs.get("units", ""))).strip()
    words = [name, *(str(attrs.get(key, "")) for key in ("standard_name", "long_name"))]
    named = any(RAIN.search(w) for w in words) and not any(NO_RAIN.search(w) for w in words)
    if not named and not of_code(attrs):
        return Meaning("state", told)
    plain = re.sub(r"\*\*|\^", "", told).lower()
    plain = re.sub(r"\s+", " ", plain)
    step_type = str(attrs.get("GRIB_stepType", ""))
    ecmwf = of_ecmwf(attrs, file)
    averaged = step_type.startswith("avg") or (ecmwf and not step_type and monthly)
    if plain in MILLIMETRES:
        factor = MILLIMETRES[plain]
        if averaged and monthly:  # ECMWF's monthly means of accumulations: of a mean day
            return Meaning("rate", told, factor, 86400, label="start")
        if covers:
            return Meaning("amount", told, factor, covers=covers)
        if ecmwf and times == "other":  # whatever was left out between: ERA5 adds up hour by hour
            refuse_running(where, name, attrs)
            return Meaning("amount", told, factor, covers=ONE_HOUR, label="end")
        return Meaning("amount", told, factor)
    match = RATE.fullmatch(plain)
    if match and match[1] in MILLIMETRES and match[2] in SECONDS:
        return Meaning("rate", told, MILLIMETRES[match[1]], SECONDS[match[2]])
    if match and match[1] in MILLIMETRES and match[2] in MONTH:
        return Meaning("amount", told, MILLIMETRES[match[1]])
    raise UserError(
        f"{where}: {name} has units {told!r}; {EXPECTED}; say with --units what its values are"
    )


def of_code(attrs: Mapping[str, Any]) -> bool:
    """Whether a variable is ECMWF's rain by the number it had in GRIB, as CDO keeps it."""
    number, _, table = str(attrs.get("param", "")).partition(".")
    number, table = str(attrs.get("code", number)), str(attrs.get("table", table))
    return table == "128" and number in ECMWF_RAIN


def of_ecmwf(attrs: Mapping[str, Any], file: Mapping[str, Any]) -> bool:
    """Whether ECMWF made a file: through GRIB, by its own attributes or its history."""
    if str(file.get("GRIB_centre", attrs.get("GRIB_centre", ""))) == "ecmf":
        return True
    history = str(file.get("history", "")).lower()
    return "grib_to_netcdf" in history or "mars" in history


def refuse_running(where: str, name: str, attrs: Mapping[str, Any]) -> None:
    """ERA5-Land alone has cells of 0.1 degrees; its sums run from 00 UTC on. Raises UserError."""
    side = attrs.get("GRIB_iDirectionIncrementInDegrees")
    if side is not None and abs(float(side) - 0.1) < 1e-6:
        raise UserError(
            f"{where}: {name} looks like ERA5-Land's, which adds up from 00 UTC through the day; "
            "expected amounts of each step: take differences between hours first and write them "
            "without the GRIB_ attributes; or say --covers 1h if these are"
        )


def cf_units(units: str) -> str:
    """A state's units as CF spells them."""
    return CF_UNITS.get(units, CF_UNITS.get(units.lower(), units)) or "1"


def valid_range(meaning: Meaning, seconds: float | None) -> tuple[float, float]:
    """Outside of which a value is damage; seconds: the interval that an amount is of."""
    if not meaning.rain:
        return RANGES.get(cf_units(meaning.units), ANYTHING)
    return 0.0, MOST_OF_A_DAY if seconds is not None and seconds <= 86400 else MOST
