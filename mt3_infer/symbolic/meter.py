"""Pulses → the beats and bars that fit best.

A hypothesis is a pulse, two or three parts to its beat, two to four beats to its bar, and which beat begins a
bar. A small network (one hidden layer, and a linear one beside it) scores each from the numbers of
`metrical_features`; its coefficients, in `grid_weights.json`, are from performances with known beats
(`docs/decisions/0010-beats-from-the-notes.md`). Tempi and meters are more or less frequent in music than in those
performances, and count accordingly. What is chosen is not the most likely reading but the one that is expected to
be right most: what agrees with many likely ones in part can be better than one that is right or wrong altogether.
Long music is scored in parts of about half a minute, and the best sequence of hypotheses is found that changes
rarely: so bars stay right after an irregular one, and a medley has several meters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np

from mt3_infer.symbolic.metrical_features import (
    METERS,
    Harmony,
    Measured,
    level_features,
    measure,
    meter_features,
)
from mt3_infer.symbolic.pulse import Accents, Floats

DIVISIONS = (2, 3)  # parts of a beat
COMPOUND, TWO_BEATS, TEMPO = 0, 1, 5  # columns of `describe`: 1 or 0, 1 or 0, octaves from 100 beats a minute
ONE_PART_SECONDS, PART_SECONDS = 60.0, 30.0
TEMPI = {2: (100.0, 0.2), 3: (70.0, 0.22)}
"""Beats a minute in music, by the parts of a beat, and their spread in the logarithm."""
TEMPI_OF_EXAMPLES = {2: (108.0, 0.2536), 3: (73.9, 0.238)}  # the same of those that the network has learned from
TWO_FOUR = 0.5  # how frequent 2/4 is in music, relative to its share of the examples: many of those are dances
RAREST, MOST_FREQUENT = -4.0, 1.0  # limits of the logarithm of a ratio
WORTH = 8.0  # of a part that is right in all
BEATS_WORTH, DOWNBEATS_WORTH, BARS_WORTH = 0.3, 0.3, 0.4  # shares: F of beats, of downbeats, and the meter besides
PHASE_COST, METER_COST, PULSE_COST = 4.0, 5.0, 6.0  # of a change from one part to the next
IMPOSSIBLE = -30.0  # log-probability and worth of a pulse in a part where it has no beats
LEAST_PROBABILITY = 0.01  # of a hypothesis that is considered
SAME_SECONDS, SAME_F = 0.07, 0.8  # beats that differ less are the same, sequences that agree more as well


@dataclass(frozen=True)
class Hypothesis:
    """A reading of the music; `phase` is the index of a beat of the pulse that begins a bar, modulo `beats`."""

    pulse: int
    division: int
    beats: int
    phase: int

    @property
    def meter(self) -> str:
        """The time signature: quarters where beats have two parts, eighths where they have three."""
        return f"{self.beats}/4" if self.division == 2 else f"{3 * self.beats}/8"


@dataclass(frozen=True)
class Part:
    """A stretch of music, from `start` to `stop` seconds, with its reading and how likely aspects of that are."""

    start: float
    stop: float
    chosen: Hypothesis
    level_probability: float
    meter_probability: float
    probability: float


@cache
def coefficients() -> dict[str, Floats]:
    """Return the coefficients of the models of meter and key."""
    text = (resources.files("mt3_infer.symbolic") / "grid_weights.json").read_text()
    return {name: np.array(values, float) for name, values in json.loads(text)["weights"].items()}


def choose(pulses: Sequence[Floats], accents: Accents, harmony: Harmony) -> list[Part]:
    """Return the most likely reading of the music, part by part."""
    measured = [measure(pulse, accents, harmony) for pulse in pulses]
    hypotheses = list_hypotheses(len(pulses))
    edges = edges_of_parts(accents)
    scores = np.full((len(edges) - 1, len(hypotheses)), IMPOSSIBLE)
    for part, (start, stop) in enumerate(pairwise(edges)):
        columns, rows = describe(hypotheses, measured, accents, start, stop)
        if columns:
            scores[part, columns] = _log_probabilities(_score(rows) + log_frequency(rows))
    worths = [
        expected_worths(hypotheses, pulses, score, start, stop)
        for start, stop, score in zip(edges[:-1], edges[1:], scores, strict=True)
    ]
    path = _best_path(worths, _change_costs(hypotheses))
    return [
        _part(start, stop, hypotheses, int(choice), np.exp(score))
        for start, stop, choice, score in zip(edges[:-1], edges[1:], path, scores, strict=True)
    ]


def list_hypotheses(pulses: int) -> list[Hypothesis]:
    """Return every reading of a number of pulses."""
    return [
        Hypothesis(pulse, division, beats, phase)
        for pulse in range(pulses)
        for division in DIVISIONS
        for beats in METERS
        for phase in range(beats)
    ]


def describe(
    hypotheses: Sequence[Hypothesis], measured: Sequence[Measured], accents: Accents, start: float, stop: float
) -> tuple[list[int], Floats]:
    """Return the indices of hypotheses with beats between two times, and a row of numbers for each of them."""
    rows, columns = [], []
    for index, pulse in enumerate(measured):
        first, last = np.searchsorted(pulse.beats, (start, stop))
        if last - first < 2:
            continue
        level = level_features(pulse, accents, start, stop)
        meters = meter_features(pulse, accents, start, stop)
        for column, one in enumerate(hypotheses):
            if one.pulse == index:
                kind = [one.division == 3, *(one.beats == beats for beats in METERS)]
                rows.append(np.concatenate([kind, level, meters[one.beats, one.phase]]))
                columns.append(column)
    return columns, np.array(rows, float)


def edges_of_parts(accents: Accents) -> list[float]:
    """Return the times at which parts begin, and the end of the last one."""
    start, stop = float(accents.times[0]) - 0.1, float(accents.times[-1]) + 0.1
    count = 1 if stop - start <= ONE_PART_SECONDS else round((stop - start) / PART_SECONDS)
    return [float(edge) for edge in np.linspace(start, stop, count + 1)]


def _score(rows: Floats) -> Floats:
    """Return the network's output for each row of numbers."""
    weights = coefficients()
    inputs = np.clip((rows - weights["mean"]) / weights["deviation"], -5, 5)
    hidden = np.maximum(inputs @ weights["hidden"].T + weights["hidden_bias"], 0)
    return np.asarray(hidden @ weights["output"] + inputs @ weights["linear"])


