"""Notes of a transcription that is still running: those of finished segments, for clients that watch.

They are found in windows of about half a minute, so that their cost does not grow with the recording. A note is
settled when it has ended before the segment that was inferred last. Such notes are provisional: what a collector
finds in all results together may differ in details, and notes that are longer than a window's margin are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mt3_infer.models import ModelOptions
from mt3_infer.network import Network
from mt3_infer.symbolic.notes import Note

WINDOW_SECONDS = 24.0  # notes that begin in so long a stretch come from one window
BEFORE_SECONDS = 4.0  # context that a window has before that
AFTER_SECONDS = 12.0  # … and behind it, where its last notes end
DIGITS = 6  # of times, in seconds, as in notes.json
MOST_WINDOWS = 20  # kept until they are confirmed; older notes are left out then


@dataclass(frozen=True)
class Settled:
    """The notes that are settled and begin at `begin` or later; all that end by `end` are among them.

    Attributes:
        segments: how many segments there were results of.
    """

    notes: list[Note]
    begin: float
    end: float
    segments: int


class SettledNotes:
    """Takes the results of consecutive segments and returns the settled notes, those confirmed left away.

    Args:
        first: index of the first segment that there will be a result of.
    """

    def __init__(self, network: Network[Any], options: ModelOptions, *, first: int = 0) -> None:
        self._network = network
        self._options = options
        self._start = first * network.grid.seconds
        self._window = math.ceil(WINDOW_SECONDS / network.grid.seconds)
        self._before = math.ceil(BEFORE_SECONDS / network.grid.seconds)
        self._after = math.ceil(AFTER_SECONDS / network.grid.seconds)
        self._results: list[Any] = []
        self._number = 0  # of the first window that is not confirmed; the results begin there

    def feed(self, result: Any) -> None:
        """Take the next segment's result."""
        self._results.append(result)
        windows = (len(self._results) - self._before - self._after) // self._window
        if windows > MOST_WINDOWS:
            self._drop(1)

    def find(self) -> Settled:
        """Return the notes that are settled by now and were not confirmed."""
        seconds = self._network.grid.seconds
        segments = self._number * self._window + len(self._results)
        end = round(self._start + max(0, segments - 1) * seconds, DIGITS)
        notes = [note for note in self._notes() if note.offset <= end]
        return Settled(notes, self._begin(self._number), end, segments)

    def confirm(self, settled: Settled) -> None:
        """Forget the windows that were complete when these notes were found."""
        complete = (settled.segments - self._before - self._after) // self._window
        self._drop(complete - self._number)

    def _notes(self) -> Iterator[Note]:
        grid = self._network.grid
        for offset in range(0, len(self._results), self._window):
            number = self._number + offset // self._window
            results = self._results[offset : offset + self._window + self._before + self._after]
            begin, stop = self._begin(number), self._begin(number + 1)
            collector = self._network.collect(self._options)
            for result in results:
                collector.feed(result)
            shift = self._start + number * self._window * grid.seconds
            for note in collector.finish(len(results) * grid.hop).notes:
                onset, note_end = round(note.onset + shift, DIGITS), round(note.offset + shift, DIGITS)
                if begin <= onset < stop:
                    yield replace(note, onset=onset, offset=note_end)

    def _begin(self, number: int) -> float:
        """Return the time from which on a window's notes are used."""
        segments = number * self._window + self._before if number else 0
        return round(self._start + segments * self._network.grid.seconds, DIGITS)

    def _drop(self, windows: int) -> None:
        if windows > 0:
            del self._results[: windows * self._window]
            self._number += windows
