"""Notes → their metrical grid: beats, bars, tempo, meter and key, each with a confidence.

It goes by the notes alone, so it works for every model. Time and memory grow linearly: three hours of music take
seconds. The same notes always give the same grid.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mt3_infer.symbolic.grid import BeatGrid, tempo_of
from mt3_infer.symbolic.notes import Note

if TYPE_CHECKING:
    from mt3_infer.symbolic.meter import Part
    from mt3_infer.symbolic.pulse import Floats

MIN_ACCENTS = 6  # in fewer, any beat would be a guess
AFTER_LAST_ONSET = 10.0  # seconds of harmony that are kept


def find_grid(notes: Sequence[Note]) -> BeatGrid:
    """Return the grid of notes in any order; what too few notes cannot show is empty, with confidence 0.

    Notes without a finite onset of at least 0 are left out.
    """
    from mt3_infer.symbolic.key import find_key
    from mt3_infer.symbolic.meter import coefficients

    notes = [note for note in notes if 0 <= note.onset < math.inf]
    key, key_probability = find_key(notes, coefficients()["key"])
    pulses, parts = _read(notes)
    beats, downbeats = _beats(pulses, parts)
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        seconds[part.chosen.meter] += part.stop - part.start
    level = _mean(parts, [part.level_probability for part in parts])
    confidence = {
        "beats": level,
        "downbeats": _mean(parts, [part.probability for part in parts]),
        "meter": _mean(parts, [part.meter_probability for part in parts]),
        "tempo_bpm": level,
        "key": key_probability,
    }
    return BeatGrid(
        beats=tuple(beats),
        downbeats=tuple(downbeats),
        meter=max(seconds, key=lambda meter: (seconds[meter], meter)) if seconds else "",
        tempo_bpm=tempo_of(beats),
        key=key,
        confidence={name: round(value, 4) for name, value in confidence.items()},
    )


def _read(notes: Sequence[Note]) -> tuple[list[Floats], list[Part]]:
    """Return the pulses of notes, and which of them is the beat in each part of the music."""
    from mt3_infer.symbolic.meter import choose
    from mt3_infer.symbolic.metrical_features import Harmony
    from mt3_infer.symbolic.pulse import find_accents, find_pulses

    if not notes or len(accents := find_accents(notes)) < MIN_ACCENTS:
        return [], []
    pulses = find_pulses(accents)
    harmony = Harmony(notes, float(accents.times[-1]) + AFTER_LAST_ONSET)
    return pulses, choose(pulses, accents, harmony) if pulses else []


def _beats(pulses: Sequence[Floats], parts: Sequence[Part]) -> tuple[list[float], list[float]]:
    """Return beats and downbeats of all parts, to the microsecond."""
    beats: list[float] = []
    downbeats: list[float] = []
    for part in parts:
        pulse = pulses[part.chosen.pulse].tolist()
        for index in range(bisect_left(pulse, part.start), bisect_left(pulse, part.stop)):
            period = pulse[index] - pulse[index - 1] if index else pulse[1] - pulse[0]
            # Where one pulse follows another, two beats may nearly coincide.
            if beats and part is not parts[0] and pulse[index] - beats[-1] < 0.5 * period:
                continue
            beats.append(round(pulse[index], 6))
            if index % part.chosen.beats == part.chosen.phase:
                downbeats.append(beats[-1])
    return beats, downbeats


def _mean(parts: Sequence[Part], values: Sequence[float]) -> float:
    """Return the mean of a value of each part, weighted by their length; 0 without parts."""
    total = sum(part.stop - part.start for part in parts)
    return sum(value * (part.stop - part.start) for part, value in zip(parts, values, strict=True)) / (total or 1)
