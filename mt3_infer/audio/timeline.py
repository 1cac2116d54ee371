"""Place sound on a recording's clock: silence where it is missing, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mt3_infer.audio.levels import Raw

TOLERANCE_SECONDS = 0.03
"""Clocks of containers are as coarse as 10 ms; a jump beyond this is sound that is missing."""
COARSE_SECONDS = 0.06
"""The same for MPEG program streams, which stamp a pack of frames at a time."""

OVERLAP_SECONDS = 0.5
"""A clock that goes back so far at most repeats sound; beyond it another recording begins."""

MAX_SILENCE_SECONDS = 600.0
"""Silence put in for missing sound, beyond as much as there is sound: a forged clock must not cost hours."""


@dataclass
class Report:
    """Counts what happens while a part is decoded.

    Attributes:
        good, bad: frames that were decoded, packets that were not; `bad_at_end` of them after all others.
        damaged_at, missing_at: seconds at which each begins first; None where nothing is.
        missing: seconds of silence put in for missing sound.
        gaps: how many times.
        jumps: jumps of the clock that were not followed.
    """

    good: int = 0
    bad: int = 0
    bad_at_end: int = 0
    damaged_at: float | None = None
    missing_at: float | None = None
    missing: float = 0.0
    gaps: int = 0
    jumps: int = 0

    def damage(self, at: float) -> None:
        """Count a packet that could not be decoded."""
        self.bad += 1
        self.bad_at_end += 1
        if self.damaged_at is None:
            self.damaged_at = at


@dataclass
class Timeline:
    """Places samples on the file's clock: silence where sound is missing, nothing twice.

    Attributes:
        seconds: that were placed; the next sample's time on the recording's own clock.
    """

    report: Report
    tolerance: float = TOLERANCE_SECONDS
    seconds: float = 0.0
    shift: float = 0.0  # from the file's clock to ours
    sound: float = 0.0  # seconds that are not silence of ours

    def place(self, at: float | None, raw: Raw) -> Iterator[Raw]:
        """Yield the samples that begin `at` seconds of the file's clock, after silence where there is a gap."""
        if at is not None:
            gap = at + self.shift - self.seconds
            if gap > self.tolerance:
                yield from self._fill(gap, raw)
            elif gap < -OVERLAP_SECONDS:
                self._jump(gap)
            elif gap < -self.tolerance:  # the same sound twice, or what comes before zero
                raw = Raw(raw.rate, raw.samples[round(-gap * raw.rate) :], raw.low)
        if len(raw.samples):
            self.sound += len(raw.samples) / raw.rate
            self.seconds += len(raw.samples) / raw.rate
            yield raw

    def _fill(self, gap: float, raw: Raw) -> Iterator[Raw]:
        if self.report.missing + gap > MAX_SILENCE_SECONDS + self.sound:
            self._jump(gap)
            return
        if self.sound:  # a recording that begins late is not damaged
            self.report.gaps += 1
            self.report.missing_at = self.seconds if self.report.missing_at is None else self.report.missing_at
        self.report.missing += gap
        left = round(gap * raw.rate)
        self.seconds += left / raw.rate
        while left > 0:
            length = min(left, raw.rate)
            yield Raw(raw.rate, np.zeros((length, raw.samples.shape[1]), raw.samples.dtype), raw.low)
            left -= length

    def _jump(self, gap: float) -> None:
        """Go on where we are: a joined file, or a clock that was set."""
        self.shift -= gap
        self.report.jumps += 1
