"""The front end against Magenta's, run with TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mt3_infer.audio.segments import Segment, split_segments
from mt3_infer.audio.spectrogram import LogMel, SpectrogramConfig, mel_matrix
from mt3_infer.models.mt3.config import GRID
from mt3_infer.models.mt3.network import real_frames
from mt3_infer.models.mt3.notes import start_step

DATA = Path(__file__).parent / "data"
REFERENCE = np.load(DATA / "frontend.npz")
AUDIBLE = np.log(1e-5)  # below it values are rounding noise of the transform


@pytest.fixture(scope="module")
def segments():
    samples = np.load(DATA / "audio_bach10s.npz")["samples_i16"] / np.float32(32768)
    return list(split_segments([samples], GRID))


@pytest.fixture(scope="module")
def log_mel(segments: list[Segment]) -> np.ndarray:
    return LogMel()(torch.stack([torch.from_numpy(segment.waveform) for segment in segments])).numpy()


def test_segments_and_frames(segments):
    assert [real_frames(segment) for segment in segments] == REFERENCE["segment_frames"].tolist()


def test_starts_lie_on_the_exact_grid():
    exact = np.load(DATA / "decode_cases.npz")["segment_start_exact_steps"]
    assert [start_step(index) for index in range(len(exact))] == exact.tolist()


def test_mel_matrix_has_the_support_and_the_weights_of_tensorflow():
    bins, bands = REFERENCE["mel_bin"].astype(int), REFERENCE["mel_band"].astype(int)
    ours = mel_matrix(SpectrogramConfig()).numpy()
    theirs = np.zeros_like(ours)
    theirs[bins, bands] = REFERENCE["mel_weight"]
    assert np.array_equal(ours > 0, theirs > 0)
    assert np.count_nonzero(ours) == 1934
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=6.9e-5)


def test_log_mel_of_a_full_segment(log_mel):
    reference = REFERENCE["logmel_seg0"]
    audible = reference > AUDIBLE
    assert audible.mean() > 0.9
    assert np.abs(log_mel[0] - reference)[audible].max() < 5e-3


def test_log_mel_of_a_full_segment_with_tensorflows_matrix(segments):
    front_end = LogMel()
    matrix = torch.zeros(front_end.config.n_bins, front_end.config.n_mels)
    bins, bands = REFERENCE["mel_bin"].astype(int), REFERENCE["mel_band"].astype(int)
    matrix[bins, bands] = torch.from_numpy(REFERENCE["mel_weight"])
    magnitudes = front_end.magnitudes(torch.from_numpy(segments[0].waveform)[None])[0]
    mel = magnitudes @ matrix[: magnitudes.shape[1]]
    reference = REFERENCE["logmel_seg0"]
    audible = reference > AUDIBLE
    assert np.abs(mel.clamp(min=1e-5).log().numpy() - reference)[audible].max() < 3e-4


def test_last_frames_of_the_last_segment(log_mel, segments):
    reference = REFERENCE["logmel_seg4_tail"]  # rows 212..239, of which 212..226 are real
    real = real_frames(segments[4]) - 212
    audible = reference[:real] > AUDIBLE
    assert np.abs(log_mel[4, 212 : 212 + real] - reference[:real])[audible].max() < 5e-3
    assert (reference[real:] == 0).all()


def test_bands_between_two_bins_hold_the_floor(log_mel):
    assert np.allclose(log_mel[:, :, [1, 10]], np.log(1e-5))
