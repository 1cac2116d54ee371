"""Recordings are cut on each network's grid, whatever pieces they come in and wherever reading begins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3_infer.audio.segments import Segment, SegmentGrid, split_segments
from mt3_infer.models.basic_pitch.config import GRID as BASIC_PITCH
from mt3_infer.models.mt3.config import GRID as MT3

SMALL = SegmentGrid(100, hop=30, length=45, lead=7, tail=7)
EVEN = SegmentGrid(100, hop=30, length=30, tail=1)
PLAIN = SegmentGrid(100, hop=30, length=30)


def recording(samples: int) -> np.ndarray:
    return np.arange(1, samples + 1, dtype=np.float32)


def pieces(waveform: np.ndarray, size: int) -> list[np.ndarray]:
    return [waveform[start : start + size] for start in range(0, len(waveform), size)]


@pytest.mark.parametrize("grid", [MT3, BASIC_PITCH])
@pytest.mark.parametrize("samples", [1, 32_768, 36_164, 43_844, 100_000, 3 * 36_164 - 3840])
@pytest.mark.parametrize("size", [1000, 50_000, 1_000_000])
def test_segments_lie_on_the_grid_however_the_blocks_fall(grid, samples, size):
    waveform = recording(samples)
    segments = list(split_segments(pieces(waveform, size), grid))
    padded = np.concatenate([np.zeros(grid.lead), waveform, np.zeros(grid.length + grid.hop)])
    assert len(segments) == grid.count(samples) == len(range(0, samples + grid.tail, grid.hop))
    for index, segment in enumerate(segments):
        start = index * grid.hop
        assert segment.index == index
        assert segment.samples == min(grid.length, max(0, grid.lead + samples - start))
        np.testing.assert_array_equal(segment.waveform, padded[start : start + grid.length])


@pytest.mark.parametrize("grid", [SMALL, EVEN, PLAIN])
def test_an_empty_recording_is_one_silent_segment(grid):
    (segment,) = split_segments([], grid)
    assert grid.count(0) == 1
    assert not segment.waveform.any()


@settings(deadline=None)
@given(
    grid=st.sampled_from([SMALL, EVEN, PLAIN]),
    samples=st.integers(0, 300),
    cuts=st.lists(st.integers(1, 10), max_size=4),
    size=st.integers(1, 100),
)
def test_shards_hear_what_the_whole_hears(grid, samples, cuts, size):
    waveform = recording(samples)
    count = grid.count(samples)
    edges = sorted({0, count, *(cut for cut in cuts if cut < count)})
    sharded: list[Segment] = []
    for first, stop in pairwise(edges):
        start, end = grid.span(first, stop, samples)
        sharded += split_segments(pieces(waveform[start:end], size), grid, first=first, stop=stop)
    whole = list(split_segments([waveform], grid))
    assert [(each.index, each.samples) for each in sharded] == [(each.index, each.samples) for each in whole]
    for one, other in zip(sharded, whole, strict=True):
        np.testing.assert_array_equal(one.waveform, other.waveform)
