"""Splits the samples of a recording into shards: float32 little-endian, mono, at the model's rate.

Where segments overlap, both sides of a boundary hold the same samples: the segments, and with them the notes, are
those of the recording in one piece.
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
    """Split a recording into shards of `size` segments as it comes in; return how many samples it has.

    Args:
        keep: is called for each shard, in order, with its number and a file of its samples. The files lie on disk,
            one or two at a time.
    """
    endless = 1 << 62
    position = kept = 0
    with ExitStack() as files:
        growing: list[tuple[int, int, BinaryIO]] = []  # of shards kept, kept + 1, …: from, up to, samples

        def begin_next() -> bool:
            """Begin the next shard if its first sample has come."""
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
        # What is left: shards that the end of the recording cuts short, down to one that holds only silence.
        while kept * size < grid.count(position):
            end_first()
    return position


def read_samples(file: BinaryIO, sample_rate: int) -> Iterator[Waveform]:
    """Yield the samples of a shard in blocks of a second."""
    while data := file.read(sample_rate * SAMPLE.itemsize):
        yield np.frombuffer(data, SAMPLE).astype(np.float32, copy=False)
