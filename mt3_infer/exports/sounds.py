"""The sounds of a transcription's instruments, as samples for a player: a few notes of each, in one archive.

A player shifts the nearest sample to the pitch that it needs, and repeats the loop of one that does not fade away.
The archive holds `index.json` and an Opus file for each sample.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt3_infer.exports import Export
from mt3_infer.exports.options import ExportOptions
from mt3_infer.exports.sound import BLOCK_SECONDS, ENCODINGS, encode, render
from mt3_infer.symbolic.notes import Note, by_instrument

ENCODING = "opus"
RATE = ENCODINGS[ENCODING][2]
STEP = 3  # semitones from one sample to the next
SLOT = 6  # seconds from one note to the next while they are recorded
SECONDS = 5.0  # of a sample
DRUM_SECONDS = 2.5
VELOCITY = 100
LOOP = (1.5, 4.5)  # seconds
CROSSFADE = 0.4  # seconds before the ends of the loop
SUSTAINED_DB = -4.0  # how much softer the end of a loop may be than its beginning


def write_sounds(export: Export[ExportOptions]) -> None:
    """Write the archive.

    Raises:
        MissingDependencyError, MissingSoundFontError, CheckpointError: see `mt3_infer.exports.sound.render`.
    """
    wanted = list(samples_of(export.transcription.notes))
    index: list[dict[str, Any]] = []
    with zipfile.ZipFile(export.path, "w", zipfile.ZIP_STORED) as archive:
        for note, sound in zip(wanted, _record(wanted, export), strict=True):
            loop = None if note.is_drum else _make_loop(sound)
            name = f"{'drums' if note.is_drum else f'{note.program:03}'}-{note.pitch:03}.{ENCODING}"
            archive.writestr(zipfile.ZipInfo(name), _encoded(sound[: round(note.offset * RATE)]))
            row = {"program": note.program, "is_drum": note.is_drum, "pitch": note.pitch}
            index.append(row | {"velocity": VELOCITY, "file": name, "loop": loop})
            export.progress(len(index) / len(wanted))
        content = {"format": "mt3-infer/sounds", "version": 1, "samples": index}
        archive.writestr(zipfile.ZipInfo("index.json"), json.dumps(content))


def samples_of(notes: Sequence[Note]) -> Iterator[Note]:
    """Yield the notes to record: every third pitch of an instrument from its lowest to its highest, each drum."""
    for (is_drum, program), group in by_instrument(notes):
        pitches = sorted({note.pitch for note in group})
        if not is_drum:
            pitches = list(range(pitches[0], pitches[-1] + STEP, STEP))
        seconds = DRUM_SECONDS if is_drum else SECONDS
        for pitch in pitches:
            yield Note(0.0, seconds, min(pitch, 127), VELOCITY, program, is_drum)


def _record(wanted: Sequence[Note], export: Export[ExportOptions]) -> Iterator[NDArray[np.float32]]:
    """Yield the sound of each note, shape (S,), from one run of the synthesizer."""
    if not wanted:
        return
    notes = [
        replace(note, onset=float(number * SLOT), offset=number * SLOT + note.offset)
        for number, note in enumerate(wanted)
    ]
    blocks = render(notes, RATE, export.sound_font(), length=float(len(notes) * SLOT))
    per_note = round(SLOT / BLOCK_SECONDS)
    while pieces := list(islice(blocks, per_note)):
        yield np.concatenate(pieces).mean(axis=1)


def _make_loop(sound: NDArray[np.float32]) -> tuple[float, float] | None:
    """Return the ends of the loop of a sound that lasts, and fade its end into what comes before its beginning."""
    start, end, fade = (round(seconds * RATE) for seconds in (*LOOP, CROSSFADE))
    if _level(sound[end - fade : end]) < _level(sound[start : start + fade]) + SUSTAINED_DB:
        return None
    rising = np.sqrt(np.linspace(0, 1, fade, dtype=np.float32))
    sound[end - fade : end] = sound[end - fade : end] * rising[::-1] + sound[start - fade : start] * rising
    return LOOP


def _level(sound: NDArray[np.float32]) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(sound**2)) + 1e-9))


def _encoded(sound: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    stereo = np.repeat(sound[:, np.newaxis], 2, axis=1)
    encode((stereo[start : start + RATE] for start in range(0, len(stereo), RATE)), file, ENCODING, "")
    return file.getvalue()
