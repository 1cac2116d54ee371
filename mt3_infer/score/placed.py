"""Types that pass between the stages of a score: notes with their place in the bar, and chords of a voice."""

from __future__ import annotations

from dataclasses import dataclass, field

from mt3_infer.symbolic.notes import Note


@dataclass(slots=True)
class Placed:
    """A note and its place in the score.

    Attributes:
        note: as transcribed.
        index: of the note in the transcription.
        start: in ticks, on the grid of its beat.
        length: for which it sounds, in ticks, not rounded.
        grace: it is an ornament before the next note, and takes no time of its own.
        staff: of its part, counted from 0.
        fifth: the spelling, as the place of its name on the line of fifths (F -1, C 0, G 1, F sharp 6).
    """

    note: Note
    index: int
    start: int
    length: float
    grace: bool = False
    staff: int = 0
    fifth: int = 0

    @property
    def pitch(self) -> int:
        """Return the MIDI pitch."""
        return self.note.pitch


@dataclass(slots=True)
class Chord:
    """Notes that a voice plays together, from tick `start` to tick `end`, with the grace notes before them."""

    start: int
    end: int
    notes: list[Placed]
    graces: list[Placed] = field(default_factory=list)
