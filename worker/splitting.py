"""Splitting of a recording's samples into shards: float32 little-endian, mono, at the model's rate.

Where segments overlap, the shards on both sides of a boundary hold the same samples: the segments, and thus the
notes, are the same as without splitting.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import SegmentGrid

SAMPLE = np.dtype("<f4")


def split_samples(
    blocks: Iterable[Waveform], grid: SegmentGrid, size: int, keep: Callable[[int, BinaryIO], None]
) -> int:
    """Split a recording into shards of `size` segments while it is decoded; return its number of samples.

    Args:
        keep: called for each shard, in order, with its number and a file of its samples. One or two of these
            files exist on disk at a time.
    """
    endless = 1 << 62
    position = kept = 0
    with ExitStack() as files:
        growing: list[tuple[int, int, BinaryIO]] = []  # shards kept, kept + 1, …: start, stop, samples

        def begin_next() -> bool:
            """Begin the next shard if its first sample has arrived."""
            first = (kept + len(growing)) * size
            start, stop = grid.span(first, first + size, endless)
            if start < position:
                file = files.enter_context(tempfile.TemporaryFile())
                growing.append((start, stop, file))
            return start < position

        def end_first() -> None:
            nonlocal kept
            file = growing.pop(0)[2] if growing else files.enter_context(tempfile.TemporaryFile())
            file.seek(0)
            keep(kept, file)
            file.close()
            kept += 1

        for block in blocks:
            begin, position = position, position + len(block)
            while begin_next():
                pass
            for start, stop, file in growing:
                file.write(
                    block[max(0, start - begin) : max(0, stop - begin)].astype(SAMPLE, copy=False).tobytes()
                )
            while growing and growing[0][1] <= position:
                end_first()
        # The rest: shards cut short by the end of the recording, possibly down to one of padding only.
        while kept * size < grid.count(position):
            end_first()
    return position


def read_samples(file: BinaryIO, sample_rate: int) -> Iterator[Waveform]:
    """Yield the samples of a shard in blocks of a second."""
    while data := file.read(sample_rate * SAMPLE.itemsize):
        yield np.frombuffer(data, SAMPLE).astype(np.float32, copy=False)
