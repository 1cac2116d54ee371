"""Exports: files made from the notes of a transcription, at any time and without its network.

`FORMATS` is the one table. Importing it is quick and needs pydantic only: web reads it to check options. A new
format is a row here and a function that writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeAlias, TypeVar

from mt3_infer.errors import InvalidOptionError, MissingDependencyError, UnknownFormatError
from mt3_infer.exports.options import (
    AudioOptions,
    ExportOptions,
    GridOptions,
    MidiExportOptions,
    ScoreOptions,
    StemsOptions,
)
from mt3_infer.files import replacing
from mt3_infer.options import check_options

if TYPE_CHECKING:
    from mt3_infer.audio import AudioStream
    from mt3_infer.transcription import Transcription

    Recording: TypeAlias = AudioStream | str | PathLike[str] | BinaryIO

# By name, since web reads this table and has none of the packages that it takes.
FIND_SOUND_FONT = "mt3_infer.exports.soundfont:find_sound_font"

Taken = TypeVar("Taken", bound=ExportOptions)


def _ignore(fraction: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Export(Generic[Taken]):
    """The input of a function that writes a format.

    Attributes:
        path: the file to write.
        audio: the recording, for formats that need it.
        sound_font: returns the file to render sound with, fetching it if need be.
        progress: called with the fraction that is done. What it raises ends the export and is let through.
    """

    transcription: Transcription
    options: Taken
    path: Path
    audio: Recording | None
    sound_font: Callable[[], Path]
    progress: Callable[[float], None]


@dataclass(frozen=True)
class ExportFormat:
    """One row of the table.

    Attributes:
        write: "module:function"; the function takes an `Export`.
        files: name and content type of the file. With several rows, the key is the value of `chosen_by`.
        chosen_by: the option that decides which of them is written.
        needs_recording: it is made from the recording, too.
        sample_rate: that the recording is opened at, in Hz; None: any.
        version: raised when the same notes and options give another file than before.
    """

    name: str
    description: str
    options: type[ExportOptions]
    write: str
    files: Mapping[str, tuple[str, str]]
    chosen_by: str | None = None
    needs_recording: bool = False
    sample_rate: int | None = None
    version: int = 1

    def check_options(self, options: Mapping[str, Any]) -> ExportOptions:
        """Return the options, with defaults for those that are not given.

        Raises:
            InvalidOptionError: an unknown name or a value out of range.
        """
        return check_options(self.options, options, taker=self.name)

    def file_name(self, options: ExportOptions) -> str:
        """Return the name of the file, such as preview.opus."""
        return self.files[self._choice(options)][0]

    def content_type(self, options: ExportOptions) -> str:
        """Return the content type of the file."""
        return self.files[self._choice(options)][1]

    def hash_options(self, options: ExportOptions) -> str:
        """Return 64 hexadecimal digits that are equal for exports of the same notes that give the same file."""
        content = [self.name, self.version, options.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _choice(self, options: ExportOptions) -> str:
        return "" if self.chosen_by is None else getattr(options, self.chosen_by)


FORMATS: dict[str, ExportFormat] = {
    row.name: row
    for row in (
        ExportFormat(
            "midi",
            "A standard MIDI file whose beats and bars are those of the music, or one for each instrument.",
            MidiExportOptions,
            "mt3_infer.exports.notes:write_midi",
            {
                "none": ("transcription.mid", "audio/midi"),
                "instrument": ("transcription.zip", "application/zip"),
            },
            chosen_by="split",
            version=2,
        ),
        ExportFormat(
            "notes.json",
            "All that is known of the notes, with their beats and their origin.",
            GridOptions,
            "mt3_infer.exports.notes:write_json",
            {"": ("notes.json", "application/json")},
        ),
        ExportFormat(
            "csv",
            "A table with a row for each note.",
            ExportOptions,
            "mt3_infer.exports.notes:write_csv",
            {"": ("notes.csv", "text/csv")},
        ),
        ExportFormat(
            "audio",
            "The notes as sound, played with a General MIDI sound font.",
            AudioOptions,
            "mt3_infer.exports.sound:write_audio",
            {
                "opus": ("preview.opus", "audio/ogg"),
                "mp3": ("preview.mp3", "audio/mpeg"),
                "wav": ("preview.wav", "audio/wav"),
            },
            chosen_by="encoding",
            version=2,
        ),
        ExportFormat(
            "stems.zip",
            "A MIDI file and the sound of each instrument, in one archive.",
            StemsOptions,
            "mt3_infer.exports.stems:write_stems",
            {"": ("stems.zip", "application/zip")},
            version=2,
        ),
        ExportFormat(
            "sounds",
            "Samples of the instruments, for a player of the notes: Opus files in one archive.",
            ExportOptions,
            "mt3_infer.exports.sounds:write_sounds",
            {"": ("sounds.zip", "application/zip")},
        ),
        ExportFormat(
            "peaks",
            "The waveform of the recording, as minima and maxima at several zoom levels.",
            ExportOptions,
            "mt3_infer.exports.peaks:write_peaks",
            {"": ("peaks.json", "application/json")},
            needs_recording=True,
        ),
        ExportFormat(
            "recording",
            "The recording as Opus, mono, for players that cannot read the file that was uploaded.",
            ExportOptions,
            "mt3_infer.exports.recording:write_recording",
            {"": ("recording.opus", "audio/ogg")},
            needs_recording=True,
            sample_rate=48_000,
        ),
        ExportFormat(
            "musicxml",
            "A score for notation programs.",
            ScoreOptions,
            "mt3_infer.exports.score:write_musicxml",
            {"": ("score.musicxml", "application/vnd.recordare.musicxml+xml")},
        ),
        ExportFormat(
            "pdf",
            "A score to print.",
            ScoreOptions,
            "mt3_infer.exports.score:write_pdf",
            {"": ("score.pdf", "application/pdf")},
            version=2,
        ),
        ExportFormat(
            "svg",
            "The pages of a score as SVG files, in one archive with the times of its measures.",
            ScoreOptions,
            "mt3_infer.exports.score:write_svg",
            {"": ("score.svg.zip", "application/zip")},
            version=2,
        ),
    )
}

ENDINGS: dict[str, tuple[str, dict[str, str]]] = {
    ".mid": ("midi", {}),
    ".midi": ("midi", {}),
    ".json": ("notes.json", {}),
    ".csv": ("csv", {}),
    ".wav": ("audio", {"encoding": "wav"}),
    ".mp3": ("audio", {"encoding": "mp3"}),
    ".opus": ("audio", {"encoding": "opus"}),
    ".ogg": ("audio", {"encoding": "opus"}),
    ".musicxml": ("musicxml", {}),
    ".xml": ("musicxml", {}),
    ".pdf": ("pdf", {}),
}
"""Format and options by the ending of a file's name."""


