"""Samples of the instruments for a player: which are recorded, and what is in them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mt3_infer.exports import export
from mt3_infer.exports.sounds import samples_of
from mt3_infer.symbolic.notes import Note
from mt3_infer.transcription import Provenance, Transcription
from tests.sound_fonts import write_sound_font

ORIGIN = Provenance("m", "0" * 64, "MIT", "1", "cpu", 1.0, {}, {})


def test_every_pitch_has_a_sample_near_it_and_every_drum_its_own() -> None:
    notes = [Note(0, 1, pitch, 80, 40) for pitch in (50, 53, 71)]
    notes += [Note(0, 1, key, 80, 9, is_drum=True) for key in (36, 49)] + [Note(0, 1, 127, 80, 0)]
    found = list(samples_of(notes))
    violin = [note.pitch for note in found if note.program == 40 and not note.is_drum]
    assert all(min(abs(pitch - sample) for sample in violin) <= 1 for pitch in range(50, 72))
    assert [note.pitch for note in found if note.is_drum] == [36, 49]
    assert max(note.pitch for note in found) == 127


def samples(path: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        rows = json.loads(archive.read("index.json"))["samples"]
        sounds = {}
        for row in rows:
            with av.open(io.BytesIO(archive.read(row["file"]))) as container:
                frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            sounds[row["file"]] = np.concatenate([np.atleast_2d(frame)[0] for frame in frames], axis=-1)
    return rows, sounds


def test_archive_holds_the_sound_of_each_sample(tmp_path: Path) -> None:
    notes = [Note(0, 1, 60, 80, 40), Note(0, 1, 72, 80, 40), Note(0, 1, 36, 80, is_drum=True)]
    row = export(
        Transcription(notes, 2.0, ORIGIN),
        "sounds",
        tmp_path / "sounds.zip",
        sound_font=write_sound_font(tmp_path / "tone.sf2"),
    )
    assert row.name == "sounds"
    rows, sounds = samples(tmp_path / "sounds.zip")
    assert [(r["program"], r["pitch"], r["is_drum"]) for r in rows] == [
        *((40, pitch, False) for pitch in (60, 63, 66, 69, 72)),
        (0, 36, True),
    ]
    for each in rows:
        sound = sounds[each["file"]]
        spectrum = np.abs(np.fft.rfft(sound[4_800:52_800]))
        frequency = float(np.argmax(spectrum))  # of one second, so in Hz
        assert frequency == pytest.approx(440 * 2 ** ((each["pitch"] - 69) / 12), rel=0.02)
        assert each["loop"] is None, "a tone that fades away is not repeated"


def test_no_notes_make_an_empty_archive(tmp_path: Path) -> None:
    export(Transcription([], 2.0, ORIGIN), "sounds", tmp_path / "sounds.zip", sound_font=tmp_path / "none.sf2")
    assert samples(tmp_path / "sounds.zip") == ([], {})
