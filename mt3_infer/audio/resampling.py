"""The one resampler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from mt3_infer.audio.levels import Waveform
from mt3_infer.errors import AudioTooLongError

MAX_SAMPLE_RATE = 768_000  # Hz; the fastest that converters are sold for


def resample(pieces: Iterable[tuple[int, Waveform]], sample_rate: int) -> Iterator[Waveform]:
    """Bring pieces to one sample rate; a recording may change its own on the way (joined Ogg files do)."""
    resampler: soxr.ResampleStream | None = None
    rate = 0
    for new_rate, samples in pieces:
        if resampler is not None and new_rate != rate:
            yield resampler.resample_chunk(samples[:0], last=True)
            resampler = None
        if resampler is None:
            rate = new_rate
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        block = resampler.resample_chunk(samples)
        if len(block):
            yield block
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def refuse_longer(seconds: float | None, max_seconds: float | None) -> None:
    """Raise if a recording is longer than allowed."""
    if seconds is not None and max_seconds is not None and seconds > max_seconds:
        raise AudioTooLongError(
            f"The recording is longer than the limit of {max_seconds:g} s. Split it into shorter files."
        )
