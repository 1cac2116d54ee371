"""Evidence is computed on a fixed grid: the same bytes however a recording is split, and few of them."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import SegmentGrid, split_segments
from mt3_infer.evidence.recorder import Evidence, EvidenceRecorder, window_grid, windows_of, with_context
from mt3_infer.models.basic_pitch.config import WINDOW_SAMPLES, Posteriors
from worker.splitting import read_samples, split_samples

MT3 = SegmentGrid(16000, hop=32768, length=32768)
BASIC_PITCH = SegmentGrid(22050, hop=36164, length=43844, lead=3840, tail=3840)
HALF_OVERLAP = SegmentGrid(44100, hop=352800, length=705600, lead=352800)


def posteriors(windows: Waveform) -> Posteriors:
    """Stand for Basic Pitch: numbers that depend on every sample of a window."""
    assert windows.shape == (1, WINDOW_SAMPLES)
    seed = np.abs(windows).sum() % 1.0
    return np.full((142, 88), seed, np.float32), np.full((142, 88), 1 - seed, np.float32)


def whole(waveform: Waveform, sample_rate: int) -> Evidence:
    recorder = EvidenceRecorder(sample_rate, posteriors)
    assert sum(len(block) for block in recorder.passing(np.array_split(waveform, 7))) == len(waveform)
    return recorder.evidence


@settings(max_examples=25, deadline=None)
@given(
    grid=st.sampled_from([MT3, BASIC_PITCH, HALF_OVERLAP]),
    seconds=st.floats(0.01, 14.0),
    size=st.integers(1, 4),
    block=st.floats(0.05, 1.5),
)
def test_evidence_of_shards_equals_that_of_one_piece(
    grid: SegmentGrid, seconds: float, size: int, block: float
) -> None:
    rate, samples = grid.sample_rate, max(1, int(seconds * grid.sample_rate))
    waveform = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    step = int(block * rate)
    blocks = [waveform[start : start + step] for start in range(0, samples, step)]
    stored: list[bytes] = []

    def keep(number: int, file: BinaryIO) -> None:
        stored.append(file.read())

    split_samples(iter(blocks), with_context(grid), size, keep)
    joined = Evidence(posteriors=[])
    segments: list[Waveform] = []
    for number, audio in enumerate(stored):
        first, stop = number * size, min(number * size + size, grid.count(samples))
        recorder = EvidenceRecorder(
            rate,
            posteriors,
            position=grid.span(first, stop, samples)[0],
            windows=windows_of(grid, first, stop, samples),
        )
        shard = recorder.passing(read_samples(io.BytesIO(audio), rate))
        segments += [segment.waveform for segment in split_segments(shard, grid, first=first, stop=stop)]
        assert recorder.evidence.posteriors is not None
        assert joined.posteriors is not None
        joined.energies += recorder.evidence.energies
        joined.posteriors += recorder.evidence.posteriors
    expected = whole(waveform, rate)
    assert len(expected.energies) == window_grid(rate).count(samples)
    assert joined == expected
    for ours, theirs in zip(segments, split_segments(blocks, grid), strict=True):
        assert np.array_equal(ours, theirs.waveform), "the samples that follow a shard change no segment"


def test_evidence_survives_storage_and_other_versions_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = whole(np.ones(30000, np.float32), 16000)
    assert Evidence.unpack(evidence.pack()) == evidence
    packed = evidence.pack()
    monkeypatch.setattr("mt3_infer.evidence.recorder.VERSION", 1000)
    assert Evidence.unpack(packed) is None


def test_evidence_of_three_hours_stays_below_150_megabytes() -> None:
    """White noise, which compresses worst."""
    seconds = 60
    noise = np.random.default_rng(3).normal(0, 0.1, seconds * 16000).astype(np.float32)

    def random_posteriors(windows: Waveform) -> Posteriors:
        rng = np.random.default_rng(int(abs(windows[0, 0]) * 1e9))
        faint = rng.exponential(0.03, (2, 142, 88)).astype(np.float32)
        return faint[0], faint[1]

    recorder = EvidenceRecorder(16000, random_posteriors)
    for _ in recorder.passing(np.array_split(noise, seconds)):
        assert recorder._pending.nbytes <= 3 * 16000 * 4, "samples do not pile up"
    assert len(recorder.evidence.pack()) / seconds * 3 * 3600 < 150e6
