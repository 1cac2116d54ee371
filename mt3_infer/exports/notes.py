"""Notes as files of notes: MIDI, notes.json and CSV."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from mt3_infer.exports import Export
from mt3_infer.exports.options import ExportOptions, GridOptions, MidiExportOptions
from mt3_infer.symbolic.instruments import program_name
from mt3_infer.symbolic.notes import Note

if TYPE_CHECKING:
    from mt3_infer.transcription import Transcription

COLUMN_TYPES: dict[str, type] = {
    "onset": float,
    "offset": float,
    "pitch": int,
    "velocity": int,
    "program": int,
    "instrument": str,
    "is_drum": bool,
    "confidence": float,
}
COLUMNS = tuple(COLUMN_TYPES)


def write_midi(export: Export[MidiExportOptions]) -> None:
    """Write a MIDI file, or an archive with one for each instrument."""
    transcription = export.transcription.corrected(export.options)
    if export.options.split == "none":
        export.path.write_bytes(transcription.to_midi(export.options))
        return
    with zipfile.ZipFile(export.path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in transcription.to_midi_files(export.options).items():
            archive.writestr(name, content)


def write_json(export: Export[GridOptions]) -> None:
    """Write notes.json."""
    export.path.write_text(export.transcription.corrected(export.options).to_json(), encoding="utf-8")


def write_csv(export: Export[ExportOptions]) -> None:
    """Write a table of notes."""
    with export.path.open("w", encoding="utf-8", newline="") as file:
        _write_rows(export.transcription.notes, file)


def to_csv(transcription: Transcription) -> str:
    """Return the notes as a table with a header."""
    text = io.StringIO()
    _write_rows(transcription.notes, text)
    return text.getvalue()


def to_columns(transcription: Transcription) -> dict[str, list[Any]]:
    """Return the notes by column, in the order of the columns of a table."""
    rows = [asdict(note) | {"instrument": _instrument(note)} for note in transcription.notes]
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _write_rows(notes: Sequence[Note], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\r\n")  # as RFC 4180 has it
    writer.writerow(COLUMNS)
    writer.writerows(_rows(notes))


def _rows(notes: Sequence[Note]) -> Iterator[list[Any]]:
    for note in notes:
        row = asdict(note) | {"instrument": _instrument(note), "is_drum": str(note.is_drum).lower()}
        row |= {"onset": f"{note.onset:.6f}", "offset": f"{note.offset:.6f}"}
        yield [row[name] for name in COLUMNS]


def _instrument(note: Note) -> str:
    return program_name(note.program, note.is_drum)
