"""MusicXML is valid whatever the notes and the grid are, and says what the music says."""

from __future__ import annotations

import random
import warnings
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3_infer import InvalidOptionError, Note
from mt3_infer.exports.options import ScoreOptions
from mt3_infer.score import to_musicxml
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.transcription import Transcription
from tests.fakes import transcription

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    music21 = pytest.importorskip("music21")


def with_grid(notes: list[Note], grid: BeatGrid) -> Transcription:
    return Transcription(notes, 100.0, transcription().provenance, grid=grid)


def steady(beats: int, per_bar: int, *, bpm: float = 120, meter: str = "4/4", key: str = "C major") -> BeatGrid:
    times = tuple(i * 60 / bpm for i in range(beats))
    return BeatGrid(times, times[::per_bar], meter, bpm, key)


def score_of(notes: list[Note], grid: BeatGrid, **options: Any) -> ET.Element:
    root = ET.fromstring(to_musicxml(with_grid(notes, grid), ScoreOptions.model_validate(options)))
    check(root)
    return root


def check(root: ET.Element) -> None:
    """Raise unless every voice of every bar sums to the bar's length, and ties and tuplets are closed."""
    assert root.tag == "score-partwise"
    assert root.get("version") == "4.0"
    listed = [part.get("id") for part in root.findall("part-list/score-part")]
    assert listed == [part.get("id") for part in root.findall("part")]
    lengths: defaultdict[str, set[int]] = defaultdict(set)
    for part in root.findall("part"):
        ties: set[tuple[str, ...]] = set()
        for measure in part.findall("measure"):
            lengths[measure.get("number") or ""].add(_check_measure(measure, ties))
        assert not ties, "a tie is not ended"
    assert all(len(found) == 1 for found in lengths.values()), "a bar has one length in all parts"


def _check_measure(measure: ET.Element, ties: set[tuple[str, ...]]) -> int:
    now, ends, tuplets = 0, set(), 0
    for event in measure:
        duration = int(event.findtext("duration") or 0)
        if event.tag == "backup":
            ends.add(now)
            now -= duration
            assert now == 0, "each voice begins with the bar"
        elif event.tag == "forward":
            now += duration
        elif event.tag == "note":
            assert (event.find("grace") is not None) == (duration == 0)
            if event.find("chord") is None:
                now += duration
            _check_ties(event, ties)
            marks = [mark.get("type") for mark in event.findall("notations/tuplet")]
            tuplets += marks.count("start")
            if marks:
                assert event.find("time-modification") is not None
            tuplets -= marks.count("stop")
            assert tuplets in (0, 1)
    assert tuplets == 0, "a tuplet is not ended"
    ends.add(now)
    assert len(ends) == 1, f"voices of bar {measure.get('number')} have different lengths: {ends}"
    return now


def _check_ties(note: ET.Element, ties: set[tuple[str, ...]]) -> None:
    key = tuple(f"{e.tag}={e.text}" for part in ("pitch", "unpitched") for e in note.findall(f"{part}/*"))
    # Two drums of one line differ in their heads.
    key += (note.findtext("staff") or "1", note.findtext("voice") or "1", note.findtext("notehead") or "normal")
    types = [tie.get("type") for tie in note.findall("tie")]
    if "stop" in types:
        assert key in ties, f"a tie ends that did not begin: {key}"
        ties.remove(key)
    if "start" in types:
        ties.add(key)


