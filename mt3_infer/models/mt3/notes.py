"""Token ids of MT3 and MR-MT3 → notes."""

from __future__ import annotations

from mt3_infer.models import MT3Options
from mt3_infer.models.mt3.config import GRID
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.notes import NoteDecoder, change_programs, sort_notes
from mt3_infer.symbolic.vocabulary import END, STEPS_PER_SECOND


class MT3Collector:
    """Token ids of the segments of a recording → notes."""

    def __init__(self, options: MT3Options) -> None:
        self._selection = options.selection
        # A pitch that comes before any program event gets the most likely program, the piano's if all are allowed.
        programs = self._selection.programs if self._selection else ()
        self._decoder = NoteDecoder(program=programs[0] if programs else 0)
        self._unfinished = 0
        self._segments = 0
        self._newest: list[int] = []

    def feed(self, result: list[int]) -> None:
        """Take the next segment's token ids. They are decoded when it is known that another one follows."""
        if self._segments:
            self._decode_newest(limit=start_step(self._segments))
        self._newest = result
        self._segments += 1
        self._unfinished += END not in result

    def finish(self, samples: int) -> NetworkOutput:
        """Return the notes of the recording."""
        self._decode_newest(limit=None)
        notes = sort_notes(self._decoder.finish())
        if self._selection is not None:
            notes = change_programs(notes, self._selection.nearest)
        return NetworkOutput(
            notes=notes,
            counters={
                "invalid_tokens": self._decoder.invalid_tokens,
                "dropped_tokens": self._decoder.dropped_tokens,
                "unfinished_segments": self._unfinished,
            },
        )

    def _decode_newest(self, limit: int | None) -> None:
        self._decoder.feed(self._newest, start=start_step(self._segments - 1), limit=limit)


def start_step(index: int) -> int:
    """Return where a segment starts, in steps of 10 ms, rounded down: 0, 204, 409, 614, …

    Exact. The published code rounds in floating point and comes out one step early for some segments
    (the 15th, 30th, 45th, …); the network was trained on the exact grid.
    """
    return index * GRID.hop * STEPS_PER_SECOND // GRID.sample_rate
