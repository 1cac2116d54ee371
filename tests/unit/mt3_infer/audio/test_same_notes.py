"""The same recording in other clothes gives the same notes."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from checkpoints.store import CheckpointStore
from mt3_infer import Model, Transcription, load_model
from tests.recordings import encode
from tests.unit.mt3_infer.audio.test_containers import KINDS


@pytest.fixture(scope="module")
def model(checkpoint_dir: Path) -> Model:
    return load_model("basic_pitch", store=CheckpointStore(checkpoint_dir))


@pytest.fixture(scope="module")
def original(model: Model, bach: Path) -> Transcription:
    return model.transcribe(bach)


def onset_shift(original: Transcription, other: Transcription) -> float:
    """Median of how much later the nearest note of the same pitch begins, in seconds."""
    onsets: dict[int, list[float]] = {}
    for note in other.notes:
        onsets.setdefault(note.pitch, []).append(note.onset)
    shifts = [
        min((onset - note.onset for onset in onsets[note.pitch]), key=abs)
        for note in original.notes
        if note.pitch in onsets
    ]
    return median(shifts)


LOW_QUALITY = {"low.mp3", "8 bit.wav"}  # 22 kHz at 64 kbit/s, and 8 bits: they lose notes, not time


OFTEN = [
    "a.mp3",
    "bare.mp3",
    "a.aac",
    "a.m4a",
    "a.opus",
    "vorbis.webm",
    "aac.ts",
    "ac3.vob",
    "a.wma",
    "a.wv",
    "mp3.avi",
]


@pytest.mark.parametrize(
    "name",
    [n if n in OFTEN else pytest.param(n, marks=pytest.mark.soak) for n in sorted(KINDS.keys() - LOW_QUALITY)],
)
def test_notes_are_the_same_in_every_kind(
    model: Model, original: Transcription, bach: Path, tmp_path: Path, name: str
) -> None:
    codec, rate, options = KINDS[name]
    other = model.transcribe(encode(bach, tmp_path / name, codec, rate, **options))
    assert len(other.notes) == pytest.approx(len(original.notes), rel=0.03)
    assert abs(onset_shift(original, other)) < 0.010
