"""Notes: what every network's output ends as, and what every writer starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """One note.

    Times are in seconds from the start of the recording; pitch, velocity and program are MIDI numbers
    (0-127). For a drum note the pitch is the General MIDI drum key and the program means nothing.
    """

    onset: float
    offset: float
    pitch: int
    velocity: int
    program: int = 0
    is_drum: bool = False


def sort_notes(notes: Iterable[Note]) -> list[Note]:
    """Put notes in the order in which they are stored and written: onset, then track, then pitch."""
    return sorted(notes, key=lambda n: (n.onset, n.is_drum, n.program, n.pitch, n.offset))
