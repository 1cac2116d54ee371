"""Files as other programs leave them: joined, mislabeled, tagged, late, with several tracks, protected."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mt3_infer import AudioError, AudioWarning, TruncatedAudioError
from mt3_infer.audio import Waveform, open_audio
from mt3_infer.errors import ProtectedAudioError
from tests.recordings import encode, tone, write
from tests.unit.mt3_infer.audio.test_containers import RATE, SECONDS, shift

ID3 = b"ID3\x04\x00\x00" + bytes([0, 0, 8, 0]) + bytes(1024)


def decode(path: Path) -> tuple[Waveform, list[AudioWarning]]:
    with open_audio(path, sample_rate=RATE) as stream:
        waveform = np.concatenate(list(stream))
    return waveform, list(stream.warnings)


def codes(warnings: list[AudioWarning]) -> list[str]:
    return [warning.code for warning in warnings]


@pytest.fixture(scope="module")
def original(bach: Path) -> Waveform:
    return decode(bach)[0]


@pytest.fixture(scope="module")
def halves(bach: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """The first 8 s and the rest of the recording, as files of any kind."""
    folder = tmp_path_factory.mktemp("halves")
    with av.open(str(bach)) as container:
        stereo = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)])
    planes = (stereo.T / 32768).astype(np.float32)

    def make(first: tuple[str, str, int], second: tuple[str, str, int], **options: object) -> list[Path]:
        parts = []
        for number, (name, codec, rate) in enumerate([first, second]):
            source = write(
                folder / f"{number}.wav", planes[:, : 8 * 44100] if number == 0 else planes[:, 8 * 44100 :], 44100
            )
            parts.append(encode(source, folder / f"{number}-{name}", codec, rate, **options))
        return parts

    return make


def join(parts: list[Path], path: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


# --- joined files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a.opus", "libopus", 48000), ("b.opus", "libopus", 48000)),
        (("a.ogg", "vorbis", 22050), ("b.ogg", "vorbis", 44100)),
        (("a.ogg", "vorbis", 44100), ("b.opus", "libopus", 48000)),
        (("a.oga", "flac", 44100), ("b.ogg", "vorbis", 48000)),
        (("a.flac", "flac", 44100), ("b.flac", "flac", 22050)),
        (("a.wav", "pcm_s16le", 44100), ("b.wav", "pcm_s24le", 48000)),
        (("a.aiff", "pcm_s16be", 44100), ("b.aiff", "pcm_s16be", 22050)),
        (("a.m4a", "aac", 44100), ("b.m4a", "alac", 48000)),
    ],
)
def test_joined_files_are_read_to_the_end(
    halves: Callable[..., list[Path]],
    original: Waveform,
    tmp_path: Path,
    first: tuple[str, str, int],
    second: tuple[str, str, int],
) -> None:
    waveform, warnings = decode(join(halves(first, second), tmp_path / "joined"))
    assert codes(warnings) == ["joined"]
    assert len(waveform) / RATE == pytest.approx(SECONDS, abs=0.15)
    for at in (2.0, 12.0, 20.0):
        assert abs(shift(original, waveform, at)) < 30


@pytest.mark.parametrize("tag", [b"", ID3, ID3 * 300])
def test_joined_mp3s_of_different_bit_rates_are_one_recording(
    halves: Callable[..., list[Path]], original: Waveform, tmp_path: Path, tag: bytes
) -> None:
    first = halves(("64k.mp3", "libmp3lame", 44100), ("x.mp3", "libmp3lame", 44100), bit_rate=64_000)[0]
    second = halves(("x.mp3", "libmp3lame", 44100), ("192k.mp3", "libmp3lame", 44100), bit_rate=192_000)[1]
    path = tmp_path / "joined.mp3"
    path.write_bytes(first.read_bytes() + tag + second.read_bytes())

    waveform, warnings = decode(path)

    assert codes(warnings) == []
    for at in (2.0, 12.0, 20.0):
        assert abs(shift(original, waveform, at)) < 30


def test_link_that_cannot_be_read_is_named(bach: Path, tmp_path: Path) -> None:
    first = encode(bach, tmp_path / "a.opus", "libopus", 48000).read_bytes()
    second = bytearray(first)
    second[28:36] = b"NoCodec!"
    path = tmp_path / "joined.opus"
    path.write_bytes(first + second)
    waveform, warnings = decode(path)
    assert len(waveform) / RATE == pytest.approx(SECONDS, abs=0.1)
    assert "damaged" in codes(warnings)
    assert "24.5 s" in str(warnings[0])


# --- sizes that are wrong ------------------------------------------------------------------------------------


@pytest.fixture
def wav(bach: Path, tmp_path: Path) -> bytearray:
    return bytearray(encode(bach, tmp_path / "plain.wav", "pcm_s16le", 44100).read_bytes())


def check_whole(path: Path, data: bytes | bytearray, original: Waveform) -> list[str]:
    path.write_bytes(data)
    waveform, warnings = decode(path)
    assert len(waveform) / RATE == pytest.approx(SECONDS, abs=0.1)
    assert abs(shift(original, waveform, 20.0)) < 30
    return codes(warnings)


def test_riff_size_that_is_too_large_is_no_matter(wav: bytearray, original: Waveform, tmp_path: Path) -> None:
    wav[4:8] = struct.pack("<I", 2 * len(wav))
    assert check_whole(tmp_path / "a.wav", wav, original) == []


@pytest.mark.parametrize("size", [1_000_000, 10, 3_000_001])
def test_data_size_that_is_too_small_cuts_nothing(
    wav: bytearray, original: Waveform, tmp_path: Path, size: int
) -> None:
    at = wav.index(b"data") + 4
    wav[at : at + 4] = struct.pack("<I", size)
    assert check_whole(tmp_path / "a.wav", wav, original) == ["wrong_length"]


def test_chunks_behind_the_samples_are_no_sound(wav: bytearray, original: Waveform, tmp_path: Path) -> None:
    note = b"LIST" + struct.pack("<I", 300_001) + bytes(300_001)
    assert check_whole(tmp_path / "a.wav", wav + note + b"\0" + note, original) == []
    assert check_whole(tmp_path / "b.wav", wav + note + note, original) == []  # without its pad byte


@pytest.mark.parametrize("chunk", [b"INFOx", b"INFOx\0"])
def test_odd_chunk_may_lack_its_pad_byte(wav: bytearray, original: Waveform, tmp_path: Path, chunk: bytes) -> None:
    wav[12:12] = b"LIST" + struct.pack("<I", 5) + chunk
    assert check_whole(tmp_path / "a.wav", wav, original) == []


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.m4a", "a.flac", "a.mp3", "a.ogg", "a.mka", "a.wv"])
@pytest.mark.parametrize("tags", [1, 2])
def test_id3_tags_in_front_of_any_format(
    bach: Path, original: Waveform, tmp_path: Path, name: str, tags: int
) -> None:
    codec = {
        "a.wav": "pcm_s16le",
        "a.aiff": "pcm_s16be",
        "a.m4a": "aac",
        "a.mp3": "libmp3lame",
        "a.ogg": "vorbis",
        "a.wv": "wavpack",
    }.get(name, "flac")
    data = encode(bach, tmp_path / f"plain-{name}", codec, 44100).read_bytes()
    assert check_whole(tmp_path / name, ID3 * tags + data, original) == []


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF])
def test_w64_of_a_pipe(bach: Path, original: Waveform, tmp_path: Path, size: int) -> None:
    w64 = bytearray(encode(bach, tmp_path / "plain.w64", "pcm_s16le", 44100).read_bytes())
    w64[16:24] = struct.pack("<Q", size)
    at = w64.index(b"data\xf3\xac\xd3\x11") + 16
    w64[at : at + 8] = struct.pack("<Q", size)
    assert check_whole(tmp_path / "a.w64", w64, original) == []


def test_stale_count_of_mp3_frames_is_told_and_nothing_refused(
    bach: Path, original: Waveform, tmp_path: Path
) -> None:
    mp3 = bytearray(encode(bach, tmp_path / "plain.mp3", "libmp3lame", 44100).read_bytes())
    at = max(mp3.find(b"Info"), mp3.find(b"Xing")) + 8
    frames = struct.unpack(">I", mp3[at : at + 4])[0]
    for stale in (2 * frames, frames // 2):
        mp3[at : at + 4] = struct.pack(">I", stale)
        found = check_whole(tmp_path / "a.mp3", mp3, original)
        assert found == (["wrong_length"] if stale > frames else [])


# --- clocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "aac"),
        ("a.mkv", "aac"),
        ("a.ts", "aac"),
        ("a.flv", "aac"),
        ("b.mkv", "libopus"),
        ("b.mp4", "alac"),
    ],
)
def test_sound_that_starts_after_the_picture_stays_late(
    bach: Path, original: Waveform, tmp_path: Path, name: str, codec: str
) -> None:
    rate = 48000 if codec == "libopus" else 44100
    path = encode(bach, tmp_path / name, codec, rate, starts_at=2.5, video=name != "a.flv")
    waveform, warnings = decode(path)
    late = np.concatenate([np.zeros(int(2.5 * RATE), np.float32), original])
    assert codes(warnings) == []
    assert np.abs(waveform[: 2 * RATE]).max() == 0
    for at in (4.0, 20.0):
        assert abs(shift(late, waveform, at)) < 15


def test_forged_clock_does_not_become_hours_of_silence(tmp_path: Path) -> None:
    """Two seconds of sound, three hours apart by the clock."""
    path = tmp_path / "a.mka"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        for start in (0, 3 * 3600 * 8000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 1000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    waveform, warnings = decode(path)
    assert len(waveform) / RATE < 5
    assert "clock_jump" in codes(warnings)


def test_one_sample_a_packet_takes_time_in_proportion(tmp_path: Path) -> None:
    """CAF that claims 0x480001 frames a packet: each sample is a packet, hours apart."""
    samples = (np.sin(np.arange(16000) / 5) * 9000).astype(">i2").tobytes()
    form = struct.pack(">d4sIIIII", 8000.0, b"lpcm", 0, 2, 0x480001, 1, 16)
    path = tmp_path / "a.caf"
    path.write_bytes(
        b"caff\0\x01\0\0desc"
        + struct.pack(">q", 32)
        + form
        + b"data"
        + struct.pack(">q", len(samples) + 4)
        + bytes(4)
        + samples
    )
    waveform, _ = decode(path)
    assert len(waveform) / RATE == pytest.approx(2.0, abs=0.01)


# --- tracks and codes ----------------------------------------------------------------------------------------


def test_default_track_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    with av.open(str(path), "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE) for _ in range(3)]
        for stream in streams:
            stream.layout = "mono"
            stream.disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, pitch in zip(streams, (220, 440, 880), strict=True):
            samples = (tone(2.0, RATE, pitch) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    waveform, _ = decode(path)
    spectrum = np.abs(np.fft.rfft(waveform[:RATE]))
    assert int(spectrum.argmax()) == 440


@pytest.mark.parametrize("name", [b"enca", b"drms", b"aavd"])
def test_protected_sound_is_one_sentence(bach: Path, tmp_path: Path, name: bytes) -> None:
    data = encode(bach, tmp_path / "plain.m4a", "aac", 44100).read_bytes()
    path = tmp_path / "a.m4a"
    path.write_bytes(data.replace(b"mp4a" + bytes(6), name + bytes(6)))
    with pytest.raises(ProtectedAudioError, match="protected"):
        decode(path)


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
        + struct.pack("<Q", 30)
        + b"some text after the GUID, 73 bytes",
        b"caff\0\x01\0\0desc"
        + struct.pack(">qd4sIIIII", 32, 8000.0, b"lpcm", 0, 2, 1, 1, 16)
        + b"free"
        + struct.pack(">q", 2**62),
        b"RIFF\xff\xff\xff\xffWAVE",
        b"fLaC\x80\0\0\x22" + bytes(34),
        b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x80",
        b"OggS\0\x02" + bytes(21),
        b".snd" + bytes(20),
        b"FLV\x01\x05\0\0\0\x09",
    ],
)
def test_header_alone_is_the_files_fault(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(AudioError):
        decode(path)


@pytest.mark.parametrize("rate", [1, 100, 999])
def test_sample_rate_below_any_recording_is_refused(wav: bytearray, tmp_path: Path, rate: int) -> None:
    """At 1 Hz, 22 kB would be three hours."""
    wav[24:28] = struct.pack("<I", rate)
    path = tmp_path / "a.wav"
    path.write_bytes(wav[:22_000])
    wav[28:32] = struct.pack("<I", 4 * rate)
    with pytest.raises(AudioError, match="Hz") as caught:
        decode(path)
    assert not isinstance(caught.value, TruncatedAudioError)
