"""Confidence: the probability that a note is right, by logistic models whose coefficients are data.

`coefficients.json` holds a model for each family of networks and each set of features. `bench/fit_confidence.py`
fits them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

DIGITS = 3

Coefficients = Mapping[str, float]
"""By feature, and "bias"."""


def confidence(features: Mapping[str, float], coefficients: Coefficients) -> float:
    """Return the probability that a note with these features is right, 0 to 1."""
    odds = sum(weight * (1.0 if name == "bias" else features[name]) for name, weight in coefficients.items())
    return round(1 / (1 + math.exp(-min(max(odds, -30.0), 30.0))), DIGITS)


@cache
def read_coefficients() -> dict[str, dict[str, Coefficients]]:
    """Return the coefficients by family and kind: "posteriors", "energies" (without Basic Pitch) and "drums"."""
    text = files("mt3_infer.evidence").joinpath("coefficients.json").read_text()
    families: dict[str, dict[str, Coefficients]] = json.loads(text)["families"]
    return families
