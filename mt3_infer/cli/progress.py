"""Progress of `transcribe` on stderr: one bar for all recordings, and a line for each result."""

from __future__ import annotations

import sys
from typing import Self

import click

from checkpoints.cli import Bar
from mt3_infer.model import Progress


class BatchBar(Bar):
    """A bar of the files that are done, with how far the current one is."""

    def __init__(self, files: int, *, quiet: bool) -> None:
        super().__init__("Transcribing")
        self._files = files
        self._is_quiet = quiet
        self._done = 0
        self._name = ""

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def begin(self, name: str) -> None:
        """Go on to a file."""
        self._name = name
        self._show(0.0, "")

    def report(self, progress: Progress) -> None:
        """Show how far the current file is."""
        total = progress.seconds_total
        fraction = min(progress.seconds_done / total, 1.0) if total else 0.0
        self._show(fraction, f": {progress.seconds_done:.0f} s")

    def end(self) -> None:
        """Count the current file as done."""
        self._done += 1
        self._show(0.0, "")

    def _show(self, fraction: float, figure: str) -> None:
        if not self._is_quiet:
            position = min(self._done + 1, self._files)
            place = f"{position} of {self._files}, " if self._files > 1 else ""
            self.show(self._done + fraction, self._files, f"{place}{self._name}{figure}")


def echo_line(line: str) -> None:
    """Print a line on stderr; on a terminal, over the bar, which draws itself anew below."""
    click.echo(f"\r\033[K{line}" if sys.stderr.isatty() else line, err=True)
