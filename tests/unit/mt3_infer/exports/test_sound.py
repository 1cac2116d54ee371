"""Sound: every note is heard at its time and pitch, in blocks of bounded size, in files that players open."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pretty_midi
import pytest
from numpy.typing import NDArray

from mt3_infer import Note
from mt3_infer.errors import ExportTooLargeError
from mt3_infer.exports import export
from mt3_infer.exports.sound import render
from mt3_infer.symbolic.notes import Pedal
from tests.fakes import transcription

RATE = 22050
A4 = 69


def sound(notes: Sequence[Note], pedals: Sequence[Pedal] = (), length: float = 4.0) -> NDArray[np.float32]:
    return np.concatenate(list(render(notes, RATE, None, pedals, length)))[:, 0]


def level(samples: NDArray[np.float32], start: float, stop: float) -> float:
    """Root mean square of a stretch."""
    return float(np.sqrt(np.mean(samples[round(start * RATE) : round(stop * RATE)] ** 2)))


def pitch(samples: NDArray[np.float32], start: float, stop: float) -> float:
    part = samples[round(start * RATE) : round(stop * RATE)]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    return float(np.argmax(spectrum) * RATE / len(part))


@pytest.mark.parametrize("onset", [0.0, 0.3, 0.99999, 1.0, 2.5])
def test_a_note_sounds_from_its_onset_to_its_offset(onset: float) -> None:
    samples = sound([Note(onset, onset + 0.5, A4, 100)])
    assert level(samples, 0, onset - 0.01) == 0 if onset > 0.01 else True
    assert level(samples, onset, onset + 0.5) > 0.05
    assert level(samples, onset + 0.9, 4.0) < 0.001
    assert pitch(samples, onset, onset + 0.5) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("note", [Note(1, 2, 57, 90), Note(1, 2, 81, 90, 127), Note(1, 2, A4, 90, 0, True)])
def test_every_program_and_the_drums_sound(note: Note) -> None:
    samples = sound([note])
    assert level(samples, 1, 2) > 0.03
    assert pitch(samples, 1, 2) == pytest.approx(440 * 2 ** ((note.pitch - A4) / 12), rel=0.01)


def test_louder_notes_are_louder() -> None:
    assert level(sound([Note(0, 1, A4, 120)]), 0, 1) > 2 * level(sound([Note(0, 1, A4, 40)]), 0, 1)


def test_a_repeated_note_ends_once_for_each_stroke() -> None:
    samples = sound([Note(0, 1, A4, 100), Note(1, 2, A4, 100)])
    assert level(samples, 1.2, 1.9) > 0.05
    assert level(samples, 2.5, 3) < 0.001


def test_dense_music_does_not_clip() -> None:
    notes = [Note(0, 2, 40 + number % 60, 127, number % 30) for number in range(200)]
    samples = sound(notes)
    assert 0.8 < np.abs(samples).max() <= 1.0


def test_the_sustain_pedal_of_a_piano_holds_notes() -> None:
    notes = [Note(0, 0.5, A4, 100)]
    held = [Pedal(0.2, 2.0)]
    assert level(sound(notes, held), 1.5, 1.9) > 0.02
    assert level(sound(notes, held), 2.5, 3) < 0.001
    assert level(sound([Note(0, 0.5, A4, 100, 40)], held), 1.5, 1.9) < 0.001, "A violin has no pedal."
    assert level(sound(notes, [Pedal(0.2, 2.0, 67)]), 1.5, 1.9) < 0.001, "That is the soft pedal."


def test_sound_comes_in_blocks_of_a_second_however_long_it_is() -> None:
    blocks = render([Note(3599, 3599.5, A4, 100)], 8000)
    sizes = [len(block) for block in blocks]
    assert max(sizes) == 8000
    assert sum(sizes) == round((3599.5 + 2) * 8000)


@pytest.mark.parametrize("encoding", ["opus", "mp3", "wav"])
def test_files_last_as_long_as_the_recording_and_hold_the_notes(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    export(transcription([Note(1.0, 2.0, A4, 110)], 7.5), "audio", path, {"encoding": encoding})
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
    assert len(samples) / RATE == pytest.approx(7.5, abs=0.1)
    assert pitch(samples, 1.1, 1.9) == pytest.approx(440, abs=3)
    assert level(samples, 0, 0.9) < 0.01 < level(samples, 1.1, 1.9)


def test_no_notes_are_silence() -> None:
    silence = transcription([], 1.0).to_audio(RATE)
    assert silence.shape == (2 * RATE, 2)
    assert not silence.any()


def test_stems_are_a_midi_file_and_the_sound_of_each_instrument(tmp_path: Path) -> None:
    notes = [Note(0, 1, A4, 100), Note(1, 2, A4 - 12, 100, 40), Note(2, 3, 36, 100, 0, True)]
    export(transcription(notes, 4.0), "stems.zip", tmp_path / "stems.zip")
    with zipfile.ZipFile(tmp_path / "stems.zip") as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    assert [name.rpartition(".")[2] for name in files] == ["mid", "wav"] * 3
    for number, (midi, wav) in enumerate(zip(list(files)[::2], list(files)[1::2], strict=True)):
        (instrument,) = pretty_midi.PrettyMIDI(BytesIO(files[midi])).instruments
        assert (instrument.program, instrument.is_drum) == [(0, False), (40, False), (0, True)][number]
        with av.open(BytesIO(files[wav])) as container:
            assert (container.duration or 0) / 1e6 == pytest.approx(5.0, abs=0.01), "All start and end together."
            samples = np.concatenate([f.to_ndarray().ravel()[::2] for f in container.decode(audio=0)]) / 32768
        loud = [np.abs(samples[second * 44100 : (second + 1) * 44100]).max() > 0.05 for second in range(3)]
        assert loud.index(True) == number


def test_stems_without_sound_are_midi_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_SOUND_FONT", str(tmp_path / "none"))
    export(transcription(), "stems.zip", tmp_path / "stems.zip", {"sound": "none"})
    assert [name.rpartition(".")[2] for name in zipfile.ZipFile(tmp_path / "stems.zip").namelist()] == ["mid"]


def test_stems_of_too_much_sound_are_refused_with_what_helps(tmp_path: Path) -> None:
    notes = [Note(0, 1, 60, 100, program) for program in range(20)]
    with pytest.raises(ExportTooLargeError, match=r"20 instruments of 180 minutes .* sound=none"):
        export(transcription(notes, 3 * 3600), "stems.zip", tmp_path / "stems.zip")
    export(transcription(notes, 3 * 3600), "stems.zip", tmp_path / "stems.zip", {"sound": "none"})
