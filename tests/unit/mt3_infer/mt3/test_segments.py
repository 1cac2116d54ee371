"""Waveforms are cut on the published frame grid, whatever pieces they come in."""

from __future__ import annotations

import numpy as np
import pytest

from mt3_infer.segments import SegmentConfig, split_segments

CONFIG = SegmentConfig()


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (0, [1]),
        (1, [1]),
        (127, [1]),
        (128, [2]),
        (32_767, [256]),
        (32_768, [256, 1]),
        (32_769, [256, 1]),
        (2 * 32_768 + 1_000, [256, 256, 8]),
    ],
)
def test_frames_of_each_segment(samples, frames):
    assert [segment.frames for segment in split_segments([np.ones(samples, np.float32)])] == frames


@pytest.mark.parametrize("piece", [1_000, 32_768, 50_000, 200_000])
def test_pieces_do_not_matter(piece):
    waveform = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    whole = list(split_segments([waveform]))
    pieces = [waveform[start : start + piece] for start in range(0, len(waveform), piece)]
    for one, other in zip(whole, split_segments(pieces), strict=True):
        assert (one.index, one.frames) == (other.index, other.frames)
        assert np.array_equal(one.waveform, other.waveform)
    joined = np.concatenate([segment.waveform for segment in whole])
    assert np.array_equal(joined[: len(waveform)], waveform)
    assert not joined[len(waveform) :].any()


def test_segments_start_on_the_grid_of_10_ms_rounded_down():
    assert CONFIG.seconds == 2.048
    assert [CONFIG.start_step(index) for index in range(8)] == [0, 204, 409, 614, 819, 1024, 1228, 1433]
    assert CONFIG.start_step(15) == 3072
