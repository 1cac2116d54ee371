"""Recordings of every kind come out as one waveform; bad ones as one typed error."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mt3_infer import (
    AudioError,
    AudioTooLongError,
    EmptyAudioError,
    InvalidOptionError,
    NoAudioStreamError,
    TruncatedAudioError,
)
from mt3_infer.audio import AudioStream, Waveform, array_audio, open_audio
from tests.recordings import encode, tone, write, write_silent_video

RATE = 22050
KINDS = {  # file name → codec and sample rate
    "a.wav": ("pcm_s16le", 44100),
    "b.wav": ("pcm_s24le", 48000),
    "c.wav": ("pcm_f32le", 44100),
    "d.wav": ("pcm_u8", 44100),
    "a.flac": ("flac", 44100),
    "a.mp3": ("libmp3lame", 44100),
    "b.mp3": ("libmp3lame", 16000),
    "a.ogg": ("vorbis", 44100),
    "b.ogg": ("libopus", 48000),
    "a.opus": ("libopus", 48000),
    "a.m4a": ("aac", 44100),
    "b.m4a": ("alac", 44100),
    "a.webm": ("libopus", 48000),
    "a.aiff": ("pcm_s16be", 44100),
}
CUT = ["a.wav", "c.wav", "a.flac", "a.mp3", "a.ogg", "a.opus", "a.m4a", "a.webm", "a.aiff"]


def decode(stream: AudioStream) -> Waveform:
    with stream:
        return np.concatenate(list(stream))


def refuse(path: Path, kind: type[AudioError], max_seconds: float | None = None) -> None:
    with pytest.raises(AudioError) as caught:
        decode(open_audio(path, sample_rate=RATE, max_seconds=max_seconds))
    assert type(caught.value) is kind, caught.value
    assert "\n" not in str(caught.value)


def write_kind(folder: Path, name: str, seconds: float = 3.0) -> Path:
    codec, rate = KINDS[name]
    return write(folder / name, tone(seconds, rate), rate, codec, bit_rate=0 if "pcm" in codec else 128_000)


@pytest.mark.parametrize("name", KINDS)
def test_every_format_decodes_to_the_same_waveform_in_the_same_place(tmp_path: Path, name: str) -> None:
    expected = tone(3.0, RATE)
    stream = open_audio(write_kind(tmp_path, name), sample_rate=RATE)
    waveform = decode(stream)

    assert waveform.dtype == np.float32
    assert stream.seconds == pytest.approx(3.0, abs=0.05)
    assert stream.duration == pytest.approx(3.0, abs=0.05)
    assert stream.peak == pytest.approx(0.5, abs=0.05)
    middle = slice(RATE // 2, RATE * 5 // 2)  # a shift of one sample would be an error of 0.06
    assert np.abs(waveform[middle] - expected[middle]).max() < 0.03


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = tone(1.0, 44100)
    path = write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)]), 44100)

    waveform = decode(open_audio(path, sample_rate=44100))

    np.testing.assert_allclose(waveform, left / 2, atol=1e-3)


def test_the_audio_track_of_a_video_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", tone(2.0, 44100), 44100, "aac", video=True)
    assert len(decode(open_audio(path, sample_rate=RATE))) == pytest.approx(2 * RATE, abs=0.1 * RATE)


def test_a_file_object_is_read_from_its_beginning_and_left_open(tmp_path: Path) -> None:
    with write_kind(tmp_path, "a.flac").open("rb") as file:
        file.read(100)
        assert len(decode(open_audio(file, sample_rate=RATE))) == 3 * RATE
        assert not file.closed


@pytest.mark.parametrize("kind", ["file", "array", "blocks"])
def test_a_stream_can_be_read_only_once(tmp_path: Path, kind: str) -> None:
    waveform = tone(1.0, RATE)
    match kind:
        case "file":
            stream = open_audio(write_kind(tmp_path, "a.flac"), sample_rate=RATE)
        case "array":
            stream = array_audio(waveform, RATE, sample_rate=RATE)
        case _:
            stream = AudioStream([waveform], sample_rate=RATE, duration=1.0)
    decode(stream)
    with pytest.raises(InvalidOptionError, match="only once"):
        list(stream)


def test_a_closed_stream_cannot_be_read(tmp_path: Path) -> None:
    with open_audio(write_kind(tmp_path, "a.flac"), sample_rate=RATE) as stream:
        pass
    with pytest.raises(InvalidOptionError, match="Open the recording again"):
        list(stream)


def test_text_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_text("This is not music.\n" * 1000)
    refuse(path, AudioError)


def test_random_bytes_are_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(random.Random(1).randbytes(100_000))
    refuse(path, AudioError)


def test_an_empty_file_is_empty_audio(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.touch()
    refuse(path, EmptyAudioError)


def test_a_recording_of_no_samples_is_empty_audio(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    whole = write(tmp_path / "b.wav", tone(1.0), RATE).read_bytes()
    start = whole.index(b"data") + 8
    header = bytearray(whole[:start])
    header[4:8] = (start - 8).to_bytes(4, "little")
    header[-4:] = bytes(4)
    path.write_bytes(header)
    refuse(path, EmptyAudioError)


def test_a_video_without_sound_has_no_audio_stream(tmp_path: Path) -> None:
    refuse(write_silent_video(tmp_path / "a.mp4"), NoAudioStreamError)


@pytest.mark.parametrize("name", CUT)
def test_a_recording_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = write_kind(tmp_path, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    refuse(path, TruncatedAudioError)


def test_an_mp3_without_a_frame_count_is_not_taken_for_cut_off(tmp_path: Path) -> None:
    """FFmpeg guesses its length from a bit rate, which is wrong where that varies."""
    path = write(tmp_path / "a.mp3", tone(3.0, 44100), 44100, "libmp3lame", muxer={"write_xing": "0"})
    assert len(decode(open_audio(path, sample_rate=RATE))) > 2.9 * RATE


def test_a_wav_written_to_a_pipe_is_not_taken_for_cut_off(tmp_path: Path) -> None:
    path = write_kind(tmp_path, "a.wav")
    stream = bytearray(path.read_bytes())
    data = stream.index(b"data")
    stream[4:8] = stream[data + 4 : data + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(stream)
    assert len(decode(open_audio(path, sample_rate=RATE))) == 3 * RATE


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.ogg"])
def test_a_recording_that_is_too_long_is_refused(tmp_path: Path, name: str) -> None:
    refuse(write_kind(tmp_path, name), AudioTooLongError, max_seconds=2.0)


def test_length_is_counted_while_decoding_where_the_header_lies(tmp_path: Path) -> None:
    """A FLAC header may leave the number of samples open: 0 in the low 36 bits of 8 bytes at 18."""
    path = write_kind(tmp_path, "a.flac")
    flac = bytearray(path.read_bytes())
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    path.write_bytes(flac)
    with open_audio(path, sample_rate=RATE) as stream:
        assert stream.duration is None
    refuse(path, AudioTooLongError, max_seconds=2.0)


def test_forged_sample_rate_does_not_unpack_without_end(tmp_path: Path) -> None:
    """At 705,600 Hz 160 s pass for 10: bytes are counted too."""
    path = write(tmp_path / "a.wav", np.zeros(160 * 44100, np.float32), 44100, "pcm_f32le")
    wav = bytearray(path.read_bytes())
    wav[24:28] = (705_600).to_bytes(4, "little")
    path.write_bytes(wav)
    refuse(path, AudioTooLongError, max_seconds=11.0)


def test_absurd_sample_rate_is_refused(tmp_path: Path) -> None:
    path = write_kind(tmp_path, "a.wav")
    wav = bytearray(path.read_bytes())
    wav[24:28] = (2_000_000_000).to_bytes(4, "little")
    path.write_bytes(wav)
    refuse(path, AudioError)


def test_a_day_of_silence_is_refused_in_little_memory(tmp_path: Path) -> None:
    """Packed to a few hundred kilobytes, it would be 7.6 GB as float32. The header is silent about its length."""
    path = write(tmp_path / "a.flac", np.zeros(3600 * 4000, np.float32), 4000, "flac")
    hour = path.read_bytes()
    flac = bytearray(hour)
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    path.write_bytes(flac + hour[hour.index(b"\xff\xf8") :] * 23)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(path, AudioTooLongError, max_seconds=1800.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{canary}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{canary}'\n",
        "[playlist]\nFile1={canary}\nNumberOfEntries=1\n",
    ],
)
def test_a_playlist_is_refused_and_its_entries_are_not_opened(tmp_path: Path, playlist: str) -> None:
    canary = write_kind(tmp_path, "a.wav")
    os.utime(canary, (1, 1))
    path = tmp_path / "song.mp3"
    path.write_text(playlist.format(canary=canary))
    refuse(path, AudioError)
    assert canary.stat().st_atime == 1


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "b.ogg", "a.m4a", "a.webm"])
def test_damaged_files_decode_or_are_refused(tmp_path: Path, name: str) -> None:
    """Twenty mutations per kind: bytes changed, a piece taken out. Anything but an AudioError fails."""
    whole = write_kind(tmp_path, name, 1.0).read_bytes()
    chance = random.Random(name)
    path = tmp_path / "damaged"
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 10, 100])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :][: chance.randrange(1000)]
        path.write_bytes(damaged)
        try:
            waveform = decode(open_audio(path, sample_rate=RATE, max_seconds=60))
        except AudioError:
            continue
        assert np.isfinite(waveform).all()


def test_nan_and_infinity_become_silence(tmp_path: Path) -> None:
    waveform = tone(1.0, RATE)
    waveform[1000:1004] = [np.nan, np.inf, -np.inf, 1e38]
    stream = array_audio(waveform, RATE, sample_rate=RATE)
    decoded = decode(stream)
    assert np.isfinite(decoded).all()
    assert stream.peak == pytest.approx(0.5, abs=0.01)
    assert [str(warning) for warning in stream.warnings] == [
        "4 samples are not a number or far too loud, and replaced with silence."
    ]


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_audio(tmp_path / "none.wav", sample_rate=RATE)


@pytest.mark.parametrize("shape", ["(S,)", "(S, C)", "(C, S)"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_arrays_of_all_shapes_and_types_are_the_same_waveform(shape: str, dtype: type) -> None:
    mono = tone(1.0, RATE)
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    scaled: NDArray[Any] = (mono.astype(np.float64) * scale).astype(dtype)
    arrays = {"(S,)": scaled, "(S, C)": np.stack([scaled] * 2, 1), "(C, S)": np.stack([scaled] * 2)}

    stream = array_audio(arrays[shape], RATE, sample_rate=RATE)

    assert stream.duration == 1.0
    np.testing.assert_allclose(decode(stream), mono, atol=1e-4)


def test_an_array_is_resampled_as_a_file_is(tmp_path: Path) -> None:
    waveform = tone(2.5, 44100)
    path = write(tmp_path / "a.wav", waveform, 44100, "pcm_f32le")
    from_array = decode(array_audio(waveform, 44100, sample_rate=RATE))
    np.testing.assert_allclose(from_array, decode(open_audio(path, sample_rate=RATE)), atol=1e-5)


@pytest.mark.parametrize(
    ("array", "sr", "error"),
    [
        (np.zeros(0), RATE, EmptyAudioError),
        (np.zeros((2, 0)), RATE, EmptyAudioError),
        (np.zeros((1, 2, 3)), RATE, AudioError),
        (np.array(["a"]), RATE, AudioError),
        (np.zeros(10), 0, InvalidOptionError),
    ],
)
def test_arrays_that_are_no_waveform_are_refused(array: np.ndarray, sr: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        array_audio(array, sr, sample_rate=RATE)


def test_a_recording_is_copied_in_another_format_sample_for_sample(bach: Path, tmp_path: Path) -> None:
    """MP3 and AAC encoders put silence in front, which must not shift the notes."""
    original = decode(open_audio(bach, sample_rate=RATE))
    for name, codec in [("a.mp3", "libmp3lame"), ("a.m4a", "aac")]:
        copy = decode(open_audio(encode(bach, tmp_path / name, codec, 44100, bit_rate=192_000), sample_rate=RATE))
        length = min(len(copy), len(original))
        assert np.abs(copy[:length] - original[:length]).mean() < 0.002, name
