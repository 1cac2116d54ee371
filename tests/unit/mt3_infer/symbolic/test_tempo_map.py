"""A MIDI file's beats and bars fall on the music, while notes keep their times."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import mido
import numpy as np
import pretty_midi
import pytest

from mt3_infer import Note
from mt3_infer.symbolic.grid import MODES, TONICS, BeatGrid, beats_in_bar, tempo_of
from mt3_infer.symbolic.midi import notes_to_midi, notes_to_midi_files
from mt3_infer.symbolic.midi_options import MidiOptions
from mt3_infer.symbolic.notes import Pedal
from mt3_infer.symbolic.tempo_map import MAX_TICKS, follow_grid
from tests.music import accompaniment, times

MILLISECOND = 0.001


def grid_of(beats: list[float], meter: str, *, pick_up: int = 0) -> BeatGrid:
    return BeatGrid(tuple(beats), tuple(beats[pick_up :: beats_in_bar(meter)]), meter, tempo_of(beats), "G major")


def read(midi: bytes) -> pretty_midi.PrettyMIDI:
    return pretty_midi.PrettyMIDI(BytesIO(midi))


def notes_of(file: pretty_midi.PrettyMIDI) -> list[tuple[float, float, int]]:
    return sorted((n.start, n.end, n.pitch) for part in file.instruments for n in part.notes)


def assert_same_times(notes: list[Note], file: pretty_midi.PrettyMIDI, within: float = MILLISECOND) -> None:
    expected = sorted((n.onset, n.offset, n.pitch) for n in notes)
    found = notes_of(file)
    assert len(found) == len(expected)
    for column in (0, 1):
        differences = [
            abs(a[column] - b[column])
            for a, b in zip(
                sorted(found, key=lambda n: (n[2], n[column])),
                sorted(expected, key=lambda n: (n[2], n[column])),
                strict=True,
            )
        ]
        assert max(differences) <= within


def since(times: np.ndarray, start: float, end: float) -> np.ndarray:
    return times[(times >= start - MILLISECOND) & (times <= end + MILLISECOND)]


@pytest.mark.parametrize("meter", ["2/4", "3/4", "4/4", "6/8", "9/8", "12/8", "5/4", "3/8"])
@pytest.mark.parametrize("start", [0.0, 0.0003, 0.05, 0.25, 1.7, 20.0])
def test_beats_and_bars_of_the_file_are_those_of_the_grid(meter: str, start: float) -> None:
    size = beats_in_bar(meter)
    beats = times(50, 95, start=start, sway=0.2)
    notes = accompaniment(beats, size)
    for pick_up in (0, 1, size - 1):
        grid = grid_of(beats, meter, pick_up=pick_up)
        file = read(notes_to_midi(notes, grid))
        last = beats[-2]
        assert since(file.get_downbeats(), grid.downbeats[0], last) == pytest.approx(
            [beat for beat in grid.downbeats if beat <= last], abs=MILLISECOND
        )
        assert since(file.get_beats(), grid.downbeats[0], last) == pytest.approx(
            [beat for beat in beats[pick_up:] if beat <= last], abs=MILLISECOND
        )
        assert not len(since(file.get_downbeats(), beats[0] + 0.01, grid.downbeats[0] - 0.01))
        assert_same_times(notes, file)


def test_irregular_bars_have_time_signatures_of_their_own() -> None:
    beats = times(30, 100)
    grid = replace(grid_of(beats, "4/4"), downbeats=tuple(beats[i] for i in (0, 4, 7, 11, 13, 17, 25)))
    file = read(notes_to_midi(accompaniment(beats, 4), grid))
    expected = [beats[i] for i in (0, 4, 7, 11, 13, 17, 21, 25)]  # a bar of eight beats is two
    assert since(file.get_downbeats(), beats[0], beats[28]) == pytest.approx(expected, abs=MILLISECOND)
    assert [s.numerator for s in file.time_signature_changes][-5:] == [4, 3, 4, 2, 4]


def test_nothing_drifts_in_three_hours() -> None:
    beats = times(18_000, 97, sway=0.1)
    assert beats[-1] > 3 * 3600
    notes = [Note(beat + 0.003, beat + 0.2, 60, 80) for beat in beats]
    midi = notes_to_midi(notes, grid_of(beats, "4/4"))
    assert sum(message.time for message in mido.MidiFile(file=BytesIO(midi)).tracks[1]) < MAX_TICKS
    file = read(midi)
    assert_same_times(notes, file)
    changes, _ = file.get_tempo_changes()
    assert max(abs(changes[-1000:] - np.array(beats[len(beats) - 1001 : -1]))) < 1e-4


@pytest.mark.parametrize("bpm", [25.0, 300.0])
def test_notes_keep_their_times_at_every_tempo(bpm: float) -> None:
    beats = times(40, bpm)
    notes = [Note(b + k / 7, b + k / 7 + 0.05, 50 + k, 80) for b in beats for k in range(5)]
    assert_same_times(notes, read(notes_to_midi(notes, grid_of(beats, "3/4"))))


@pytest.mark.parametrize(
    "grid",
    [
        BeatGrid(),
        BeatGrid((1.0,), (1.0,), "4/4"),
        BeatGrid((1.0, 2.0), (1.0,), ""),
        BeatGrid((1.0, 30.0), (1.0,), "4/4"),
    ],
    ids=["empty", "one beat", "no meter", "a gap of 29 s"],
)
def test_grids_that_no_file_can_have_become_120_a_minute(grid: BeatGrid) -> None:
    assert follow_grid(grid, 40.0) is None
    notes = [Note(0.5, 1.5, 60, 80)]
    assert notes_to_midi(notes, grid) == notes_to_midi(notes)


def test_a_fixed_tempo_has_no_bars_of_the_music() -> None:
    beats = times(20, 95)
    notes = accompaniment(beats, 3)
    file = read(notes_to_midi(notes, grid_of(beats, "3/4"), MidiOptions(tempo="fixed")))
    assert file.get_tempo_changes()[1].tolist() == [120]
    assert file.time_signature_changes == []
    assert_same_times(notes, file)


@pytest.mark.parametrize("mode", MODES)
def test_every_key_is_written(mode: str) -> None:
    for tonic in TONICS[mode]:
        midi = notes_to_midi([Note(0, 1, 60, 80)], BeatGrid(key=f"{tonic} {mode}"))
        (signature,) = read(midi).key_signature_changes
        assert pretty_midi.key_number_to_key_name(signature.key_number).replace("b", "").split()[1].lower() == mode
        names = [m.key for m in mido.MidiFile(file=BytesIO(midi)).tracks[0] if m.type == "key_signature"]
        assert names == [tonic + ("m" if mode == "minor" else "")]


def test_quantized_notes_move_toward_the_lines_by_the_strength() -> None:
    beats = times(20, 60, sway=0.0, start=0.0)
    notes = [Note(1.1, 1.6, 60, 80), Note(2.45, 3.0, 62, 80)]
    grid = grid_of(beats, "4/4")

    def onsets(strength: float, lines: str) -> list[float]:
        options = MidiOptions.model_validate({"quantize_strength": strength, "quantize_grid": lines})
        return [start for start, _, _ in notes_of(read(notes_to_midi(notes, grid, options)))]

    assert onsets(0.0, "1/8") == pytest.approx([1.1, 2.45], abs=MILLISECOND)
    assert onsets(0.5, "1/8") == pytest.approx([1.05, 2.475], abs=MILLISECOND)
    assert onsets(1.0, "1/8") == pytest.approx([1.0, 2.5], abs=MILLISECOND)
    assert onsets(1.0, "1/4") == pytest.approx([1.0, 2.0], abs=MILLISECOND)
    assert onsets(1.0, "1/8t") == pytest.approx([1.0, 2 + 1 / 3], abs=MILLISECOND)


def test_quantized_notes_keep_their_lengths_and_need_beats() -> None:
    options = MidiOptions(quantize_strength=1.0)
    notes = [Note(1.07, 1.57, 60, 80)]
    (note,) = notes_of(read(notes_to_midi(notes, grid_of(times(9, 60, sway=0), "6/8"), options)))
    assert note[1] - note[0] == pytest.approx(0.5, abs=MILLISECOND)
    assert note[0] != pytest.approx(1.07, abs=MILLISECOND)
    assert_same_times(notes, read(notes_to_midi(notes, BeatGrid(), options)))


def test_a_file_for_each_instrument() -> None:
    notes = [Note(0, 1, 60, 80, 40), Note(1, 2, 64, 80, 0), Note(0.5, 0.6, 38, 80, is_drum=True)]
    files = notes_to_midi_files(notes, None, MidiOptions(split="instrument"))
    assert list(files) == ["acoustic-grand-piano.mid", "violin.mid", "drums.mid"]
    for midi, pitch in zip(files.values(), (64, 60, 38), strict=True):
        assert [note[2] for note in notes_of(read(midi))] == [pitch]
    assert list(notes_to_midi_files(notes)) == ["transcription.mid"]


def test_drums_of_a_basic_kit() -> None:
    drums = [
        Note(0.1 * i, 0.1 * i + 0.05, key, 80, is_drum=True) for i, key in enumerate((35, 36, 40, 44, 57, 81))
    ]
    pitched = [Note(0, 1, 40, 80)]
    file = read(notes_to_midi(drums + pitched, None, MidiOptions(drum_map="basic")))
    assert sorted(note[2] for note in notes_of(file)) == sorted([36, 36, 38, 42, 49, 81, 40])


def test_pedals_are_those_of_the_keyboards() -> None:
    notes = [Note(0, 3, 60, 80, 0), Note(0, 3, 60, 80, 40)]
    pedals = [Pedal(0.5, 1.0), Pedal(1.0, 2.0), Pedal(1.5, 2.5, controller=67)]
    piano, violin = read(notes_to_midi(notes, pedals=pedals)).instruments
    changes = [(c.number, c.value, round(c.time, 2)) for c in piano.control_changes]
    assert sorted(changes, key=lambda c: (c[2], c[1])) == [
        (64, 127, 0.5),
        (64, 0, 1.0),
        (64, 127, 1.0),
        (67, 127, 1.5),
        (64, 0, 2.0),
        (67, 0, 2.5),
    ]
    assert violin.control_changes == []
