"""Compare the notes of two transcriptions of one recording: those that both have, and those of one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mt3_infer.evaluation.measures import NoteScore, match
from mt3_infer.symbolic.notes import Note


@dataclass(frozen=True)
class Agreement:
    """Where two transcriptions, a and b, have the same notes: pitch, onset within 50 ms, drums with drums.

    Attributes:
        both: as a has them.
        only_a, only_b: notes that the other one lacks.
    """

    both: list[Note]
    only_a: list[Note]
    only_b: list[Note]

    @property
    def score(self) -> NoteScore:
        """Return the score of b with a as the reference; its F1 is the same the other way round."""
        shared = len(self.both)
        return NoteScore(shared + len(self.only_a), shared + len(self.only_b), shared)

    def to_dict(self) -> dict[str, Any]:
        """Return the agreement as JSON can hold it."""
        return {
            "f1": round(self.score.f1, 4),
            "both": len(self.both),
            "only_a": [asdict(note) for note in self.only_a],
            "only_b": [asdict(note) for note in self.only_b],
        }


def agreement(a: Sequence[Note], b: Sequence[Note]) -> Agreement:
    """Compare two transcriptions.

    Raises:
        MissingDependencyError: mir_eval is not installed.
    """
    pairs = match(a, b, key=lambda note: (note.is_drum, note.pitch))
    of_a, of_b = {i for i, _ in pairs}, {j for _, j in pairs}
    return Agreement(
        both=[a[i] for i in sorted(of_a)],
        only_a=[note for i, note in enumerate(a) if i not in of_a],
        only_b=[note for j, note in enumerate(b) if j not in of_b],
    )