def get_format(name: str) -> ExportFormat:
    """Return a format.

    Raises:
        UnknownFormatError: there is none of that name; the message lists those there are.
    """
    if name not in FORMATS:
        raise UnknownFormatError(f"There is no format {name!r}; available formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def format_of(path: Path) -> tuple[str, dict[str, str]]:
    """Return the format and the options that the ending of a file's name stands for.

    Raises:
        InvalidOptionError: it stands for none.
    """
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        problem = f"Cannot save as {path.suffix!r}" if path.suffix else f"{path.name!r} names no format"
        raise InvalidOptionError(f"{problem}: end the name in one of {', '.join(ENDINGS)}.") from None


def export(
    transcription: Transcription,
    format: str,
    path: str | PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    audio: Recording | None = None,
    sound_font: str | PathLike[str] | Callable[[], Path] | None = None,
    progress: Callable[[float], None] = _ignore,
) -> ExportFormat:
    """Write a file of a format; return the format's row of the table.

    A file that is there is replaced. If that fails, it is left untouched. Memory does not grow with the length of
    the sound.

    Args:
        format: a name in `FORMATS`.
        options: of that format.
        audio: the recording, for formats that are made from it: a path, a binary file, or an `AudioStream`.
        sound_font: an SF2 or SF3 file to render sound with, or a function that returns one when it is needed; see
            `mt3_infer.exports.soundfont` for the default.
        progress: called with the fraction that is done. What it raises ends the export and is let through.
    Raises:
        UnknownFormatError, InvalidOptionError: there is no such format or option.
        ExportError: it cannot be made from these notes.
        MissingDependencyError: a package is not installed.
        CheckpointError: the sound font cannot be had.
        AudioError: the recording cannot be decoded.
        OSError: the file cannot be written.
    """
    row = get_format(format)
    checked = row.check_options(options or {})
    if row.needs_recording and audio is None:
        raise InvalidOptionError(f"{row.name} is made from the recording: pass it as audio.")
    try:
        write = _load(row.write)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise MissingDependencyError(
            f"{row.name} needs the package {error.name}: pip install 'mt3-infer-service[infer]'"
        ) from error
    with replacing(Path(path)) as part:
        find = sound_font if callable(sound_font) else partial(_load(FIND_SOUND_FONT), sound_font)
        write(Export(transcription, checked, part, audio, find, progress))
    return row


def _load(name: str) -> Callable[..., Any]:
    """Return the function "module:function"."""
    module, function = name.split(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded
