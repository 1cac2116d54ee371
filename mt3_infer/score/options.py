"""ScoreOptions: what a user chooses about a score."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ScoreOptions(BaseModel):
    """Options of MusicXML, SVG and PDF."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("", max_length=200, description="Printed above the first page and stored in the file.")
    page_size: Literal["a4", "letter"] = Field("a4", description="Paper of the PDF and of the SVG pages.")
    swing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Write off-beats on two thirds of the beat as straight eighths, with the word: "
        "`auto` if the whole piece swings.",
    )
    pitch: Literal["written", "concert"] = Field(
        "written",
        description="Write transposing instruments as their players read them, or every part as it sounds.",
    )
