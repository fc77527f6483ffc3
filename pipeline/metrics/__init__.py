"""Scores as sums that add: no choice of batch, tile or chunk can change one.

Pixels missing (NaN) in the truth do not count; a prediction that is NaN where the truth is not is
an error. What is undefined is NaN, not 0.
"""

from pipeline.metrics.about import ABOUT, About, peak, span, units
from pipeline.metrics.base import Sums
from pipeline.metrics.clouds import ColdClouds
from pipeline.metrics.distribution import PROBABILITIES, Distribution, matched_by_date
from pipeline.metrics.ensembles import Ensemble
from pipeline.metrics.errors import Errors, FrameErrors
from pipeline.metrics.radial import RadialProfile
from pipeline.metrics.rain import Rain, thresholds
from pipeline.metrics.spectra import Spectra, power
from pipeline.metrics.temporal import Motion, Variability, filled, flow
from pipeline.metrics.verification import Contingency, FractionsSkill, boxes

__all__ = [
    "ABOUT",
    "PROBABILITIES",
    "About",
    "ColdClouds",
    "Contingency",
    "Distribution",
    "Ensemble",
    "Errors",
    "FractionsSkill",
    "FrameErrors",
    "Motion",
    "RadialProfile",
    "Rain",
    "Spectra",
    "Sums",
    "Variability",
    "boxes",
    "filled",
    "flow",
    "matched_by_date",
    "peak",
    "power",
    "span",
    "thresholds",
    "units",
]
