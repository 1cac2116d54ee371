"""Spelling: MIDI pitches get the names that lie nearest on the line of fifths to the key and to their neighbors.

Source: the line-of-fifths model of Temperley, "The Cognition of Basic Musical Structures" (2001), chapter 5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mt3_infer.score.placed import Placed

STEPS = "FCGDAEB"
"""Note names in fifths, from F at -1 on the line of fifths."""

NEIGHBORS = 0.35
"""The weight of the notes around one beside that of the key."""

FADES = 0.93
"""Hold what a note's influence keeps from each note to the next."""

_NATURALS = {"F": -1, "C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5}


@dataclass(frozen=True, slots=True)
class Key:
    """A key signature: sharps, or flats as a negative number, and the mode."""

    fifths: int = 0
    minor: bool = False

    @classmethod
    def parse(cls, text: str) -> Key:
        """Return the key of "Eb minor", or the same one with fewer accidentals; C major if unknown."""
        found = re.fullmatch(r"([A-G])([#b♯♭]?)\s+(major|minor)", text.strip())
        if found is None:
            return cls()
        minor = found[3] == "minor"
        fifths = _NATURALS[found[1]] + {"": 0, "#": 7, "♯": 7, "b": -7, "♭": -7}[found[2]] - 3 * minor
        return cls(fewer(fifths), minor)

    @property
    def center(self) -> float:
        """Return the middle of the names that are usual in the key, on the line of fifths."""
        return self.fifths + (3.0 if self.minor else 2.5)


def fewer(fifths: int) -> int:
    """Return the signature, or the one that sounds the same with fewer accidentals."""
    return fifths - 12 if fifths > 6 else fifths + 12 if fifths < -6 else fifths


def best_enharmonic(key: Key, pitches: Sequence[int]) -> Key:
    """Return the key in six sharps or six flats, whichever spells the pitches with fewer accidentals."""
    if abs(key.fifths) != 6:
        return key
    other = Key(-key.fifths, key.minor)
    return min(
        (key, other), key=lambda k: sum(not 0 <= spelled(p % 12, k.center) - k.fifths + 1 <= 6 for p in pitches)
    )


def spelled(pitch_class: int, center: float) -> int:
    """Return the place on the line of fifths, nearest to a center, of a name for a pitch class."""
    place = pitch_class * 7 % 12
    return place + 12 * round((center - place) / 12)


def spell(placed: Sequence[Placed], key: Key) -> None:
    """Give each note its name.

    Args:
        placed: of all parts, in order of time.
        key: its center attracts the names, as do those of the notes before and after.
    """
    forward = _running_centers([one.pitch for one in placed], key)
    backward = _running_centers([one.pitch for one in reversed(placed)], key)[::-1]
    for one, before, after in zip(placed, forward, backward, strict=True):
        around = (before + after) / 2
        one.fifth = spelled(one.pitch % 12, (1 - NEIGHBORS) * key.center + NEIGHBORS * around)
    _lead(placed, key)


def _running_centers(pitches: Sequence[int], key: Key) -> list[float]:
    center, centers = key.center, []
    for pitch in pitches:
        centers.append(center)
        center = FADES * center + (1 - FADES) * spelled(pitch % 12, center)
    return centers


def _lead(placed: Sequence[Placed], key: Key) -> None:
    """Spell chromatic notes by where they go: sharps lead up a semitone, flats down."""
    last: dict[tuple[int, bool], list[Placed]] = {}
    for one in placed:
        recent = last.setdefault((one.note.program, one.note.is_drum), [])
        for before in recent:
            step = one.pitch - before.pitch
            chromatic = not 0 <= before.fifth - key.fifths + 1 <= 6
            if abs(step) == 1 and one.start > before.start and chromatic:
                wanted = one.fifth + 5 if step == 1 else one.fifth - 5
                if (wanted * 7 - before.pitch) % 12 == 0 and abs(wanted - key.center) <= 8:
                    before.fifth = wanted
        recent.append(one)
        del recent[:-6]


def name(fifth: int, pitch: int) -> tuple[str, int, int]:
    """Return step, alteration in semitones and octave of a spelled pitch."""
    alter = (fifth + 1) // 7
    return STEPS[(fifth + 1) % 7], alter, (pitch - alter) // 12 - 1
