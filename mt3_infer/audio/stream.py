"""Mono blocks at one sample rate, read once: the common form of every audio source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from mt3_infer.audio.levels import Waveform
from mt3_infer.errors import AudioWarning, InvalidOptionError

SILENCE_PEAK = 1e-4  # -80 dBFS: below the noise floor of 14 bits
SILENT = "The recording is silent from beginning to end: check that the right track was exported."
SPENT = "An AudioStream can be read only once. Open the recording again."


class AudioStream:
    """A recording as mono blocks.

    Attributes:
        sample_rate: of the blocks, in Hz.
        duration: seconds that the file's header states, or None; of an array the true length.
        seconds: length of what was decoded so far.
        peak: largest absolute sample that was decoded so far.
        warnings: what was repaired or skipped, complete at the end.

    Iterating gives float32 blocks of shape (S,) at `sample_rate`, of about a second each. It raises an
    `AudioError` if the recording turns out to be empty, cut off, too long or damaged, and an `InvalidOptionError`
    if the stream was read before.
    """

    def __init__(
        self,
        blocks: Iterable[Waveform] = (),
        *,
        sample_rate: int,
        duration: float | None,
    ) -> None:
        self.sample_rate = sample_rate
        self.duration = duration
        self.seconds = 0.0
        self.peak = 0.0
        self.warnings: Sequence[AudioWarning] = ()
        self._blocks = blocks
        self._is_spent = False

    @property
    def is_silent(self) -> bool:
        """True if there was no sound in what was decoded so far."""
        return self.peak < SILENCE_PEAK

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the source."""

    def __iter__(self) -> Iterator[Waveform]:
        if self._is_spent:
            raise InvalidOptionError(SPENT)
        self._is_spent = True
        yield from self._generate()

    def _generate(self) -> Iterator[Waveform]:
        """Yield the blocks, and count them."""
        for block in self._blocks:
            self.seconds += len(block) / self.sample_rate
            self.peak = max(self.peak, float(abs(block).max(initial=0)))
            yield block
