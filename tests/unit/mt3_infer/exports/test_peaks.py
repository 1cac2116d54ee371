"""Peaks: each bin has the extremes of its samples, at every level, and there are never too many bins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3_infer.audio import AudioStream
from mt3_infer.exports import export
from mt3_infer.exports.peaks import MAX_BINS, Bins
from tests.fakes import transcription


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 300), max_size=12), st.integers(1, 20), st.integers(4, 9), st.integers(0, 2**32 - 1)
)
def test_bins_have_the_extremes_of_their_samples(blocks: list[int], size: int, most: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal(sum(blocks)).astype(np.float32)
    bins = Bins(size, most=most)
    for block in np.split(samples, np.cumsum(blocks)[:-1]) if blocks else []:
        bins.add(block)
    found = bins.finish()
    expected = [samples[at : at + bins.size] for at in range(0, len(samples), bins.size)]
    assert len(found) <= most + 1
    assert found.tolist() == [[part.min(), part.max()] for part in expected]


def test_levels_describe_the_recording(tmp_path: Path, bach: Path) -> None:
    export(transcription(), "peaks", tmp_path / "peaks.json", audio=bach)
    content = json.loads((tmp_path / "peaks.json").read_text())
    assert content["duration"] == pytest.approx(24.48, abs=0.01)
    assert [level["seconds_per_bin"] for level in content["levels"]] == [0.01, 0.04, 0.16]
    for level in content["levels"]:
        assert len(level["min"]) == len(level["max"])
        assert len(level["min"]) * level["seconds_per_bin"] == pytest.approx(content["duration"], abs=0.2)
        assert max(level["max"]) == max(content["levels"][0]["max"]) > 10
        assert all(-127 <= low <= high <= 127 for low, high in zip(level["min"], level["max"], strict=True))


def test_three_hours_have_no_more_bins_than_allowed(tmp_path: Path) -> None:
    second = np.sin(np.arange(1000)).astype(np.float32) * 2  # clipped at full scale
    audio = AudioStream((second for _ in range(3 * 3600)), sample_rate=1000, duration=None)
    export(transcription(), "peaks", tmp_path / "peaks.json", audio=audio)
    levels = json.loads((tmp_path / "peaks.json").read_text())["levels"]
    assert MAX_BINS / 4 < len(levels[0]["min"]) <= MAX_BINS
    assert len(levels[-1]["min"]) < 500
    assert max(levels[0]["max"]) == 127
    assert (tmp_path / "peaks.json").stat().st_size < 3_000_000
