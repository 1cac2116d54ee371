"""Notes → pulses: sequences of beats at several levels, from which `mt3_infer.symbolic.meter` chooses.

Chords and drum strokes become accents, accents an envelope, its autocorrelation a tempo curve, and dynamic
programming places beats along that curve, at several levels. Time and memory grow linearly with the length of the
recording.

Sources: Ellis, Beat Tracking by Dynamic Programming (JNMR 2007), here with a tempo that varies in time; the
salience of notes after Dixon, Automatic Extraction of Tempo and Beat (JNMR 2001), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mt3_infer.symbolic.notes import Note

Floats: TypeAlias = npt.NDArray[np.float64]

FRAMES_PER_SECOND = 50
CHORD_SECONDS = 0.048  # onsets within it are one accent
KICKS, SNARES = (35, 36), (37, 38, 39, 40)

LEVELS = (50.0, 70.0, 100.0, 140.0, 200.0)
"""Beats per minute near which tempo curves are searched: each gives a pulse, and those between its beats."""
LEVEL_OCTAVES, LEVEL_WEIGHT = 0.35, 0.3
FASTEST, OCTAVES = 330.0, 4  # the range of tempi, in beats per minute
LAGS_PER_OCTAVE = 24
SAME_CURVE = 0.03  # tempo curves that differ less, in the median, are one
TEMPO_WINDOW = 8.0  # seconds of the envelope that one estimate of the tempo is from
TEMPO_HOP = 1.0
TEMPO_STEP_COST, TEMPO_JUMP_COST = 0.05, 2.0
OFF_BEATS_BELOW = 170.0  # beats per minute: the off-beats of a faster pulse are no beats
THIRDS_BELOW = 110.0  # beats per minute: a faster pulse is not of 6/8
TIGHTNESS = 300.0  # of the beats to the tempo curve
MIN_BEATS = 4
REFINE_SECONDS = 0.07  # a beat is moved to accents this near


@dataclass(frozen=True)
class Accents:
    """Chords and drum strokes; arrays of shape (A,) unless stated.

    Attributes:
        times: in seconds, ascending.
        strength: salience, relative to that of the 4 s around.
        bass: 1 where one of the notes is among the lowest of its surroundings.
        velocity: mean, 0 to 1.
        length: of the longest note, in seconds; 0 for drums.
        kick, snare: 1 where one is struck.
        size: number of notes.
        top: pitch of the highest note; 0 for drums alone.
        end: when the music ends, in seconds; what rings on after all else is left out.
    """

    times: Floats
    strength: Floats
    bass: Floats
    velocity: Floats
    length: Floats
    kick: Floats
    snare: Floats
    size: Floats
    top: Floats
    end: float

    def __len__(self) -> int:
        return len(self.times)


def find_accents(notes: Sequence[Note]) -> Accents:
    """Return the accents of notes, which may come in any order."""
    notes = sorted(notes, key=lambda n: (n.onset, n.is_drum, n.pitch, n.program, n.offset))
    onset = np.array([n.onset for n in notes], float)
    length = np.array([0.0 if n.is_drum else max(0.0, n.offset - n.onset) for n in notes], float)
    pitch = np.array([n.pitch for n in notes], float)
    velocity = np.array([n.velocity / 127 for n in notes], float)
    drum = np.array([n.is_drum for n in notes], bool)
    kick, snare = drum & np.isin(pitch, KICKS), drum & np.isin(pitch, SNARES)
    bass = ~drum & (pitch <= _low_pitch(onset, np.where(drum, np.inf, pitch)))

    pitched = 0.35 + 0.5 * np.minimum(length, 1) + 0.45 * bass
    struck = np.where(kick, 0.9, np.where(snare, 0.8, 0.35))
    salience = np.where(drum, struck, pitched) * (0.5 + velocity)

    first = _chord_starts(onset)
    total = np.add.reduceat(salience, first)
    times = np.add.reduceat(salience * onset, first) / total
    size = np.diff([*first, len(notes)]).astype(float)
    gap = np.diff(times, append=times[-1] + 0.8)
    strength = total**0.6 * (0.75 + 0.5 * np.minimum(gap, 0.8))
    return Accents(
        times=times,
        strength=strength / _local_mean(times, strength, 2.0),
        bass=np.maximum.reduceat(bass.astype(float), first),
        velocity=np.add.reduceat(velocity, first) / size,
        length=np.maximum.reduceat(length, first),
        kick=np.maximum.reduceat(kick.astype(float), first),
        snare=np.maximum.reduceat(snare.astype(float), first),
        size=size,
        top=np.maximum.reduceat(np.where(drum, 0.0, pitch), first),
        end=float(max(times[-1], np.quantile(onset + length, 0.995))),
    )


def _chord_starts(onset: Floats) -> list[int]:
    """Return the index of the first note of each chord."""
    starts = [0]
    since = onset[0]
    for index, time in enumerate(onset.tolist()):
        if time - since > CHORD_SECONDS:
            starts.append(index)
            since = time
    return starts


def _low_pitch(onset: Floats, pitch: Floats) -> Floats:
    """Return for each note the pitch below which 15 % of the pitches within 2 s lie; drums have pitch infinity."""
    limits = np.full(len(onset), -np.inf)
    start = 0
    while start < len(onset):
        second = np.floor(onset[start])
        first, stop, last = np.searchsorted(onset, (second - 1.5, second + 1, second + 2.5))
        near = pitch[first:last]
        near = near[np.isfinite(near)]
        if len(near):
            limits[start:stop] = np.quantile(near, 0.15)
        start = int(stop)
    return limits


def _local_mean(times: Floats, values: Floats, radius: float) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first, last = np.searchsorted(times, times - radius), np.searchsorted(times, times + radius, side="right")
    return np.asarray((sums[last] - sums[first]) / (last - first))


def envelope(accents: Accents) -> Floats:
    """Return the accents as a curve of `FRAMES_PER_SECOND`, smoothed, with variance 1."""
    frames = np.rint(accents.times * FRAMES_PER_SECOND).astype(int)
    curve = np.zeros(int(frames[-1]) + FRAMES_PER_SECOND)
    np.add.at(curve, frames, accents.strength)
    curve = np.convolve(curve, (0.25, 0.5, 0.25), mode="same")
    return np.asarray(curve / (curve.std() or 1.0))


def tempo_curves(curve: Floats) -> list[Floats]:
    """Return the period in frames at each frame, as smooth curves: the best one near each of `LEVELS`."""
    octaves = np.arange(OCTAVES * LAGS_PER_OCTAVE) / LAGS_PER_OCTAVE
    periods = FRAMES_PER_SECOND * 60 / FASTEST * 2**octaves
    scores = _periodicity(curve, periods)
    centers = np.arange(len(scores)) * TEMPO_HOP * FRAMES_PER_SECOND
    curves: list[Floats] = []
    for level in LEVELS:
        distance = np.log2(FRAMES_PER_SECOND * 60 / periods / level) / LEVEL_OCTAVES
        path = _smooth_path(scores - LEVEL_WEIGHT * distance**2)
        period = np.exp(np.interp(np.arange(len(curve)), centers, np.log(periods[path])))
        if all(np.median(np.abs(np.log(period / other))) > SAME_CURVE for other in curves):
            curves.append(np.asarray(period))
    return curves


def _periodicity(curve: Floats, periods: Floats) -> Floats:
    """Return how well each period fits the surroundings of each hop, (hops, periods); 1 is a perfect fit."""
    size, hop = int(TEMPO_WINDOW * FRAMES_PER_SECOND), int(TEMPO_HOP * FRAMES_PER_SECOND)
    count = len(curve) // hop + 1
    padded = np.pad(curve, (size // 2, size))
    taper = np.hanning(size)
    lags = np.arange(4 * int(np.ceil(periods[-1])) + 2)
    scores = np.empty((count, len(periods)))
    for index in range(count):
        part = padded[index * hop : index * hop + size] * taper
        part = part - taper * part.sum() / taper.sum()
        spectrum = np.fft.rfft(part, 2 * size)
        correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:size]
        correlation = np.pad(correlation / (correlation[0] or 1.0), (0, max(0, len(lags) - size)))[: len(lags)]
        combs = [np.interp(periods * k, lags, correlation) for k in (1, 2, 3, 4)]
        scores[index] = combs[0] + 0.7 * combs[1] + 0.35 * combs[2] + 0.35 * combs[3]
    return scores


def _smooth_path(scores: Floats) -> npt.NDArray[np.int64]:
    """Return the path through (time, state) with the highest sum of scores and smallest of steps."""
    steps = np.arange(-3, 4)
    penalty = TEMPO_STEP_COST * steps.astype(float) ** 2
    count = scores.shape[1]
    total = scores[0].copy()
    back = np.zeros(scores.shape, np.int64)
    rows = np.arange(count)
    for time in range(1, len(scores)):
        padded = np.pad(total, 3, constant_values=-np.inf)
        options = np.stack(
            [padded[3 + step : 3 + step + count] - p for step, p in zip(steps, penalty, strict=True)]
        )
        choice = options.argmax(axis=0)
        best = options[choice, rows]
        source = rows + steps[choice]
        highest = int(total.argmax())
        jumped = total[highest] - TEMPO_JUMP_COST > best
        back[time] = np.where(jumped, highest, source)
        total = np.where(jumped, total[highest] - TEMPO_JUMP_COST, best) + scores[time]
    path = np.empty(len(scores), np.int64)
    path[-1] = total.argmax()
    for time in range(len(scores) - 1, 0, -1):
        path[time - 1] = back[time, path[time]]
    return path


def track(curve: Floats, period: Floats) -> npt.NDArray[np.int64]:
    """Return the frames of the beats that follow a tempo curve and fall on accents, by dynamic programming."""
    # Blocks no longer than the smallest distance of beats depend on nothing inside them, so each is one step.
    longest = int(np.ceil(2 * period.max())) + 1
    score = np.zeros(longest + len(curve))
    back = np.full(len(curve), -1, np.int64)
    start = 0
    while start < len(curve):
        now = float(period[start])
        low, high = max(1, round(now / 2)), int(np.ceil(2 * now))
        stop = min(len(curve), start + low)
        lags = np.arange(low, high + 1)
        penalty = TIGHTNESS * np.log(lags / now) ** 2
        before = np.arange(start, stop)[:, None] - lags[None, :]
        options = score[before + longest] - penalty
        choice = options.argmax(axis=1)
        rows = np.arange(stop - start)
        best = options[rows, choice]
        begins = best <= 0
        back[start:stop] = np.where(begins, -1, before[rows, choice])
        score[longest + start : longest + stop] = curve[start:stop] + np.where(begins, 0, best)
        start = stop
    last = len(curve) - int(period[-1])
    frame = max(0, last) + int(score[longest + max(0, last) :].argmax())
    frames = []
    while frame >= 0:
        frames.append(frame)
        frame = int(back[frame])
    return np.array(frames[::-1], np.int64)


def find_pulses(accents: Accents) -> list[Floats]:
    """Return sequences of beats in seconds, at several levels, and halves and thirds of slow beats later."""
    curve = envelope(accents)
    pulses = []
    for period in tempo_curves(curve):
        beats = _refine(track(curve, period) / FRAMES_PER_SECOND, accents)
        pulses.append(beats)
        slowness = float(np.median(period)) / FRAMES_PER_SECOND / 60
        shifts = [1 / 2] if slowness > 1 / OFF_BEATS_BELOW else []
        shifts += [1 / 3, 2 / 3] if slowness > 1 / THIRDS_BELOW else []
        pulses += [_refine(beats[:-1] + shift * np.diff(beats), accents) for shift in shifts]
    return [pulse for pulse in pulses if len(pulse) >= MIN_BEATS]


def _refine(beats: Floats, accents: Accents) -> Floats:
    """Return the beats moved to the accents near them, kept in order."""
    if len(beats) < 2:
        return beats
    radius = min(REFINE_SECONDS, 0.15 * float(np.median(np.diff(beats))))
    first = np.searchsorted(accents.times, beats - radius)
    last = np.searchsorted(accents.times, beats + radius, side="right")
    weights = np.concatenate([[0.0], np.cumsum(accents.strength)])
    moments = np.concatenate([[0.0], np.cumsum(accents.strength * accents.times)])
    weight = weights[last] - weights[first]
    found = weight > 0
    moved = beats.copy()
    moved[found] = (moments[last] - moments[first])[found] / weight[found]
    keep = np.concatenate([[True], np.diff(moved) > 0.02])
    return np.asarray(moved[keep])
