"""Figures of an evaluation, on hand-made music with known answers and beside mir_eval's own functions."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3_infer.evaluation import Music, NoteScore, evaluate
from mt3_infer.evaluation.measures import match
from mt3_infer.symbolic.notes import Note, Pedal

SCALE = [Note(float(i), i + 0.5, 60 + i, 60 + 10 * i) for i in range(4)]


def changed(note: Note, **changes: object) -> Note:
    fields = {name: getattr(note, name) for name in Note.__slots__}
    return Note(**(fields | changes))


def score(truth: list[Note], found: list[Note]) -> NoteScore:
    return evaluate(Music(truth), Music(found)).onset


def test_music_agrees_with_itself() -> None:
    result = evaluate(Music(SCALE), Music(SCALE))
    assert result.onset == result.onset_offset == result.onset_velocity == result.program == NoteScore(4, 4, 4)
    assert result.velocity_correlation == pytest.approx(1.0)
    assert (result.drums, result.beats, result.confidence_auc) == (None, None, None)


def test_late_wrong_and_missing_notes_are_counted() -> None:
    late = changed(SCALE[1], onset=SCALE[1].onset + 0.06)
    wrong = changed(SCALE[2], pitch=75)
    result = score(SCALE, [SCALE[0], late, wrong])
    assert result == NoteScore(4, 3, 1)
    assert (result.precision, result.recall, result.f1) == (1 / 3, 1 / 4, 2 / 7)


def test_onset_50_ms_off_still_counts() -> None:
    assert score(SCALE[:1], [changed(SCALE[0], onset=0.05)]).matched == 1


def test_nothing_at_all_scores_zero() -> None:
    assert score([], []).f1 == score(SCALE, []).f1 == score([], SCALE).f1 == 0.0


def test_offset_counts_within_a_fifth_of_the_duration() -> None:
    near, far = (changed(SCALE[0], offset=0.5 + by) for by in (0.09, 0.11))
    assert evaluate(Music(SCALE[:1]), Music([near])).onset_offset.matched == 1
    assert evaluate(Music(SCALE[:1]), Music([far])).onset_offset.matched == 0


def test_offsets_fit_the_key_or_the_pedal_whichever_is_better() -> None:
    reference = Music(SCALE[:1], pedals=[Pedal(0.2, 2.0)])
    pedaled = changed(SCALE[0], offset=2.0)
    assert evaluate(reference, Music(SCALE[:1])).onset_offset.matched == 1
    assert evaluate(reference, Music([pedaled])).onset_offset.matched == 1
    assert evaluate(Music(SCALE[:1]), Music([pedaled])).onset_offset.matched == 0


def test_pedal_does_not_hold_a_violin() -> None:
    violin = changed(SCALE[0], program=40)
    reference = Music([violin], pedals=[Pedal(0.2, 2.0)])
    assert evaluate(reference, Music([changed(violin, offset=2.0)])).onset_offset.matched == 0


def test_doubling_at_the_unison_counts_once() -> None:
    doubled = [*SCALE, changed(SCALE[0], onset=0.02, program=41)]
    assert score(doubled, SCALE) == score(SCALE, doubled) == NoteScore(4, 4, 4)
    repeated = [*SCALE, changed(SCALE[0], onset=0.2)]
    assert score(repeated, SCALE) == NoteScore(5, 4, 4)


def test_drums_are_measured_apart() -> None:
    kick, snare = Note(0.0, 0.1, 36, 90, is_drum=True), Note(1.0, 1.1, 38, 90, is_drum=True)
    result = evaluate(Music([*SCALE, kick, snare]), Music([*SCALE[:2], kick]))
    assert result.onset == NoteScore(4, 2, 2)
    assert result.drums == NoteScore(2, 1, 1)
    pitched_kick = changed(kick, is_drum=False)
    assert evaluate(Music([kick]), Music([pitched_kick])).drums == NoteScore(1, 0, 0)


def test_instruments_count_by_program_and_by_family() -> None:
    truth = [changed(SCALE[0], program=40), changed(SCALE[1], program=41), changed(SCALE[2], program=0)]
    found = [changed(SCALE[0], program=40), changed(SCALE[1], program=42), changed(SCALE[2], program=56)]
    result = evaluate(Music(truth), Music(found))
    assert result.onset == NoteScore(3, 3, 3)
    assert result.program == NoteScore(3, 3, 1)
    assert result.family == NoteScore(3, 3, 2)
    strings, piano, brass = NoteScore(2, 2, 2), NoteScore(1, 0, 0), NoteScore(0, 1, 0)
    assert result.families == {"strings": strings, "piano": piano, "brass": brass}


def test_velocities_count_after_scaling() -> None:
    quieter = [changed(note, velocity=20 + note.velocity // 2) for note in SCALE]
    result = evaluate(Music(SCALE), Music(quieter))
    assert result.onset_velocity.matched == 4
    assert result.velocity_correlation == pytest.approx(1.0)
    flat = evaluate(Music(SCALE), Music([changed(note, velocity=64) for note in SCALE]))
    assert flat.velocity_correlation is None
    assert flat.onset_velocity.matched == 0  # all lie at the mean, a sixth of the range or more away


def test_beats_within_70_ms_count_where_both_have_them() -> None:
    reference = Music(SCALE, beats=[0.0, 0.5, 1.0, 1.5], downbeats=[0.0, 1.0])
    found = Music(SCALE, beats=[0.06, 0.58, 1.0, 1.5], downbeats=[0.5])
    result = evaluate(reference, found)
    assert (result.beats, result.downbeats) == (0.75, 0.0)
    assert evaluate(reference, Music(SCALE)).beats is None


def test_confidence_is_measured_by_ranks_and_as_a_probability() -> None:
    wrong = changed(SCALE[3], pitch=90)
    found = [changed(n, confidence=c) for n, c in zip([*SCALE[:3], wrong], (0.9, 0.8, 0.4, 0.4), strict=True)]
    result = evaluate(Music(SCALE), Music(found))
    assert result.confidence_auc == pytest.approx(2.5 / 3)
    assert result.confidence_brier == pytest.approx((0.1**2 + 0.2**2 + 0.6**2 + 0.4**2) / 4)
    certain = evaluate(Music(SCALE), Music(found[:3]))
    assert certain.confidence_auc is None
    assert certain.confidence_brier is not None


notes = st.lists(
    st.builds(
        lambda onset, length, pitch, velocity: Note(onset / 50, (onset + length) / 50, pitch, velocity),
        st.integers(0, 60),
        st.integers(1, 30),
        st.integers(60, 63),
        st.integers(1, 127),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda note: (note.onset, note.pitch),
)


@given(truth=notes, found=notes)
@settings(max_examples=60, deadline=None)
def test_counts_equal_those_of_mir_eval(truth: list[Note], found: list[Note]) -> None:
    sides = []
    for side in (truth, found):
        intervals = np.array([(note.onset, note.offset) for note in side])
        hertz = mir_eval.util.midi_to_hz(np.array([note.pitch for note in side], float))
        sides += [intervals, hertz]
    assert len(match(truth, found)) == len(mir_eval.transcription.match_notes(*sides, offset_ratio=None))
    assert len(match(truth, found, offset_ratio=0.2)) == len(mir_eval.transcription.match_notes(*sides))


def test_velocity_counts_equal_those_of_mir_eval() -> None:
    random = np.random.default_rng(3)
    truth = [Note(float(i), i + 0.5, 60 + i % 20, int(random.integers(20, 120))) for i in range(60)]
    found = [
        changed(note, onset=note.onset + 0.01, velocity=int(np.clip(note.velocity + random.normal(0, 15), 1, 127)))
        for note in truth
        if random.random() < 0.8
    ]
    sides = []
    for side in (truth, found):
        hertz = mir_eval.util.midi_to_hz(np.array([note.pitch for note in side], float))
        velocities = np.array([note.velocity for note in side], float)
        sides += [np.array([(note.onset, note.offset) for note in side]), hertz, velocities]
    expected = mir_eval.transcription_velocity.match_notes(*sides, offset_ratio=None)
    matched = evaluate(Music(truth), Music(found)).onset_velocity.matched
    assert matched == len(expected)
    assert 0 < matched < len(found)
