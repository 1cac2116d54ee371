"""Split a waveform into equal segments, on a grid that does not depend on where reading begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from mt3_infer.audio import Waveform


@dataclass(frozen=True)
class SegmentGrid:
    """The segments of a recording. Segment k covers samples [k · hop - lead, k · hop - lead + length).

    What lies outside of the recording is silence.

    Attributes:
        sample_rate: Hz.
        hop: samples from segment to segment.
        length: samples in a segment, at least a hop.
        lead: samples by which the first segment begins before the recording, at most a hop.
        tail: samples beyond the end of the recording for which there are segments still.
    """

    sample_rate: int
    hop: int
    length: int
    lead: int = 0
    tail: int = 0

    @property
    def seconds(self) -> float:
        """Seconds from the start of a segment to that of the next."""
        return self.hop / self.sample_rate

    def count(self, samples: int) -> int:
        """Return the number of segments in a recording of `samples` samples, at least one."""
        return max(1, -(-(samples + self.tail) // self.hop))

    def span(self, first: int, stop: int, samples: int) -> tuple[int, int]:
        """Return the start and end of the samples that segments first, …, stop - 1 cover."""
        end = min(samples, (stop - 1) * self.hop - self.lead + self.length)
        return min(self._start(first), end), end

    def _start(self, index: int) -> int:
        return max(0, index * self.hop - self.lead)


@dataclass(frozen=True)
class Segment:
    """A piece of a recording.

    Attributes:
        index: 0, 1, 2, …
        waveform: shape (length,), zero-padded.
        samples: how many of its samples come before the end of the recording.
    """

    index: int
    waveform: Waveform
    samples: int


def split_segments(
    blocks: Iterable[Waveform], grid: SegmentGrid, *, first: int = 0, stop: int | None = None
) -> Iterator[Segment]:
    """Cut a waveform into segments as it comes in.

    Args:
        blocks: mono at the grid's sample rate, each of shape (S,), of any length. They begin with the first
            sample that segment `first` covers (see `SegmentGrid.span`).
        first: index of the first segment.
        stop: index after the last segment; without it the blocks go on to the end of the recording.
    Returns:
        Segments in order, at least one.
    """
    indices = iter(count(first) if stop is None else range(first, stop))
    index = next(indices, None)
    pending = np.zeros(max(0, grid.lead - first * grid.hop), np.float32)
    position = grid._start(first)
    for block in blocks:
        position += len(block)
        pending = np.concatenate([pending, block])
        while index is not None and len(pending) >= grid.length:
            yield Segment(index, pending[: grid.length], grid.length)
            index, pending = next(indices, None), pending[grid.hop :]
    while index is not None and (stop is not None or index < grid.count(position)):
        waveform = np.zeros(grid.length, np.float32)
        waveform[: len(pending)] = pending
        yield Segment(index, waveform, len(pending))
        index, pending = next(indices, None), pending[grid.hop :]
