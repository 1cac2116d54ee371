"""Basic Pitch as we run it, against the notes of the published package and against the score."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mir_eval
import numpy as np
import pretty_midi
import pytest

from checkpoints.store import CheckpointStore
from mt3_infer import Model, Progress, Transcription, load_model
from tests.recordings import encode

REFERENCE = Path(__file__).with_name("basic_pitch_bach_piano.npz")

PUBLISHED_ONSET_THRESHOLD = 0.5


@pytest.fixture(scope="module")
def model(checkpoint_dir: Path) -> Model:
    return load_model("basic_pitch", store=CheckpointStore(checkpoint_dir))


@pytest.fixture(scope="module")
def transcription(model: Model, bach: Path) -> Transcription:
    return model.transcribe(bach, onset_threshold=PUBLISHED_ONSET_THRESHOLD, estimates=False)


def test_notes_are_those_of_the_published_package(transcription: Transcription) -> None:
    reference = np.load(REFERENCE)
    ours = transcription.notes

    assert len(ours) == pytest.approx(len(reference["pitch"]), rel=0.02)
    pairs = mir_eval.transcription.match_note_onsets(
        np.stack([reference["onset"], reference["offset"]], axis=1),
        np.array([(note.onset, note.offset) for note in ours]),
        onset_tolerance=0.05,
    )
    differences = [abs(reference["onset"][theirs] - ours[our].onset) for theirs, our in pairs]
    assert np.mean(differences) < 0.012


def test_notes_are_equal_one_by_one_to_those_of_the_published_package(transcription: Transcription) -> None:
    """Onset, offset, pitch and velocity. A posterior at a threshold may fall otherwise on another processor."""
    reference = np.load(REFERENCE)
    velocity = np.round(127 * reference["amplitude"])
    theirs = {
        (round(onset, 3), round(offset, 3), int(pitch), int(loudness))
        for onset, offset, pitch, loudness in zip(
            reference["onset"], reference["offset"], reference["pitch"], velocity, strict=True
        )
    }
    ours = {(round(n.onset, 3), round(n.offset, 3), n.pitch, n.velocity) for n in transcription.notes}

    assert len(theirs & ours) >= 0.98 * len(theirs)


def test_onsets_agree_with_the_score(transcription: Transcription, bach: Path) -> None:
    assert onset_f1(transcription, bach) >= 0.80


def test_our_default_threshold_finds_no_fewer_right_onsets(
    model: Model, transcription: Transcription, bach: Path
) -> None:
    assert onset_f1(model.transcribe(bach), bach) > onset_f1(transcription, bach)


def onset_f1(transcription: Transcription, bach: Path) -> float:
    score = [
        note for part in pretty_midi.PrettyMIDI(str(bach.with_suffix(".mid"))).instruments for note in part.notes
    ]
    notes = transcription.notes

    _, _, f1, _ = mir_eval.transcription.precision_recall_f1_overlap(
        np.array([(note.start, note.end) for note in score]),
        mir_eval.util.midi_to_hz(np.array([note.pitch for note in score])),
        np.array([(note.onset, note.offset) for note in notes]),
        mir_eval.util.midi_to_hz(np.array([note.pitch for note in notes])),
        onset_tolerance=0.05,
        offset_ratio=None,
    )
    return float(f1)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("bach.mp3", "libmp3lame", 44100), ("bach.m4a", "aac", 44100), ("bach.ogg", "libopus", 48000)],
)
def test_compressed_copies_give_the_same_notes(
    model: Model, transcription: Transcription, bach: Path, tmp_path: Path, name: str, codec: str, rate: int
) -> None:
    copy = tmp_path / name
    encode(bach, copy, codec, rate, bit_rate=256_000)
    expected, got = transcription.notes, model.transcribe(copy, onset_threshold=PUBLISHED_ONSET_THRESHOLD).notes

    assert len(got) == pytest.approx(len(expected), rel=0.03)
    pairs = mir_eval.transcription.match_notes(
        np.array([(note.onset, note.offset) for note in expected]),
        mir_eval.util.midi_to_hz(np.array([note.pitch for note in expected])),
        np.array([(note.onset, note.offset) for note in got]),
        mir_eval.util.midi_to_hz(np.array([note.pitch for note in got])),
        onset_tolerance=0.05,
        offset_ratio=None,
    )
    assert len(pairs) >= 0.95 * len(expected)


def test_recordings_side_by_side_give_each_the_notes_it_gets_alone(model: Model, bach: Path) -> None:
    """To the last digit: windows of several recordings share the network, one at a time."""

    alone = model.transcribe(bach, onset_threshold=PUBLISHED_ONSET_THRESHOLD)

    def give_up(_: Progress) -> None:
        raise InterruptedError("canceled")

    with ThreadPoolExecutor(4) as threads:
        runs = [
            threads.submit(model.transcribe, bach, onset_threshold=PUBLISHED_ONSET_THRESHOLD) for _ in range(3)
        ]
        canceled = threads.submit(model.transcribe, bach, progress=give_up)
        with pytest.raises(InterruptedError, match="canceled"):
            canceled.result()
        assert all(run.result().notes == alone.notes for run in runs)
