"""Velocities order notes by loudness; confidence is lower for wrong notes, with Basic Pitch and without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from checkpoints.store import CheckpointStore
from mt3_infer.audio import Waveform, open_audio
from mt3_infer.evidence.collector import energy_track, posterior_track
from mt3_infer.evidence.confidence import read_coefficients
from mt3_infer.evidence.estimates import all_features, estimate
from mt3_infer.evidence.features import Tracks, strength
from mt3_infer.evidence.recorder import EvidenceRecorder, PosteriorNetwork
from mt3_infer.evidence.velocities import velocities
from mt3_infer.loading import load_model, open_posteriors
from mt3_infer.model import Model
from mt3_infer.models import MODELS
from mt3_infer.symbolic.notes import Note, sort_notes
from mt3_infer.transcription import Transcription

RATE = 22050


@pytest.fixture(scope="module")
def store(checkpoint_dir: Path) -> CheckpointStore:
    return CheckpointStore(checkpoint_dir)


@pytest.fixture(scope="module")
def basic_pitch(store: CheckpointStore) -> Model:
    return load_model("basic_pitch", store=store)


@pytest.fixture(scope="module")
def posteriors(store: CheckpointStore, basic_pitch: Model) -> PosteriorNetwork:
    found = open_posteriors(store, fetch=False)
    assert found is not None
    return found


def record(waveform: Waveform, recorder: EvidenceRecorder) -> Tracks:
    list(recorder.passing([waveform.astype(np.float32)]))
    found = recorder.evidence
    posteriors = None if found.posteriors is None else posterior_track(found.posteriors)
    return Tracks(energy_track(found.energies), posteriors)


def plucked(notes: list[tuple[float, int, float]], seconds: float) -> Waveform:
    """Return decaying tones with overtones; of each the onset in seconds, the pitch and the amplitude."""
    time = np.arange(int(seconds * RATE)) / RATE
    waveform = np.random.default_rng(5).normal(0, 1e-4, len(time))
    for onset, pitch, amplitude in notes:
        since = time - onset
        envelope = amplitude * np.exp(-3 * np.maximum(since, 0)) * (since >= 0)
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        for harmonic in (1, 2, 3, 4):
            waveform += envelope / harmonic * np.sin(2 * np.pi * frequency * harmonic * np.maximum(since, 0))
    return waveform.astype(np.float32)


def test_louder_notes_get_higher_velocities() -> None:
    amplitudes = [0.02, 0.3, 0.05, 0.1, 0.2, 0.01]
    played = [(0.5 + 0.7 * n, 60 + 2 * n, amplitude) for n, amplitude in enumerate(amplitudes)]
    tracks = record(plucked(played, 5.0), EvidenceRecorder(RATE))
    notes = [Note(onset, onset + 0.6, pitch, 100) for onset, pitch, _ in played]
    found = [note.velocity for note in estimate(notes, tracks, family="mt3", keep_velocities=False)]
    assert np.argsort(found).tolist() == np.argsort(amplitudes).tolist()
    assert max(found) - min(found) > 60
    kept = estimate(notes, tracks, family="mt3", keep_velocities=True)
    assert [note.velocity for note in kept] == [100] * 6


def test_the_highest_note_of_a_chord_is_louder_than_those_below_it_at_equal_energy() -> None:
    random = np.random.default_rng(3)
    notes = sort_notes(
        Note(on + random.uniform(0, 0.02), on + 0.9, pitch, 90) for on in np.arange(30.0) for pitch in (48, 55, 64)
    )
    found = np.array(velocities(notes, random.normal(70, 4, len(notes))))
    is_highest = np.array([note.pitch == 64 for note in notes])
    assert found[is_highest].mean() > found[~is_highest].mean() + 20


def test_a_note_that_rings_on_above_is_the_highest_and_one_that_has_ended_is_not() -> None:
    held = [Note(0.0, 4.0, 72, 90), *(Note(0.5 + n / 2, 0.9 + n / 2, 60, 90) for n in range(6))]
    ended = [replace(held[0], offset=0.4), *held[1:]]
    strengths = np.array([70.0, 69.0, 71.0, 69.0, 71.0, 69.0, 71.0])
    assert max(velocities(held, strengths)[1:]) < velocities(held, strengths)[0]
    assert max(velocities(ended, strengths)[1:]) > velocities(ended, strengths)[0]


def test_velocities_are_about_equal_where_loudness_is() -> None:
    notes = [Note(float(n), n + 0.5, 60 + n, 90) for n in range(10)]
    nearly_equal = 70 + np.random.default_rng(1).uniform(-0.2, 0.2, 10)
    assert all(60 <= velocity <= 70 for velocity in velocities(notes, nearly_equal))
    assert velocities(notes[:1], np.array([80.0])) == [65]
    assert velocities([], np.zeros(0)) == []


def test_trend_over_pitch_is_not_taken_for_dynamics() -> None:
    """The register is 40 dB louder at the bottom; one note in five is accented by 4 dB."""
    notes = [Note(float(n), n + 0.5, 40 + n, 90) for n in range(40)]
    accented = [n % 5 == 0 for n in range(40)]
    strengths = np.array([80 - n + 4.0 * accent for n, accent in enumerate(accented)])
    found = velocities(notes, strengths)
    loud = [velocity for velocity, accent in zip(found, accented, strict=True) if accent]
    soft = [velocity for velocity, accent in zip(found, accented, strict=True) if not accent]
    assert min(loud) > max(soft)


def test_drums_are_compared_with_themselves() -> None:
    """A kick is 20 dB louder than a hi-hat; of each the second is 6 dB louder than the first."""
    notes = [Note(n * 0.5, n * 0.5 + 0.01, pitch, 100, is_drum=True) for n, pitch in enumerate([36, 42, 36, 42])]
    first_kick, first_hat, second_kick, second_hat = velocities(notes, np.array([80.0, 60.0, 86.0, 66.0]))
    assert first_kick == first_hat < second_kick == second_hat


def test_strength_of_a_drum_is_that_of_its_band() -> None:
    rng = np.random.default_rng(2)
    time = np.arange(3 * RATE) / RATE
    thump = np.sin(2 * np.pi * 60 * time) * (np.abs(time - 1.1) < 0.1)
    hiss = rng.normal(0, 0.3, len(time)) * (np.abs(time - 2.1) < 0.1)
    tracks = record((0.5 * thump + hiss).astype(np.float32), EvidenceRecorder(RATE))
    loudness = {
        (at, pitch): strength(Note(at, at + 0.01, pitch, 100, is_drum=True), tracks.energies)
        for at in (1.0, 2.0)
        for pitch in (36, 42)
    }
    assert loudness[1.0, 36] > loudness[1.0, 42] + 20
    assert loudness[2.0, 42] > loudness[1.0, 42] + 20


def rank_quality(right: list[float], wrong: list[float]) -> float:
    """Return the probability that a right note has a higher confidence than a wrong one (the AUC)."""
    pairs = np.array(right)[:, None] - np.array(wrong)[None]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


@pytest.mark.parametrize(("with_basic_pitch", "least"), [(True, 0.97), (False, 0.8)])
def test_wrong_notes_have_lower_confidence(
    bach: Path, posteriors: PosteriorNetwork, with_basic_pitch: bool, least: float
) -> None:
    with open_audio(bach, sample_rate=16000) as audio:
        waveform = np.concatenate(list(audio))
    tracks = record(waveform, EvidenceRecorder(16000, posteriors if with_basic_pitch else None))
    played = [
        note for part in pretty_midi.PrettyMIDI(str(bach.with_suffix(".mid"))).instruments for note in part.notes
    ]
    true = [Note(note.start, note.end, note.pitch, 90) for note in played]
    rng = np.random.default_rng(4)
    false = [
        replace(true[n], pitch=true[n].pitch + shift) for n, shift in enumerate(rng.choice([-6, -1, 1, 6, 11], 60))
    ]
    sounding = {(round(note.onset, 2), note.pitch) for note in true}
    false = [note for note in false if (round(note.onset, 2), note.pitch) not in sounding]
    estimated = estimate(sort_notes(true + false), tracks, family="mt3", keep_velocities=True)
    confidence = {(note.onset, note.pitch): note.confidence or 0.0 for note in estimated}
    quality = rank_quality(
        [confidence[note.onset, note.pitch] for note in true],
        [confidence[note.onset, note.pitch] for note in false],
    )
    assert quality >= least
    assert all(0 <= value <= 1 for value in confidence.values())


def test_features_are_those_of_the_coefficients(posteriors: PosteriorNetwork) -> None:
    tracks = record(np.zeros(RATE, np.float32), EvidenceRecorder(RATE, posteriors))
    notes = [Note(0.1, 0.3, 60, 90), Note(0.2, 0.21, 36, 90, is_drum=True)]
    pitched, drum = all_features(notes, tracks, np.array([70.0, 60.0]))
    for name, kinds in read_coefficients().items():
        assert name in {spec.confidence for spec in MODELS.values()}
        assert set(kinds["posteriors"]) - {"bias"} <= set(pitched)
        assert set(kinds["energies"]) <= set(kinds["posteriors"]) | set(pitched)
        assert set(kinds["drums"]) - {"bias"} <= set(drum)
    assert {spec.confidence for spec in MODELS.values()} == set(read_coefficients())


def test_transcription_has_velocities_and_confidence(bach: Path, basic_pitch: Model) -> None:
    found = basic_pitch.transcribe(bach)
    assert found.provenance.estimator == "1/posteriors"
    assert len({note.velocity for note in found.notes}) > 20
    assert all(note.confidence is not None for note in found.notes)
    assert Transcription.from_json(found.to_json()).provenance == found.provenance
    assert basic_pitch.transcribe(bach).notes == found.notes

    plain = basic_pitch.transcribe(bach, estimates=False)
    assert plain.provenance.estimator == ""
    assert {note.confidence for note in plain.notes} == {None}
    times = [(note.onset, note.offset, note.pitch) for note in plain.notes]
    assert times == [(note.onset, note.offset, note.pitch) for note in found.notes]


def test_velocities_of_the_network_are_kept_if_they_are_better(bach: Path, basic_pitch: Model) -> None:
    plain = basic_pitch.transcribe(bach, estimates=False).notes
    found = replace(basic_pitch, spec=replace(basic_pitch.spec, has_velocities=True)).transcribe(bach).notes
    assert [note.velocity for note in found] == [note.velocity for note in plain]
    assert all(note.confidence is not None for note in found)
    assert [name for name, spec in MODELS.items() if spec.has_velocities] == ["transkun"]


def test_basic_pitch_is_not_fetched_offline(
    store: CheckpointStore, tmp_path: Path, basic_pitch: Model, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_posteriors(store, fetch=False) is not None
    offline = CheckpointStore(tmp_path, offline=True)
    assert open_posteriors(offline, fetch=True) is None
    assert "without Basic Pitch" in caplog.text
    caplog.clear()
    assert open_posteriors(offline, fetch=True) is None
    assert not caplog.text, "a failed download is not tried again"
