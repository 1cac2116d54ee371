"""Waveform → the equal segments that MT3 hears, and where each one starts.

A recording of N samples has T = floor(N / hop) + 1 frames: zeros fill the last hop, and a whole hop of zeros
follows where N is a multiple of it. Segments hold `frames` frames each, the last one what is left.
Source: Gardner et al., MT3 (ICLR 2022), and the preprocessing published with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mt3_infer.audio import Waveform
from mt3_infer.vocabulary import STEPS_PER_SECOND


@dataclass(frozen=True)
class SegmentConfig:
    """256 frames × hop 128 = 32,768 samples = 2.048 s at 16 kHz."""

    sample_rate: int = 16_000  # Hz
    hop_length: int = 128  # samples
    frames: int = 256

    @property
    def samples(self) -> int:
        """Samples in a segment."""
        return self.frames * self.hop_length

    @property
    def seconds(self) -> float:
        """Length of a segment in seconds."""
        return self.samples / self.sample_rate

    def start_step(self, index: int) -> int:
        """Where a segment starts, in steps of 10 ms, rounded down: 0, 204, 409, 614, …

        Exact. The published code rounds in floating point and comes out one step early for some segments
        (the 15th, 30th, 45th, …); the network was trained on the exact grid.
        """
        return index * self.samples * STEPS_PER_SECOND // self.sample_rate


@dataclass(frozen=True)
class Segment:
    """A piece of a recording.

    Attributes:
        index: 0, 1, 2, …
        waveform: shape (samples,), zero-padded.
        frames: how many of its frames belong to the recording; the rest of the last segment does not.
    """

    index: int
    waveform: Waveform
    frames: int


def split_segments(blocks: Iterable[Waveform], config: SegmentConfig | None = None) -> Iterator[Segment]:
    """Cut a waveform into segments as it comes in.

    Args:
        blocks: mono at the segments' sample rate, each of shape (S,), of any length.
    Returns:
        Segments in order, at least one. A recording that ends with a full segment is followed by one of a
        single silent frame, in which the network closes the notes that still sound.
    """
    config = config or SegmentConfig()
    index, filled = 0, 0
    buffer = np.zeros(config.samples, np.float32)
    for block in blocks:
        taken = 0
        while taken < len(block):
            piece = block[taken : taken + config.samples - filled]
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
            taken += len(piece)
            if filled == config.samples:
                yield Segment(index, buffer, config.frames)
                index, filled = index + 1, 0
                buffer = np.zeros(config.samples, np.float32)
    yield Segment(index, buffer, filled // config.hop_length + 1)
