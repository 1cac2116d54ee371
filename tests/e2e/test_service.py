"""The whole service over HTTP: recordings become MIDI, other files get an error code."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable
from pathlib import Path

import mir_eval
import numpy as np
import pretty_midi
import pytest

from tests.client import ServiceClient
from tests.recordings import encode, tone, write, write_silent_video

pytestmark = pytest.mark.e2e


def pitched_notes(midi: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return onsets and offsets in seconds, shape (N, 2), and frequencies in Hz, shape (N,)."""
    instruments = pretty_midi.PrettyMIDI(io.BytesIO(midi)).instruments
    pitched = [note for instrument in instruments if not instrument.is_drum for note in instrument.notes]
    intervals = np.array([(note.start, note.end) for note in pitched])
    return intervals, mir_eval.util.midi_to_hz(np.array([note.pitch for note in pitched]))


def onset_f1(estimated: bytes, reference: bytes) -> float:
    """Return the onset F1 of pitched notes with a tolerance of 50 ms; offsets are ignored."""
    truth, found = pitched_notes(reference), pitched_notes(estimated)
    _, _, f1, _ = mir_eval.transcription.precision_recall_f1_overlap(
        *truth, *found, onset_tolerance=0.05, offset_ratio=None
    )
    return float(f1)


def test_transcription_matches_the_reference_midi(client: ServiceClient, bach: Path) -> None:
    job = client.transcribe(bach, metadata='{"take": 1}')
    assert job["status"] == "succeeded", job
    midi = client.artifact(job, "transcription.mid")
    assert onset_f1(midi, bach.with_suffix(".mid").read_bytes()) >= 0.80
    assert job["progress"]["audio_seconds_done"] == pytest.approx(24.48, abs=0.05)
    assert (job["attempts"], job["metadata"], job["error"]) == (1, {"take": 1}, None)

    notes = json.loads(client.artifact(job, "notes.json"))
    assert notes["provenance"]["model"] == "basic_pitch"
    assert len(notes["notes"]) == job["note_count"]
    (model,) = (m for m in client.get("/v1/models").json["items"] if m["name"] == "basic_pitch")
    assert model["installed"]
    assert model["realtime_factor"] > 1


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("bach.mp3", "libmp3lame", 44100),
        ("bach.m4a", "aac", 44100),
        ("bach.ogg", "vorbis", 44100),
        ("bach.opus", "libopus", 48000),
        ("bach.mp4", "aac", 44100),
    ],
)
def test_other_formats_give_the_same_notes(
    client: ServiceClient, bach: Path, tmp_path: Path, name: str, codec: str, rate: int
) -> None:
    original = client.transcribe(bach)
    video = name.endswith(".mp4")
    copy = client.transcribe(encode(bach, tmp_path / name, codec, rate, bit_rate=192_000, video=video))
    assert copy["status"] == "succeeded", copy
    assert copy["note_count"] == pytest.approx(original["note_count"], rel=0.03)
    midi, expected = (client.artifact(job, "transcription.mid") for job in (copy, original))
    assert onset_f1(midi, expected) >= 0.95


def test_options_change_the_result(client: ServiceClient, bach: Path) -> None:
    strict = client.transcribe(bach, options='{"onset_threshold": 0.9, "minimum_note_length": 1}')
    assert strict["options"] == {"onset_threshold": 0.9, "minimum_note_length": 1}
    assert 0 < strict["note_count"] < 100


def wave_header() -> bytes:
    """Return a WAV file of 0 s."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
    return buffer.getvalue()


def cut_mp3(folder: Path) -> bytes:
    whole = write(folder / "whole.mp3", tone(6), 22050, "libmp3lame", bit_rate=128_000).read_bytes()
    return whole[: len(whole) // 2]


# Name → (content, expected error code).
BAD_INPUTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "text.mp3": (lambda _: b"This is a text, not a recording.\n" * 100, "undecodable_audio"),
    "empty.wav": (lambda _: b"", "empty_upload"),
    "cut.mp3": (cut_mp3, "truncated_audio"),
    "no-sound.mp4": (lambda folder: write_silent_video(folder / "v.mp4").read_bytes(), "no_audio_stream"),
    "zero.wav": (lambda _: wave_header(), "empty_audio"),
    "silence.flac": (
        lambda folder: write(folder / "s.flac", 0 * tone(3), 22050, "flac").read_bytes(),
        "silent_audio",
    ),
    "list.m3u8": (lambda _: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "undecodable_audio"),
    "random.ogg": (lambda _: np.random.default_rng(1).bytes(50_000), "undecodable_audio"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_file_gets_an_error_code_after_one_attempt(client: ServiceClient, tmp_path: Path, name: str) -> None:
    make, code = BAD_INPUTS[name]
    answer = client.submit(make(tmp_path), name=name)
    if answer.status == 202:
        job = client.wait(answer.json["id"])
        assert job["status"] == "failed"
        error = job["error"]
        assert job["attempts"] == 1, "a retry would not help"
    else:
        assert answer.status == 422
        error = answer.json
    assert error["code"] == code, error
    assert error["detail"].endswith((".", "!")), "a sentence for the user"


def test_worker_still_transcribes_after_bad_files(client: ServiceClient, bach: Path) -> None:
    assert client.transcribe(bach)["status"] == "succeeded"