def sounding(root: ET.Element) -> Iterator[tuple[Fraction, int]]:
    """Yield onset in quarters and MIDI pitch of each note of a score as music21 reads it, without tied ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = music21.converter.parse(ET.tostring(root, encoding="unicode"), format="musicxml").toSoundingPitch()
    for note in score.flatten().notes:
        if note.tie is None or note.tie.type == "start":
            for pitch in note.pitches:
                yield Fraction(note.offset).limit_denominator(48), pitch.midi


NOTES = st.lists(
    st.builds(
        lambda onset, length, pitch, program, is_drum: Note(onset, onset + length, pitch, 80, program, is_drum),
        st.floats(0, 12),
        st.floats(0, 4),
        st.integers(0, 127),
        st.sampled_from([0, 0, 0, 24, 33, 40, 52, 56, 65, 71]),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=40,
)
KEYS = ["", "C major", "F# major", "Eb minor", "Db major", "G# minor", "A minor"]


@st.composite
def grids(draw: st.DrawFn) -> BeatGrid:
    """Return any grid: none, few beats, irregular ones, that begin late or end early, with odd bars."""
    gaps = draw(st.lists(st.floats(0.2, 1.5), max_size=25))
    beats, now = [], draw(st.floats(0, 5))
    for gap in gaps:
        beats.append(now)
        now += gap
    bars = draw(st.lists(st.booleans(), min_size=len(beats), max_size=len(beats)))
    downbeats = tuple(beat for beat, begins in zip(beats, bars, strict=True) if begins)
    meter = draw(st.sampled_from(["", "2/4", "3/4", "4/4", "6/8", "9/8", "12/8", "5/4"]))
    return BeatGrid(
        tuple(beats), downbeats, meter, draw(st.sampled_from([0.0, 100.0])), draw(st.sampled_from(KEYS))
    )


@settings(max_examples=60, deadline=None)
@given(
    NOTES,
    grids(),
    st.sampled_from(["auto", "on"]),
    st.sampled_from(["written", "concert", "b_flat", "e_flat", "f"]),
)
def test_any_notes_on_any_grid_make_a_valid_score(
    notes: list[Note], grid: BeatGrid, swing: str, pitch: str
) -> None:
    root = score_of(notes, grid, swing=swing, pitch=pitch)
    list(sounding(root))


def test_hundreds_of_notes_at_once_make_a_valid_score() -> None:
    rule = random.Random(1)
    notes = [Note(0.5, rule.uniform(0.6, 4), rule.randrange(128), 80, rule.randrange(128)) for _ in range(300)]
    score_of(notes, steady(12, 4))


def test_a_melody_is_written_as_it_was_played() -> None:
    pitches = [60, 62, 64, 65, 67, 65, 64, 62, 60]
    at = [0, 0.5, 1, 1.25, 1.5, 2, 3, 3.5, 4]  # in beats
    rule = random.Random(2)
    notes = [
        Note(max(0, b * 0.5 + rule.uniform(-0.015, 0.015)), b * 0.5 + 0.2, p, 80, 40)
        for b, p in zip(at, pitches, strict=True)
    ]
    found = sorted(sounding(score_of(notes, steady(9, 4))))
    assert found == [(Fraction(b), p) for b, p in zip(at, pitches, strict=True)]


def test_triplets_are_written_only_where_they_are_played() -> None:
    notes = [Note(i / 6, i / 6 + 0.15, 60 + i, 80, 40) for i in range(3)]
    notes += [Note(0.5 + i / 4, 0.5 + i / 4 + 0.2, 65 + i, 80, 40) for i in range(6)]
    root = score_of(notes, steady(9, 4))
    modified = [n for n in root.iter("note") if n.find("time-modification") is not None]
    assert len(modified) == 3
    assert sorted(sounding(root))[:4] == [(Fraction(0), 60), (Fraction(1, 3), 61), (Fraction(2, 3), 62), (1, 65)]


def test_a_piano_has_two_staves_with_a_hand_each() -> None:
    alberti = [72, 79, 76, 79]  # above middle C, below the melody
    notes = [Note(i / 4, i / 4 + 0.24, alberti[i % 4] - 12, 70) for i in range(16)]
    notes += [Note(float(i), i + 0.95, 84 + i, 90) for i in range(4)]
    (part,) = score_of(notes, steady(9, 4)).findall("part")
    hands: defaultdict[str, set[int]] = defaultdict(set)
    for note in part.iter("note"):
        if note.find("pitch") is not None:
            step = "C D EF G A B".index(note.findtext("pitch/step") or "")
            hands[note.findtext("staff") or ""].add(12 * (int(note.findtext("pitch/octave") or 0) + 1) + step)
    assert hands["1"] == {84, 85, 86, 87} or min(hands["1"]) >= 84
    assert max(hands["2"]) < 84


def test_drums_are_unpitched_on_a_staff_of_their_own() -> None:
    notes = [Note(i / 2, i / 2 + 0.01, 36 if i % 2 == 0 else 38, 90, 0, True) for i in range(8)]
    notes += [Note(i / 4, i / 4 + 0.01, 42, 70, 0, True) for i in range(16)]
    notes += [Note(float(i), i + 0.9, 40 + i, 80, 33) for i in range(4)]
    root = score_of(notes, steady(9, 4))
    names = [part.findtext("part-name") for part in root.findall("part-list/score-part")]
    assert names[-1] == "Drums"
    drums = root.findall("part")[-1]
    assert drums.findtext("measure/attributes/clef/sign") == "percussion"
    assert drums.find(".//pitch") is None
    assert {note.findtext("notehead") for note in drums.iter("note")} >= {"x"}


@pytest.mark.parametrize(("program", "chromatic"), [(71, "-2"), (65, "-9"), (56, "-2"), (60, "-7")])
def test_transposing_instruments_sound_as_transcribed(program: int, chromatic: str) -> None:
    notes = [Note(i / 2, i / 2 + 0.4, 60 + i, 80, program) for i in range(8)]
    root = score_of(notes, steady(9, 4))
    assert root.findtext("part/measure/attributes/transpose/chromatic") == chromatic
    assert [pitch for _, pitch in sorted(sounding(root))] == list(range(60, 68))
    concert = score_of(notes, steady(9, 4), pitch="concert")
    assert concert.find("part/measure/attributes/transpose") is None


@pytest.mark.parametrize(("pitch", "chromatic"), [("b_flat", "-2"), ("e_flat", "-9"), ("f", "-7")])
def test_a_score_is_written_for_an_instrument_of_choice(pitch: str, chromatic: str) -> None:
    notes = [Note(i / 2, i / 2 + 0.4, 60 + i, 80, 0) for i in range(8)]
    root = score_of(notes, steady(9, 4), pitch=pitch)
    assert root.findtext("part/measure/attributes/transpose/chromatic") == chromatic
    assert [sounds for _, sounds in sorted(sounding(root))] == list(range(60, 68))


def test_only_chosen_instruments_are_written() -> None:
    notes = [Note(i / 2, i / 2 + 0.4, 60 + i, 80, program) for i in range(8) for program in (0, 40)]
    notes += [Note(i / 2, i / 2 + 0.1, 38, 80, is_drum=True) for i in range(8)]
    for programs, names in (((40,), ["Violin"]), ((128, 40), ["Violin", "Drums"])):
        root = score_of(notes, steady(9, 4), programs=programs)
        assert [name.text for name in root.iter("part-name")] == names
    with pytest.raises(InvalidOptionError) as caught:
        score_of(notes, steady(9, 4), programs=(7,))
    assert str(caught.value) == (
        "No note is played by the chosen programs. "
        "Choose among: 0 (Acoustic Grand Piano), 40 (Violin), 128 (Drums)."
    )
    assert [name.text for name in score_of([], steady(9, 4), programs=(7,)).iter("part-name")] == ["Piano"]


def test_steady_off_beats_on_two_thirds_are_written_as_swing() -> None:
    notes = [Note(i / 2 + off, i / 2 + off + 0.15, 60 + i % 5, 80, 65) for i in range(24) for off in (0, 1 / 3)]
    root = score_of(notes, steady(26, 4), pitch="concert")
    assert "Swing" in [words.text for words in root.iter("words")]
    assert root.find(".//time-modification") is None
    straight = score_of(notes, steady(26, 4), swing="off", pitch="concert")
    assert straight.find(".//time-modification") is not None


def test_a_pick_up_is_a_short_first_bar() -> None:
    grid = BeatGrid(tuple(i / 2 for i in range(10)), (0.5, 2.0, 3.5), "3/4", 120, "G major")
    notes = [Note(i / 2, i / 2 + 0.4, 67 + i, 80, 40) for i in range(9)]
    first, second, *_ = score_of(notes, grid).findall("part/measure")
    assert (first.get("number"), first.get("implicit"), second.get("number")) == ("0", "yes", "1")
    assert len([note for note in first.iter("note") if note.find("rest") is None]) == 1


@pytest.mark.parametrize(
    ("key", "fifths", "pitches", "names"),
    [
        ("Eb major", "-3", [63, 65, 67, 70], ["E-", "F", "G", "B-"]),
        ("E major", "4", [64, 66, 68, 71], ["E", "F#", "G#", "B"]),
        ("D minor", "-1", [62, 65, 73, 74], ["D", "F", "C#", "D"]),
        ("F# minor", "3", [66, 69, 73], ["F#", "A", "C#"]),
    ],
)
def test_notes_are_spelled_in_their_key(key: str, fifths: str, pitches: list[int], names: list[str]) -> None:
    notes = [Note(i / 2, i / 2 + 0.4, pitch, 80, 40) for i, pitch in enumerate(pitches)]
    root = score_of(notes, steady(9, 4, key=key))
    assert root.findtext("part/measure/attributes/key/fifths") == fifths
    signs = {"-1": "-", "1": "#", None: ""}
    found = [
        f"{note.findtext('pitch/step')}{signs[note.findtext('pitch/alter')]}"
        for note in root.iter("note")
        if note.find("pitch") is not None and "stop" not in [tie.get("type") for tie in note.findall("tie")]
    ]
    assert found == names


def test_corrections_of_the_grid_apply_to_the_score() -> None:
    notes = [Note(i / 2, i / 2 + 0.45, 60 + i, 80, 40) for i in range(8)]
    as_found = score_of(notes, steady(17, 4))
    halved = score_of(notes, steady(17, 4), level="half")
    assert len(halved.findall("part/measure")) == len(as_found.findall("part/measure")) / 2
    assert (as_found.findtext(".//note/type"), halved.findtext(".//note/type")) == ("quarter", "eighth")
    waltz = score_of(notes, steady(17, 4), meter="3/4")
    assert waltz.findtext("part/measure/attributes/time/beats") == "3"


def test_title_tempo_and_origin_are_in_the_file() -> None:
    root = score_of([Note(0.0, 1.0, 60, 80)], steady(5, 4, bpm=96), title="Für <Elise> & co")
    assert root.findtext("work/work-title") == "Für <Elise> & co"
    assert root.findtext(".//metronome/per-minute") == "96"
    fields = {e.get("name"): e.text for e in root.iter("miscellaneous-field")}
    assert fields["model"] == "basic_pitch"
    assert fields["license-of-weights"] == "Apache-2.0"