def log_frequency(rows: Floats) -> Floats:
    """Return how much more frequent a tempo and meter is in music than in the examples, as a logarithm, (H,)."""
    compound = rows[:, COMPOUND] > 0
    tempo = np.log(2) * rows[:, TEMPO] + np.log(100)

    def log_density(tempi: Mapping[int, tuple[float, float]]) -> Floats:
        middle, spread = np.where(compound[:, None], tempi[3], tempi[2]).T
        return np.asarray(-0.5 * ((tempo - np.log(middle)) / spread) ** 2 - np.log(spread))

    ratio = np.clip(log_density(TEMPI) - log_density(TEMPI_OF_EXAMPLES), RAREST, MOST_FREQUENT)
    return np.asarray(ratio + np.log(TWO_FOUR) * (~compound & (rows[:, TWO_BEATS] > 0)))


def _log_probabilities(scores: Floats) -> Floats:
    scores = scores - scores.max()
    return np.asarray(scores - np.log(np.exp(scores).sum()))


def expected_worths(
    hypotheses: Sequence[Hypothesis], pulses: Sequence[Floats], score: Floats, start: float, stop: float
) -> Floats:
    """Return what choosing each of H hypotheses is expected to be worth in a part, shape (H,).

    Args:
        pulses: in seconds.
        score: the log-probability of each hypothesis, shape (H,).
        start, stop: of the part, in seconds.
    """
    worths = np.where(score > IMPOSSIBLE, 0.0, IMPOSSIBLE)
    likely = np.flatnonzero(score > np.log(LEAST_PROBABILITY)).tolist()
    readings = []
    for one in (hypotheses[index] for index in likely):
        first, last = np.searchsorted(pulses[one.pulse], (start, stop))
        beats = pulses[one.pulse][first:last]
        readings.append((one.meter, beats, beats[np.arange(first, last) % one.beats == one.phase]))
    for index, chosen in zip(likely, readings, strict=True):
        agreement = [_agreement(chosen, other) for other in readings]
        worths[index] = WORTH * float(np.exp(score[likely]) @ agreement)
    return np.asarray(worths)


def _agreement(one: tuple[str, Floats, Floats], other: tuple[str, Floats, Floats]) -> float:
    """Return how right a reading is where another is the truth, 0 to 1; each is a meter, beats and downbeats."""
    beats, downbeats = _f_measure(one[1], other[1]), _f_measure(one[2], other[2])
    same = one[0] == other[0] and min(beats, downbeats) >= SAME_F
    return BEATS_WORTH * beats + DOWNBEATS_WORTH * downbeats + BARS_WORTH * same


def _f_measure(one: Floats, other: Floats) -> float:
    """Return the share of times that two sequences have in common."""
    if not len(one) or not len(other):
        return 0.0
    at = np.searchsorted(other, one)
    padded = np.concatenate([[-np.inf], other, [np.inf]])
    nearest = np.minimum(one - padded[at], padded[at + 1] - one)
    return float(2 * (nearest <= SAME_SECONDS).sum() / (len(one) + len(other)))


def _change_costs(hypotheses: Sequence[Hypothesis]) -> Floats:
    """Return what it costs to go from one hypothesis to another, (from, to)."""
    table = np.array([(one.pulse, one.division, one.beats, one.phase) for one in hypotheses])
    same = table[:, None, :] == table[None, :, :]
    same_pulse, same_meter = same[..., 0], same[..., 1] & same[..., 2]
    costs = np.where(same_pulse, np.where(same_meter, PHASE_COST, METER_COST), PULSE_COST)
    np.fill_diagonal(costs, 0)
    return np.asarray(costs)


def _best_path(scores: Sequence[Floats], costs: Floats) -> list[int]:
    """Return the hypothesis of each part, by Viterbi's algorithm."""
    total = scores[0]
    back = []
    for score in scores[1:]:
        options = total[:, None] - costs
        back.append(options.argmax(axis=0))
        total = options.max(axis=0) + score
    path = [int(total.argmax())]
    for choices in reversed(back):
        path.append(int(choices[path[-1]]))
    return path[::-1]


def _part(start: float, stop: float, hypotheses: Sequence[Hypothesis], choice: int, probability: Floats) -> Part:
    chosen = hypotheses[choice]
    level = [one.pulse == chosen.pulse for one in hypotheses]
    meter = [(one.pulse, one.meter) == (chosen.pulse, chosen.meter) for one in hypotheses]
    return Part(
        start,
        stop,
        chosen,
        float(probability[level].sum()),
        float(probability[meter].sum()),
        float(probability[choice]),
    )
