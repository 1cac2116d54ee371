"""Transcription: the notes of one recording, where they came from, and the formats they are saved in."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mt3_infer.errors import AudioWarning, InvalidOptionError, MissingDependencyError
from mt3_infer.symbolic.grid import BeatGrid, GridCorrection
from mt3_infer.symbolic.midi_options import MidiOptions
from mt3_infer.symbolic.notes import Note, Pedal

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import pretty_midi
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from mt3_infer.exports.options import ScoreOptions
    from mt3_infer.pictures.piano_roll import PianoRoll

    Waveforms: TypeAlias = NDArray[np.float32]

JSON_FORMAT = "mt3-infer/notes"
JSON_VERSION = 2
MIDI_LARGEST = 127
"""The largest pitch, velocity, program and controller."""


@dataclass(frozen=True)
class Provenance:
    """The origin of a transcription: everything needed to reproduce it.

    `estimator` is the version of what estimated velocities and confidence from the recording: "1/posteriors" with
    the help of Basic Pitch, "1/energies" without it; empty if nothing did.
    """

    model: str
    weights_sha256: str
    license: str
    library_version: str
    device: str
    seconds_taken: float
    options: dict[str, Any]
    counters: dict[str, int]
    estimator: str = ""

    @property
    def summary(self) -> str:
        """A line for the metadata of a file: the model, the license of its weights and their SHA-256."""
        return (
            f"Transcribed by {self.model} (license of the weights: {self.license}; SHA-256: {self.weights_sha256})"
            f" with mt3-infer-service {self.library_version}"
        )


@dataclass(frozen=True, repr=False)
class Transcription:
    """The notes of a recording. In a notebook it is shown as a small piano roll.

    Attributes:
        notes: in the order of `mt3_infer.symbolic.notes.sort_notes`.
        duration: of the recording, in seconds.
        provenance: what made them.
        warnings: what was wrong with the recording but did not stop the transcription.
        pedals: of a piano, sorted by onset, if the model detects them.
        grid: beats, bars, tempo, meter and key.
    """

    notes: list[Note]
    duration: float
    provenance: Provenance
    warnings: tuple[AudioWarning, ...] = ()
    pedals: tuple[Pedal, ...] = ()
    grid: BeatGrid = field(default_factory=BeatGrid)

    @classmethod
    def from_json(cls, text: str | bytes) -> Transcription:
        """Return the transcription that `to_json` wrote, of this version or an older one.

        Raises:
            InvalidOptionError: the text is something else, of a later version, or has notes that cannot be.
        """
        try:
            content = json.loads(text)
            if content["format"] != JSON_FORMAT:
                raise ValueError(content["format"])
            if (version := int(content["version"])) > JSON_VERSION:
                raise InvalidOptionError(
                    f"notes.json has version {version}, which is newer than this library reads ({JSON_VERSION}). "
                    "Upgrade mt3-infer-service."
                )
            return cls(
                notes=[_note_from(note, n) for n, note in enumerate(content["notes"], start=1)],
                duration=_seconds(content["duration"]),
                provenance=Provenance(**content["provenance"]),
                warnings=tuple(AudioWarning(**warning) for warning in content.get("warnings", ())),
                pedals=tuple(_pedal_from(pedal, n) for n, pedal in enumerate(content.get("pedals", ()), start=1)),
                grid=_grid_from(content),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidOptionError(
                "This is not a notes.json of mt3-infer. Pass the notes.json of a transcription."
            ) from error

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file of the format that its name ends in, such as .mid, .json, .csv or .wav.

        A file that is there is replaced. If that fails, on a full disk for example, it is left untouched.
        `mt3_infer.exports.export` takes options, too.

        Raises:
            InvalidOptionError: another ending; the message lists those there are.
            OSError: it cannot be written.
            MT3Error, CheckpointError: it cannot be made; see `mt3_infer.exports.export`.
        """
        from mt3_infer.exports import export, format_of

        name, options = format_of(Path(path))
        export(self, name, path, options)

    @property
    def beats(self) -> tuple[float, ...]:
        """The beats, in seconds; see `mt3_infer.symbolic.grid.BeatGrid` for this and the following."""
        return self.grid.beats

    @property
    def downbeats(self) -> tuple[float, ...]:
        """The beats that begin a bar, in seconds."""
        return self.grid.downbeats

    @property
    def meter(self) -> str:
        """The time signature, as "3/4"; empty if unknown."""
        return self.grid.meter

    @property
    def tempo_bpm(self) -> float:
        """The median tempo in beats per minute; 0 if unknown."""
        return self.grid.tempo_bpm

    @property
    def key(self) -> str:
        """The key, as "G major"; empty if unknown."""
        return self.grid.key

    def corrected(self, correction: GridCorrection) -> Transcription:
        """Return the same notes with a corrected grid."""
        return replace(self, grid=correction.apply(self.grid, self.duration))

    def to_midi(self, options: MidiOptions | None = None) -> bytes:
        """Return the notes as a standard MIDI file; see `mt3_infer.symbolic.midi`.

        Raises:
            InvalidOptionError: the options ask for several files, which `to_midi_files` returns.
        """
        from mt3_infer.symbolic.midi import notes_to_midi

        if options is not None and options.split == "instrument":
            raise InvalidOptionError("to_midi returns one file. Call to_midi_files for a file of each instrument.")
        return notes_to_midi(self.notes, self.grid, options, self.pedals, self.provenance.summary)

    def to_midi_files(self, options: MidiOptions | None = None) -> dict[str, bytes]:
        """Return MIDI files by name: one, or with `split="instrument"` one for each instrument."""
        from mt3_infer.symbolic.midi import notes_to_midi_files

        return notes_to_midi_files(self.notes, self.grid, options, self.pedals, self.provenance.summary)

    def to_musicxml(self, options: ScoreOptions | None = None) -> bytes:
        """Return the notes as a score in MusicXML 4.0; see `mt3_infer.score`."""
        from mt3_infer.score import to_musicxml

        return to_musicxml(self, options)

    def to_pdf(self, options: ScoreOptions | None = None) -> bytes:
        """Return the notes as a score to print.

        Raises:
            ExportTooLargeError: it is too long.
        """
        from mt3_infer.score import to_pdf

        return to_pdf(self, options)

    def to_json(self) -> str:
        """Return the notes, their provenance, the warnings, pedals and beats as JSON, one note a line."""
        head = json.dumps(
            {
                "format": JSON_FORMAT,
                "version": JSON_VERSION,
                "duration": round(self.duration, 6),
                "provenance": asdict(self.provenance),
                "warnings": [asdict(warning) for warning in self.warnings],
                "beats": [round(beat, 6) for beat in self.grid.beats],
                "downbeats": [round(beat, 6) for beat in self.grid.downbeats],
                "meter": self.grid.meter,
                "tempo_bpm": round(self.grid.tempo_bpm, 3),
                "key": self.grid.key,
                "confidence": {name: round(value, 4) for name, value in self.grid.confidence.items()},
                "pedals": [rounded(pedal) for pedal in self.pedals],
            }
        )
        notes = ",\n".join(json.dumps(rounded(note)) for note in self.notes)
        return f'{head[:-1]}, "notes": [\n{notes}\n]}}\n'

    def to_csv(self) -> str:
        """Return the notes as a table with a header: times in seconds, MIDI numbers."""
        from mt3_infer.exports.notes import to_csv

        return to_csv(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the notes as a pandas table with the columns of `to_csv`, each of its type even without notes.

        A note without a confidence has NaN there.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        from mt3_infer.exports.notes import COLUMN_TYPES, to_columns

        try:
            import pandas
        except ModuleNotFoundError as error:
            raise MissingDependencyError("to_dataframe needs pandas: pip install pandas") from error
        return pandas.DataFrame(to_columns(self)).astype(COLUMN_TYPES)

    def to_audio(self, sample_rate: int = 44_100, *, sound_font: str | PathLike[str] | None = None) -> Waveforms:
        """Return the notes as sound: float32, shape (S, 2), in [-1, 1]. To write a file, use `save`.

        Args:
            sample_rate: in Hz.
            sound_font: an SF2 or SF3 file; MT3_SOUND_FONT or the default one without it.
        Raises:
            MissingDependencyError: tinysoundfont is not installed.
            MissingSoundFontError, CheckpointError: there is no sound font.
        """
        import numpy as np

        from mt3_infer.exports.sound import length_of, render

        length = length_of(self.notes, self.duration)
        font = None if sound_font is None else Path(sound_font)
        return np.concatenate(list(render(self.notes, sample_rate, font, self.pedals, length)))

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """Return the MIDI file as a `pretty_midi.PrettyMIDI`, for further work in Python."""
        import pretty_midi

        return pretty_midi.PrettyMIDI(BytesIO(self.to_midi()))

    def plot(self, axes: Axes | None = None, *, start: float = 0.0, end: float | None = None) -> Axes:
        """Draw the notes as a piano roll with Matplotlib: a color for each instrument, lines of beats and bars.

        Notes are the paler the less certain they are. Drums lie below the pitches, in rows of their own.

        Args:
            axes: to draw into; new ones without it.
            start, end: the part to draw, in seconds; without an end, up to that of the recording.
        Returns:
            The axes. `axes.figure.savefig("roll.png")` writes a file.
        Raises:
            InvalidOptionError: there is nothing between start and end.
            MissingDependencyError: Matplotlib is not installed.
        """
        from mt3_infer.pictures.plot import plot

        return plot(self._roll(start, end), self._about(), axes)

    def __repr__(self) -> str:
        return f"<Transcription: {self._about()}>"

    def _repr_html_(self) -> str:
        """Return a small piano roll for notebooks, at most about 100 KB."""
        from mt3_infer.pictures.page import to_html

        return to_html(self._roll(), self._about(), self.warnings)

    def _roll(self, start: float = 0.0, end: float | None = None) -> PianoRoll:
        from mt3_infer.pictures.piano_roll import lay_out, tracks_of

        return lay_out(tracks_of(self.notes), self.grid, start, self._end if end is None else end)

    @property
    def _end(self) -> float:
        """The end of the recording or of its last note, in seconds; 1 if there is nothing."""
        return max(self.duration, max((note.offset for note in self.notes), default=0.0)) or 1.0

    def _about(self) -> str:
        """Return a line about the notes."""
        parts = [
            f"{len(self.notes)} note{'' if len(self.notes) == 1 else 's'}",
            f"{self.duration:.1f} s",
            self.provenance.model,
        ]
        parts += [self.meter, f"{self.tempo_bpm:.0f} bpm" if self.tempo_bpm else "", self.key]
        return ", ".join(filter(None, parts))


def _note_from(fields: dict[str, Any], number: int) -> Note:
    note = Note(**fields)
    _check_event(note, f"Note {number}", {"pitch": note.pitch, "velocity": note.velocity, "program": note.program})
    return note


def _pedal_from(fields: dict[str, Any], number: int) -> Pedal:
    pedal = Pedal(**fields)
    _check_event(pedal, f"Pedal {number}", {"controller": pedal.controller})
    return pedal


def _check_event(event: Note | Pedal, name: str, numbers: dict[str, int]) -> None:
    """Raise InvalidOptionError for times or MIDI numbers that cannot be; TypeError for what is no number."""
    if not 0 <= event.onset <= event.offset < math.inf:
        span = f"from {event.onset} s to {event.offset} s"
        raise InvalidOptionError(
            f"{name} of notes.json lasts {span}. Pass an onset of at least 0, and a later offset."
        )
    for field_name, value in numbers.items():
        if not isinstance(value, int) or not 0 <= value <= MIDI_LARGEST:
            raise InvalidOptionError(
                f"{name} of notes.json has the {field_name} {value}: pass a whole number from 0 to {MIDI_LARGEST}."
            )


def _seconds(value: float) -> float:
    """Return a time; raise ValueError or TypeError for what is none."""
    if not 0 <= value < math.inf:
        raise ValueError(value)
    return value


def _grid_from(content: dict[str, Any]) -> BeatGrid:
    names = {one.name for one in fields(BeatGrid)}
    found = {name: value for name, value in content.items() if name in names}
    for name in ("beats", "downbeats"):
        found[name] = tuple(found.get(name, ()))
    return BeatGrid(**found)


def rounded(event: Note | Pedal) -> dict[str, Any]:
    """Return the event's fields, times to the microsecond: below a sample, and half as many bytes."""
    return asdict(event) | {"onset": round(event.onset, 6), "offset": round(event.offset, 6)}
