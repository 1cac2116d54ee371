"""Numbers that describe a pulse as a possible beat, and each of its meters and phases.

`level_features` say how well the music falls on the beats of a pulse; `meter_features` what is heavier on the
first beat of a bar, how bars repeat, and if the music ends with one. `mt3_infer.symbolic.meter` weighs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mt3_infer.symbolic.notes import Note
from mt3_infer.symbolic.pulse import Accents, Floats

METERS = (2, 3, 4)  # beats to a bar
HARMONY_FRAMES = 20  # a second
BEGUN = 0.25  # a beat counts as begun if it sounds for so long, in beats
ON_BEAT, ON_BEAT_SECONDS = 0.17, 0.07  # an accent this near is on the beat: parts of a beat, and seconds at most
POSITIONS = np.array([0, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 5 / 6, 1])
GROUPS = np.array([0, 5, 2, 3, 1, 4, 2, 5, 0])  # on the beat, half, quarters, first third, second third, sixths
LAGS = (1, 2, 3, 4, 6, 8)  # beats, at which music may repeat
PROFILE_BINS = 12
CUES = ("strength", "bass", "velocity", "length", "kick", "snare", "size", "gap", "change", "change_wide", "top")
SIZE, CHANGE = CUES.index("size"), CUES.index("change")


class Harmony:
    """The sounding time of each pitch class between any two moments."""

    def __init__(self, notes: Sequence[Note], duration: float) -> None:
        frames = int(duration * HARMONY_FRAMES) + 2
        changes = np.zeros((frames + 1, 12))
        pitched = [note for note in notes if not note.is_drum]
        pitch_class = np.array([note.pitch % 12 for note in pitched], int)
        for times, sign in (([n.onset for n in pitched], 1.0), ([n.offset for n in pitched], -1.0)):
            at = np.clip(np.rint(np.array(times, float) * HARMONY_FRAMES), 0, frames).astype(int)
            np.add.at(changes, (at, pitch_class), sign)
        self._total = np.concatenate([np.zeros((1, 12)), np.cumsum(np.cumsum(changes, axis=0), axis=0)])

    def between(self, edges: Floats) -> Floats:
        """Return the sounding time of each class between consecutive edges, (edges - 1, 12), with norm 1 or 0."""
        at = np.clip(np.rint(edges * HARMONY_FRAMES), 0, len(self._total) - 1).astype(int)
        parts = np.diff(self._total[at], axis=0)
        norm = np.linalg.norm(parts, axis=1, keepdims=True)
        return np.asarray(parts / np.where(norm > 0, norm, 1))


@dataclass(frozen=True)
class Measured:
    """A pulse and what the music does on its B beats.

    Attributes:
        beats: in seconds, (B,).
        cues: how heavy each beat is, in the ways that `CUES` names, (B, cues).
        harmony: the sounding pitch classes from each beat to the next, (B, 12), with norm 1 or 0.
        off_beat_change: how much the harmony changes between beats, (B,).
        rhythm: the strength of accents in each twelfth of each beat, (B, 12).
        position: for each accent, its group of `GROUPS`.
        loose_bass: for each accent, 1 if it has a bass note and is off the beat.
    """

    beats: Floats
    cues: Floats
    harmony: Floats
    off_beat_change: Floats
    rhythm: Floats
    position: npt.NDArray[np.int64]
    loose_bass: Floats


def measure(beats: Floats, accents: Accents, harmony: Harmony) -> Measured:
    """Measure everything about a pulse that does not depend on the meter."""
    edges = np.concatenate([[2 * beats[0] - beats[1]], beats, [2 * beats[-1] - beats[-2]]])
    index = np.clip(np.searchsorted(edges, accents.times, side="right") - 1, 0, len(edges) - 2)
    length = np.diff(edges)[index]
    phase = np.clip((accents.times - edges[index]) / length, 0, 1)
    distance = np.minimum(phase, 1 - phase)
    on_beat = (distance < ON_BEAT) & (distance * length < ON_BEAT_SECONDS)
    nearest = np.clip(index + (phase > 0.5) - 1, 0, len(beats) - 1)

    rhythm = np.zeros((len(beats) + 1, PROFILE_BINS))
    bins = np.rint(phase * PROFILE_BINS).astype(int)
    row = np.clip(index + bins // PROFILE_BINS, 0, len(beats))
    np.add.at(rhythm, (row, bins % PROFILE_BINS), accents.strength)
    sounding = harmony.between(edges)
    around_middles = harmony.between((edges[1:] + edges[:-1]) / 2)
    return Measured(
        beats,
        _cues(nearest[on_beat], on_beat, accents, sounding),
        sounding[1:],
        1 - (around_middles[1:] * around_middles[:-1]).sum(axis=1),
        rhythm[1:],
        GROUPS[np.abs(phase[:, None] - POSITIONS).argmin(axis=1)],
        (~on_beat & (accents.bass > 0)).astype(float),
    )


def _cues(
    beat: npt.NDArray[np.int64], on_beat: npt.NDArray[np.bool_], accents: Accents, sounding: Floats
) -> Floats:
    """Return how heavy each beat is, in the order of `CUES`; `beat` is where each accent on a beat belongs."""
    count = len(sounding) - 1

    def summed(values: Floats) -> Floats:
        return np.asarray(np.bincount(beat, weights=values[on_beat], minlength=count))

    def highest(values: Floats) -> Floats:
        result = np.zeros(count)
        np.maximum.at(result, beat, values[on_beat])
        return result

    number = summed(np.ones(len(accents)))
    velocity = np.where(number > 0, summed(accents.velocity) / np.maximum(number, 1), accents.velocity.mean())
    gap = np.minimum(np.diff(accents.times, append=accents.times[-1] + 1.0), 2.0)
    before = _unit(sounding[:-1] + np.roll(sounding[:-1], 1, axis=0))
    after = _unit(sounding[1:] + np.roll(sounding[1:], -1, axis=0))
    return np.stack(
        [
            summed(accents.strength),
            np.minimum(summed(accents.bass), 1),
            velocity,
            np.minimum(highest(accents.length), 2.0),
            np.minimum(summed(accents.kick), 1),
            np.minimum(summed(accents.snare), 1),
            np.log1p(summed(accents.size)),
            highest(gap),
            1 - (sounding[1:] * sounding[:-1]).sum(axis=1),
            1 - (before * after).sum(axis=1),
            highest(accents.top),
        ],
        axis=1,
    )


def _unit(rows: Floats) -> Floats:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norm > 0, norm, 1))


def level_features(pulse: Measured, accents: Accents, start: float, stop: float) -> Floats:
    """Describe how well a pulse is a beat, between two times."""
    beats = pulse.beats
    first, last = np.searchsorted(beats, (start, stop))
    near = beats[max(0, first - 1) : last + 1]
    period = float(np.median(np.diff(near))) if len(near) > 1 else stop - start
    a, b = np.searchsorted(accents.times, (start, stop))
    strength, group = accents.strength[a:b], pulse.position[a:b]
    by_strength = np.bincount(group, weights=strength, minlength=6) / max(strength.sum(), 1e-9)
    by_count = np.bincount(group, minlength=6) / max(b - a, 1)
    cues = pulse.cues[first:last]
    tempo = np.log2(60 / period / 100)
    ratios = np.diff(np.log(np.maximum(np.diff(near), 1e-3)))
    gaps = np.diff(accents.times[a:b])
    bass = accents.bass[a:b]
    return np.array(
        [
            1.0,
            tempo,
            tempo**2,
            np.mean(cues[:, SIZE] > 0) if len(cues) else 0.0,
            *by_strength,
            *by_count[:5],
            1 - float(pulse.loose_bass[a:b].sum() / max(bass.sum(), 1.0)),
            min(1.0, float(np.std(ratios)) if len(ratios) else 0.0),
            np.log2(max(float(np.median(gaps)), 0.02) / period) if len(gaps) else 0.0,
            np.log2(max(float(np.median(accents.length[a:b])), 0.02) / period) if b > a else 0.0,
            np.log2(max(b - a, 1) / max(last - first, 1)),
            float(np.mean(cues[:, CHANGE]) - np.mean(pulse.off_beat_change[first:last])) if last > first else 0.0,
            float(np.mean(cues[:, CHANGE])) if last > first else 0.0,
        ]
    )


def meter_features(pulse: Measured, accents: Accents, start: float, stop: float) -> dict[tuple[int, int], Floats]:
    """Describe each meter and phase of a pulse between two times: (beats to a bar, phase) → numbers."""
    first, last = np.searchsorted(pulse.beats, (start, stop))
    cues = pulse.cues[first:last]
    count = len(cues)
    z = (cues - cues.mean(axis=0)) / np.maximum(cues.std(axis=0), 1e-6) if count else cues
    period = float(np.median(np.diff(pulse.beats[first:last]))) if count > 1 else stop - start
    profile = _unit(pulse.rhythm[first:last])
    similar = []
    for rows in (profile, pulse.harmony[first:last], _unit(np.maximum(z, 0))):
        values = np.array(
            [float((rows[lag:] * rows[:-lag]).sum(axis=1).mean()) if count > lag else 0.0 for lag in LAGS]
        )
        similar.append(values - values.mean())
    similarity = np.concatenate(similar)
    onset = accents.times[min(len(accents) - 1, int(np.searchsorted(accents.times, start)))]
    begun = int(np.searchsorted(pulse.beats, accents.end - BEGUN * period))  # beats before the music ends
    is_last = stop > accents.times[-1]
    result = {}
    for meter in METERS:
        bar = np.log2(meter * period / 2.0)
        for phase in range(meter):
            number = np.arange(first, first + count) - phase
            one = number % meter == 0
            contrast = _contrast(z, one if meter != 4 else number % 2 == 0)
            deeper = _contrast(z[number % 2 == 0], one[number % 2 == 0]) if meter == 4 else np.zeros(len(CUES))
            second = _contrast(z, number % meter == 1) if meter == 3 else np.zeros(len(CUES))
            ones = np.flatnonzero(one)
            wait = (pulse.beats[first + ones[0]] - onset) / (meter * period) if len(ones) else 1.0
            head = np.array([1.0, bar, bar**2, abs(wait) < 0.1, min(max(wait, 0.0), 1.0)])
            ends = [is_last and (begun - phase) % meter == 0]
            result[meter, phase] = np.concatenate([head, contrast, deeper, second, similarity, ends])
    return result


def _contrast(z: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Return how much heavier some beats are than the others, for each cue, in standard deviations of the mean."""
    count, some = len(z), int(chosen.sum())
    if some in (0, count):
        return np.zeros(len(CUES))
    inside = z[chosen].mean(axis=0)
    outside = z[~chosen].mean(axis=0)
    return np.asarray((inside - outside) * np.sqrt(some * (count - some) / count))
