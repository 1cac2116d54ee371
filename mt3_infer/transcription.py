"""Transcription: the notes of one recording, where they came from, and the formats they are saved in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mt3_infer.errors import AudioWarning, InvalidOptionError
from mt3_infer.files import write_whole
from mt3_infer.symbolic.notes import Note

if TYPE_CHECKING:
    import pretty_midi

JSON_FORMAT = "mt3-infer/notes"
JSON_VERSION = 1


@dataclass(frozen=True)
class Provenance:
    """The origin of a transcription: everything needed to reproduce it."""

    model: str
    weights_sha256: str
    license: str
    library_version: str
    device: str
    seconds_taken: float
    options: dict[str, Any]
    counters: dict[str, int]


@dataclass(frozen=True)
class Transcription:
    """The notes of a recording.

    Attributes:
        notes: in the order of `mt3_infer.symbolic.notes.sort_notes`.
        duration: of the recording, in seconds.
        provenance: what made them.
        warnings: what was wrong with the recording but did not stop the transcription.
    """

    notes: list[Note]
    duration: float
    provenance: Provenance
    warnings: tuple[AudioWarning, ...] = ()

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file of the kind that its name ends in: .mid, .midi or .json.

        A file that is there is replaced. If that fails, on a full disk for example, it is left untouched.

        Raises:
            InvalidOptionError: another ending.
            OSError: it cannot be written.
        """
        target = Path(path)
        match target.suffix.lower():
            case ".mid" | ".midi":
                write_whole(target, self.to_midi())
            case ".json":
                write_whole(target, self.to_json().encode())
            case suffix:
                raise InvalidOptionError(f"Cannot save as {suffix!r}: name the file .mid, .midi or .json.")

    def to_midi(self) -> bytes:
        """The notes as a standard MIDI file; see `mt3_infer.symbolic.midi`."""
        from mt3_infer.symbolic.midi import notes_to_midi

        return notes_to_midi(self.notes)

    def to_json(self) -> str:
        """Return the notes, their provenance and the warnings as JSON, one note a line."""
        head = json.dumps(
            {
                "format": JSON_FORMAT,
                "version": JSON_VERSION,
                "duration": round(self.duration, 6),
                "provenance": asdict(self.provenance),
                "warnings": [asdict(warning) for warning in self.warnings],
            }
        )
        notes = ",\n".join(json.dumps(_rounded(note)) for note in self.notes)
        return f'{head[:-1]}, "notes": [\n{notes}\n]}}\n'

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """The MIDI file as a `pretty_midi` object, for further work in Python."""
        import pretty_midi

        return pretty_midi.PrettyMIDI(BytesIO(self.to_midi()))


def _rounded(note: Note) -> dict[str, Any]:
    """The note's fields, times to the microsecond: below a sample, and half as many bytes."""
    return asdict(note) | {"onset": round(note.onset, 6), "offset": round(note.offset, 6)}
