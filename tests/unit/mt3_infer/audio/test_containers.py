"""The same recording in other clothes gives the same sound at the same time, whole, damaged or cut off."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt3_infer import AudioError, AudioWarning, TruncatedAudioError
from mt3_infer.audio import Waveform, open_audio
from tests.recordings import encode, remux

RATE = 16000
SECONDS = 24.48

KINDS: dict[str, tuple[str, int, dict[str, Any]]] = {  # file name → codec, sample rate, options of `encode`
    "a.wav": ("pcm_s16le", 44100, {}),
    "24 bit.wav": ("pcm_s24le", 48000, {}),
    "32 bit.wav": ("pcm_s32le", 96000, {}),
    "float.wav": ("pcm_f32le", 44100, {}),
    "double.wav": ("pcm_f64le", 22050, {}),
    "8 bit.wav": ("pcm_u8", 44100, {}),
    "a-law.wav": ("pcm_alaw", 44100, {}),
    "mu-law.wav": ("pcm_mulaw", 44100, {}),
    "ms.wav": ("adpcm_ms", 44100, {}),
    "ima.wav": ("adpcm_ima_wav", 44100, {}),
    "mp3 in.wav": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "rf64.wav": ("pcm_s16le", 44100, {"muxer": {"rf64": "always"}}),
    "a.w64": ("pcm_s16le", 44100, {}),
    "a.aiff": ("pcm_s16be", 44100, {}),
    "a.au": ("pcm_s16be", 44100, {}),
    "a.caf": ("pcm_s16be", 44100, {}),
    "alac.caf": ("alac", 44100, {}),
    "a.voc": ("pcm_s16le", 44100, {}),
    "a.flac": ("flac", 44100, {}),
    "flac.oga": ("flac", 44100, {"kind": "ogg"}),
    "a.ogg": ("vorbis", 44100, {"bit_rate": 160_000}),
    "a.opus": ("libopus", 48000, {"bit_rate": 128_000}),
    "a.mp3": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "low.mp3": ("libmp3lame", 22050, {"bit_rate": 64_000}),
    "bare.mp3": ("libmp3lame", 44100, {"bit_rate": 128_000, "muxer": {"write_xing": "0"}}),
    "a.mp2": ("mp2", 44100, {"bit_rate": 192_000}),
    "a.aac": ("aac", 44100, {"bit_rate": 128_000, "kind": "adts"}),
    "a.m4a": ("aac", 44100, {"bit_rate": 128_000, "kind": "ipod"}),
    "fragments.mp4": ("aac", 44100, {"muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    "no edits.mp4": ("aac", 44100, {"bit_rate": 128_000, "muxer": {"use_editlist": "0"}}),
    "mp3 in.mp4": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "ac3 in.mp4": ("ac3", 48000, {"bit_rate": 192_000}),
    "alac.m4a": ("alac", 44100, {"kind": "ipod"}),
    "pcm.mov": ("pcm_s16le", 44100, {}),
    "a.3gp": ("aac", 44100, {"bit_rate": 128_000}),
    "opus.mka": ("libopus", 48000, {"bit_rate": 128_000, "kind": "matroska"}),
    "flac.mka": ("flac", 44100, {"kind": "matroska"}),
    "pcm.mka": ("pcm_s16le", 44100, {"kind": "matroska"}),
    "aac.mkv": ("aac", 44100, {"bit_rate": 128_000}),
    "mp3.mkv": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "vorbis.webm": ("vorbis", 44100, {"bit_rate": 160_000}),
    "opus.webm": ("libopus", 48000, {"bit_rate": 128_000}),
    "aac.ts": ("aac", 44100, {"bit_rate": 128_000}),
    "mp3.ts": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "mp2.ts": ("mp2", 44100, {"bit_rate": 192_000}),
    "ac3.ts": ("ac3", 48000, {"bit_rate": 192_000}),
    "mp2.mpg": ("mp2", 44100, {"bit_rate": 192_000}),
    "mp2.vob": ("mp2", 48000, {"bit_rate": 192_000, "kind": "vob"}),
    "ac3.vob": ("ac3", 48000, {"bit_rate": 192_000, "kind": "vob"}),
    "aac.flv": ("aac", 44100, {"bit_rate": 128_000}),
    "mp3.flv": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "a.ac3": ("ac3", 48000, {"bit_rate": 192_000}),
    "a.eac3": ("eac3", 48000, {"bit_rate": 192_000}),
    "mp3.avi": ("libmp3lame", 44100, {"bit_rate": 128_000}),
    "pcm.avi": ("pcm_s16le", 44100, {}),
    "a.wma": ("wmav2", 44100, {"bit_rate": 128_000, "kind": "asf"}),
    "v1.wma": ("wmav1", 44100, {"bit_rate": 128_000, "kind": "asf"}),
    "a.wv": ("wavpack", 44100, {}),
    "a.tta": ("tta", 44100, {}),
    "a.nut": ("aac", 44100, {"bit_rate": 128_000}),
}
GAPS = [  # containers that keep time
    "a.m4a", "fragments.mp4", "alac.m4a", "mp3 in.mp4", "opus.mka", "flac.mka", "pcm.mka", "aac.mkv", "mp3.mkv",
    "vorbis.webm", "opus.webm", "aac.ts", "mp3.ts", "mp2.ts", "mp2.mpg", "aac.flv", "mp3.flv", "a.nut",
    "a.ogg", "a.opus", "flac.oga", "a.flac",
]  # fmt: skip
DAMAGED = [  # and in which damage is noticed
    "a.flac", "flac.oga", "a.ogg", "a.opus", "a.mp3", "bare.mp3", "mp3 in.wav", "a.mp2", "a.aac", "a.m4a",
    "fragments.mp4", "alac.m4a", "alac.caf", "opus.mka", "flac.mka", "aac.mkv", "mp3.mkv", "vorbis.webm",
    "opus.webm", "aac.ts", "mp3.ts", "mp2.ts", "mp2.mpg", "aac.flv", "mp3.flv", "a.ac3", "a.eac3", "a.wma",
    "a.wv", "a.tta", "a.nut",
]  # fmt: skip
CUT = [  # whose headers state a length
    "a.wav", "float.wav", "rf64.wav", "mp3 in.wav", "a.w64", "a.aiff", "a.au", "a.caf", "alac.caf", "a.flac",
    "flac.oga", "a.ogg", "a.opus", "a.mp3", "a.m4a", "fragments.mp4", "alac.m4a", "pcm.mov", "opus.mka",
    "flac.mka", "pcm.mka", "aac.mkv", "vorbis.webm", "aac.flv", "mp3.avi", "pcm.avi", "a.wma", "a.wv", "a.tta",
]  # fmt: skip


def decode(path: Path) -> tuple[Waveform, list[AudioWarning]]:
    with open_audio(path, sample_rate=RATE) as stream:
        waveform = np.concatenate(list(stream))
    return waveform, list(stream.warnings)


def shift(expected: Waveform, found: Waveform, at: float, seconds: float = 3.0) -> float:
    """Milliseconds by which a stretch of the recording comes late, where it fits best within 0.5 s."""
    start, length, reach = int(at * RATE), int(seconds * RATE), RATE // 2
    stretch = expected[start : start + length].astype(np.float64)
    begin = max(0, start - reach)
    window = found[begin : start + length + reach].astype(np.float64)
    size = 1 << (len(stretch) + len(window)).bit_length()
    products = np.fft.irfft(np.fft.rfft(window, size) * np.conj(np.fft.rfft(stretch, size)), size)
    best = int(np.argmax(products[: len(window) - len(stretch) + 1]))
    match = window[best : best + length]
    likeness = products[best] / np.sqrt(np.sum(match**2) * np.sum(stretch**2))
    assert likeness > 0.9, f"the music at {at} s is not there ({likeness:.2f})"
    return (begin + best - start) / RATE * 1000


@pytest.fixture(scope="module")
def original(bach: Path) -> Waveform:
    return decode(bach)[0]


@pytest.fixture(scope="module")
def library(bach: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The recording in every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    return {name: encode(bach, folder / name, *kind[:2], **kind[2]) for name, kind in KINDS.items()}


def test_there_are_more_than_forty_kinds() -> None:
    assert len(KINDS) >= 40


@pytest.mark.parametrize("name", KINDS)
def test_every_container_decodes_completely_and_in_place(
    library: dict[str, Path], original: Waveform, name: str
) -> None:
    waveform, warnings = decode(library[name])

    assert len(waveform) / RATE == pytest.approx(SECONDS, abs=0.1)
    assert warnings == []
    for at in (1.0, 10.0, 20.0):
        assert abs(shift(original, waveform, at)) < 5


@pytest.mark.parametrize("missing", [0.4, 3.0])
@pytest.mark.parametrize("name", GAPS)
def test_missing_packets_shift_nothing_after_them(
    library: dict[str, Path], original: Waveform, tmp_path: Path, name: str, missing: float
) -> None:
    begin = 5.0 + random.Random(name).random() * 5
    path = remux(library[name], tmp_path / name, without=(begin, begin + missing), kind=KINDS[name][2].get("kind"))

    waveform, warnings = decode(path)

    assert abs(shift(original, waveform, 1.0)) < 5
    for at in (15.0, 20.0):
        assert abs(shift(original, waveform, at)) < 50
    assert len(waveform) / RATE == pytest.approx(SECONDS, abs=0.2)
    assert [warning.code for warning in warnings] in (["missing_sound"], ["damaged"])


@pytest.mark.parametrize("share", [0.02, 0.15])
@pytest.mark.parametrize("name", DAMAGED)
def test_damage_in_the_middle_costs_what_it_hits_and_shifts_nothing_after_it(
    library: dict[str, Path], original: Waveform, tmp_path: Path, name: str, share: float
) -> None:
    data = bytearray(library[name].read_bytes())
    begin = int(0.4 * len(data))
    length = int(share * len(data))
    data[begin : begin + length] = random.Random(name).randbytes(length)
    path = tmp_path / name
    path.write_bytes(data)

    waveform, warnings = decode(path)

    assert abs(shift(original, waveform, 1.0)) < 5
    for at in (17.0, 20.0):
        assert abs(shift(original, waveform, at)) < 50
    assert any(warning.code in ("damaged", "missing_sound") for warning in warnings)
    assert all(" s" in warning.detail for warning in warnings)  # says where


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("name", CUT)
def test_cut_off_recording_is_refused(library: dict[str, Path], tmp_path: Path, name: str, share: float) -> None:
    whole = library[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(TruncatedAudioError, match="cut off"):
        decode(path)


@pytest.mark.parametrize("name", sorted(set(KINDS) - set(CUT)))
def test_cut_off_recording_without_stated_length_decodes_what_is_present(
    library: dict[str, Path], original: Waveform, tmp_path: Path, name: str
) -> None:
    whole = library[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    try:
        waveform, _ = decode(path)
    except AudioError:
        return  # a reason is as good
    assert len(waveform) / RATE > 13
    assert abs(shift(original, waveform, 9.0)) < 5
