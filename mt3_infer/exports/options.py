"""The options of each export format. Web reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mt3_infer.options import Options


class ExportOptions(Options):
    """No options."""


class AudioOptions(ExportOptions):
    """How the notes are rendered as sound."""

    encoding: Literal["opus", "mp3", "wav"] = Field(
        "opus", description="Opus in Ogg (small), MP3, or WAV with 16 bits."
    )


class StemsOptions(ExportOptions):
    """The files of each instrument."""

    sound: Literal["wav", "opus", "none"] = Field(
        "wav", description="Encoding of each instrument's sound; none for MIDI files only."
    )
