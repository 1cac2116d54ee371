"""Progress of a fetch: for the caller, and for processes that wait while another one fetches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from checkpoints.catalog import Entry
from checkpoints.files import CheckpointFile

_PUBLISH_SECONDS = 0.5  # how often waiting processes get new figures


@dataclass(frozen=True)
class FetchProgress:
    """Progress of a fetch.

    Attributes:
        model: the catalog's name of the checkpoint.
        file: the current file.
        bytes_done, bytes_total: of all its files together.
        bytes_per_second: measured since this fetch began; 0 until it is known.
        waiting: another process downloads; the figures are that process's.
    """

    model: str
    file: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    waiting: bool

    @property
    def seconds_left(self) -> float | None:
        """Return an estimate from the speed measured; None until it is known."""
        if not self.bytes_per_second:
            return None
        return max(0, self.bytes_total - self.bytes_done) / self.bytes_per_second


ProgressCallback = Callable[[FetchProgress], None]


class ProgressReporter:
    """Turns the bytes of one file after another into the progress of a checkpoint, and passes it on."""

    def __init__(self, entry: Entry, publish: Callable[[str], None], report: ProgressCallback) -> None:
        self._entry = entry
        self._publish = publish
        self._report = report
        self._file = entry.files[0]
        self._before = 0  # bytes of the files that are done
        self._start: tuple[float, int] | None = None  # time and bytes of the first figures
        self._published = -_PUBLISH_SECONDS
        self._beats = 0

    def begin(self, file: CheckpointFile, before: int) -> None:
        """Turn to a file, with `before` bytes of others done."""
        self._file, self._before = file, before

    def __call__(self, bytes_of_file: int) -> None:
        """Report that so many bytes of the file are here."""
        now, done = time.monotonic(), self._before + bytes_of_file
        self._start = self._start or (now, done)
        seconds, received = now - self._start[0], done - self._start[1]
        speed = max(0.0, received / seconds) if seconds else 0.0
        total = max(self._entry.size, done)  # the size of a file that is not known yet is an estimate
        progress = FetchProgress(self._entry.name, self._file.name, done, total, speed, waiting=False)
        if now - self._published >= _PUBLISH_SECONDS:
            self._published = now
            self._beats += 1
            # The beat changes even while the bytes do not: a holder that works is not a holder that hangs.
            self._publish(json.dumps({**asdict(progress), "beat": self._beats}))
        self._report(progress)


def parse_progress(entry: Entry, note: str) -> FetchProgress:
    """Return the progress that a lock's holder published; nothing done yet where it published none."""
    blank = FetchProgress(entry.name, entry.files[0].name, 0, entry.size, 0.0, waiting=True)
    with suppress(ValueError, TypeError, AttributeError):
        figures = {key: value for key, value in json.loads(note).items() if key != "beat"}
        return replace(blank, **{**figures, "waiting": True})
    return blank
