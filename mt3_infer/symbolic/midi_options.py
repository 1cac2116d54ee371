"""The options of MIDI files. Importing them is quick: pages and commands build their forms from the schema."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mt3_infer.options import Options

QUARTERS = {"1/4": 1.0, "1/8": 1 / 2, "1/8t": 1 / 3, "1/16": 1 / 4, "1/16t": 1 / 6, "1/32": 1 / 8}
"""Length of each quantization grid."""

BASIC_KIT = {
    35: 36,  # kicks
    **dict.fromkeys((37, 39, 40), 38),  # snares
    44: 42,  # hi-hats
    **dict.fromkeys((41, 43), 45),  # toms
    **dict.fromkeys((48, 50), 47),
    **dict.fromkeys((52, 55, 57), 49),  # crash cymbals
    **dict.fromkeys((53, 59), 51),  # ride cymbals
}
"""Drum keys of General MIDI → keys of a kit with one of each."""


class MidiOptions(Options):
    """How notes are written as MIDI."""

    tempo: Literal["map", "fixed"] = Field(
        default="map",
        description=(
            "map: the tempo follows the music, so that bar lines fall on its bars; fixed: 120 beats per minute. "
            "Notes sound at the same times either way."
        ),
    )
    quantize_strength: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="How far notes move to the grid: 0 leaves them, 1 puts them on it.",
    )
    quantize_grid: Literal["1/4", "1/8", "1/8t", "1/16", "1/16t", "1/32"] = Field(
        default="1/16", description="Note value of the grid that notes are moved to; t is for triplets."
    )
    split: Literal["none", "instrument"] = Field(
        default="none", description="none: one file; instrument: a file for each instrument."
    )
    drum_map: Literal["general_midi", "basic"] = Field(
        default="general_midi",
        description=(
            "general_midi: drums keep their keys; basic: kick 36, snare 38, hi-hat 42 and 46, toms 45 and 47, "
            "crash 49, ride 51 take the place of similar ones."
        ),
    )
