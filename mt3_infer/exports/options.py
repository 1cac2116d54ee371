"""The options of each export format. Web reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mt3_infer.options import Options
from mt3_infer.symbolic.grid import GridCorrection
from mt3_infer.symbolic.midi_options import MidiOptions

DRUMS = 128
"""The drum kit, among programs."""


class ExportOptions(Options):
    """No options."""


class GridOptions(ExportOptions, GridCorrection):
    """Corrections of the beats."""


class MidiExportOptions(GridOptions, MidiOptions):
    """How notes are written as MIDI, and corrections of the beats that its tempo follows."""


class AudioOptions(ExportOptions):
    """How the notes are rendered as sound."""

    encoding: Literal["opus", "mp3", "wav"] = Field(
        "opus", description="Opus in Ogg (small), MP3, or WAV with 16 bits."
    )


class StemsOptions(GridOptions):
    """The files of each instrument."""

    sound: Literal["wav", "opus", "none"] = Field(
        "wav", description="Encoding of each instrument's sound; none for MIDI files only."
    )


class ScoreOptions(GridOptions):
    """Options of MusicXML, SVG and PDF."""

    title: str = Field(default="", max_length=200, description="Printed above the first page, and in the file.")
    page_size: Literal["a4", "letter"] = Field(default="a4", description="Paper of the PDF and of the SVG pages.")
    swing: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Write off-beats on two thirds of the beat as straight eighths, with the word: "
        "`auto` if the whole piece swings.",
    )
    pitch: Literal["written", "concert", "b_flat", "e_flat", "f"] = Field(
        default="written",
        description="Write transposing instruments as their players read them, or every part as it sounds, or "
        "every part for an instrument in B flat, E flat or F.",
    )
    programs: tuple[Annotated[int, Field(ge=0, le=DRUMS)], ...] = Field(
        default=(),
        max_length=DRUMS + 1,
        description="Only these instruments: General MIDI programs from 0, and 128 for the drums. All if empty.",
    )

    @field_validator("programs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("programs")
    @classmethod
    def _sorted(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))  # the same choice is the same export
