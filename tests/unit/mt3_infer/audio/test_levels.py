"""Values are questioned: scales, offsets, channels that cancel, samples that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mt3_infer import AudioError
from mt3_infer.audio import AudioStream, Waveform, array_audio, open_audio
from tests.recordings import tone, write

RATE = 22050
MUSIC = tone(3.0, RATE) * np.linspace(0.1, 1, 3 * RATE, dtype=np.float32)


def take(stream: AudioStream) -> tuple[Waveform, list[str]]:
    with stream:
        waveform = np.concatenate(list(stream))
    return waveform, [warning.code for warning in stream.warnings]


def from_array(array: NDArray[Any]) -> tuple[Waveform, list[str]]:
    return take(array_audio(array, RATE, sample_rate=RATE))


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_on_the_scale_of_integers_are_rescaled(tmp_path: Path, bits: int, dtype: type) -> None:
    loud = MUSIC * (2 ** (bits - 1) - 1)
    codec = "pcm_f32le" if dtype is np.float32 else "pcm_f64le"
    path = write(tmp_path / "a.wav", loud.astype(np.float32), RATE, codec)
    for waveform, codes in (from_array(loud.astype(dtype)), take(open_audio(path, sample_rate=RATE))):
        np.testing.assert_allclose(waveform, MUSIC, atol=1e-2)
        assert codes == ["rescaled"]


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_small_samples_in_wide_integers_are_rescaled(bits: int, dtype: type) -> None:
    samples = np.round(MUSIC * 2 ** (bits - 1)).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(dtype)
    samples[5] = -(2 ** (bits - 1))
    waveform, codes = from_array(samples)
    np.testing.assert_allclose(waveform[10:], MUSIC[10:], atol=1e-3)
    assert codes == ["rescaled"]


def test_integers_of_32_bits_are_not_rescaled() -> None:
    waveform, codes = from_array((MUSIC * (2**31 - 1)).astype(np.int32))
    np.testing.assert_allclose(waveform, MUSIC, atol=1e-5)
    assert codes == []


def test_floats_a_little_over_full_scale_stay() -> None:
    waveform, codes = from_array(MUSIC * 6)
    np.testing.assert_allclose(waveform, MUSIC * 6, atol=1e-4)
    assert codes == []


def test_values_beyond_every_scale_are_refused() -> None:
    with pytest.raises(AudioError, match="far beyond"):
        from_array(MUSIC.astype(np.float64) * 1e15)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
@pytest.mark.parametrize("channels", [1, 2])
def test_single_sample_that_is_none_is_silenced(value: float, channels: int) -> None:
    array = np.stack([MUSIC] * channels, axis=1)
    array[1000, 0] = value
    waveform, codes = from_array(array)
    away = np.r_[0:900, 1100 : len(MUSIC)]
    np.testing.assert_allclose(waveform[away], MUSIC[away], atol=1e-4)
    assert codes == ["samples_muted"]


def test_infinite_sample_in_a_file(tmp_path: Path) -> None:
    spoiled = MUSIC.copy()
    spoiled[1000] = np.inf
    waveform, codes = take(open_audio(write(tmp_path / "a.wav", spoiled, RATE, "pcm_f32le"), sample_rate=RATE))
    np.testing.assert_allclose(waveform[2000:], MUSIC[2000:], atol=1e-4)
    assert codes == ["samples_muted"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_but_such_samples_is_refused(tmp_path: Path, value: float) -> None:
    nothing = np.full(RATE, value, np.float32)
    with pytest.raises(AudioError, match="not numbers"):
        from_array(nothing)
    path = write(tmp_path / "a.wav", nothing, RATE, "pcm_f32le")
    with pytest.raises(AudioError, match="not numbers"):
        take(open_audio(path, sample_rate=RATE))


@pytest.mark.parametrize("offset", [0.05, 0.3, -0.5])
def test_constant_offset_is_removed(tmp_path: Path, offset: float) -> None:
    path = write(tmp_path / "a.wav", MUSIC + np.float32(offset), RATE, "pcm_f32le")
    for waveform, codes in (from_array(MUSIC + offset), take(open_audio(path, sample_rate=RATE))):
        assert abs(float(waveform.mean())) < 1e-3
        np.testing.assert_allclose(waveform[100:-100], MUSIC[100:-100], atol=1e-2)
        assert codes == ["offset_removed"]


def test_offset_alone_is_silence() -> None:
    stream = array_audio(np.full(3 * RATE, 0.4), RATE, sample_rate=RATE)
    take(stream)
    assert stream.peak < 1e-4


@pytest.mark.parametrize("residue", [0.0, 0.05])
def test_side_that_is_inverted_does_not_cancel_the_other(residue: float) -> None:
    waveform, codes = from_array(np.stack([MUSIC, MUSIC * (residue - 1)], axis=1))
    np.testing.assert_allclose(waveform[RATE:], MUSIC[RATE:], atol=1e-4)
    assert codes == ["channels_cancel"]


def test_inverted_side_of_a_compressed_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", np.stack([MUSIC, -MUSIC]), RATE, "libmp3lame", bit_rate=128_000)
    waveform, codes = take(open_audio(path, sample_rate=RATE))
    np.testing.assert_allclose(
        np.abs(waveform[RATE : 2 * RATE]).max(), np.abs(MUSIC[RATE : 2 * RATE]).max(), rtol=0.1
    )
    assert codes == ["channels_cancel"]


@pytest.mark.parametrize("second", [0.0, 0.5, -0.5])
def test_ordinary_stereo_is_averaged(second: float) -> None:
    other = tone(3.0, RATE, 330) if second else np.zeros_like(MUSIC)
    waveform, codes = from_array(np.stack([MUSIC, other * second], axis=1))
    np.testing.assert_allclose(waveform, (MUSIC + other * second) / 2, atol=1e-4)
    assert codes == []


def test_low_effects_channel_is_left_out_and_silent_channels_do_not_dilute(tmp_path: Path) -> None:
    left, right, rumble = MUSIC, tone(3.0, RATE, 330), tone(3.0, RATE, 50)
    none = np.zeros_like(left)
    surround = np.stack([left, right, none, rumble, none, none])  # FL FR FC LFE BL BR
    path = write(tmp_path / "a.wav", surround, RATE, layout="5.1")
    waveform, codes = take(open_audio(path, sample_rate=RATE))
    np.testing.assert_allclose(waveform[RATE:], (left + right)[RATE:] / 2, atol=1e-2)
    assert codes == []


@pytest.mark.parametrize("codec", ["wavpack", "pcm_s16le"])
def test_more_channels_than_a_frame_has_pointers(tmp_path: Path, codec: str) -> None:
    """Native code that reads past them ends the process."""
    name = {"wavpack": "a.wv", "pcm_s16le": "a.wav"}[codec]
    planes = np.stack([MUSIC, *[np.zeros_like(MUSIC)] * 15])
    path = write(tmp_path / name, planes, RATE, codec, layout="hexadecagonal")
    waveform, _ = take(open_audio(path, sample_rate=RATE))
    np.testing.assert_allclose(np.abs(waveform[RATE:]).max(), np.abs(MUSIC[RATE:]).max(), rtol=0.1)


def test_level_of_the_first_second_does_not_matter() -> None:
    """A quiet beginning is on the same scale as the rest."""
    quiet_first = np.concatenate([MUSIC[:RATE] * 1e-3, MUSIC]) * 32767
    waveform, codes = from_array(quiet_first.astype(np.float32))
    np.testing.assert_allclose(waveform[RATE:], MUSIC, atol=1e-3)
    assert codes == ["rescaled"]
