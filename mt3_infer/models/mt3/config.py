"""MT3's segments and sizes, and how its checkpoints were trained where their weights do not state it.

A network works only with the front end, the positions and the memory that it was trained with: one table, by the
names of the files. `load_model` takes each of them as an option that overrides the table;
`tools/compare_front_ends.py` shows on a recording with known notes which is right.

Source: Tan et al., MR-MT3 (2024); names and dates of the checkpoints, configurations and code published with it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mt3_infer.audio.segments import SegmentGrid
from mt3_infer.audio.spectrogram import SpectrogramConfig
from mt3_infer.errors import InvalidOptionError, WeightsError
from mt3_infer.models.t5 import Positions, T5Config
from mt3_infer.symbolic.vocabulary import END, MT3_CODEC, Event, EventType

_log = logging.getLogger(__name__)

MAX_TOKENS = 1024
"""Maximum tokens of a segment, as published; 40 to 100 are usual."""

FRAMES = 256
"""Frames in a segment."""

HOP_LENGTH = 128
"""Samples from frame to frame, 8 ms."""

# 2.048 s. A recording that ends with a full segment is followed by one of a single silent frame, in which the
# network closes the notes that still sound.
GRID = SegmentGrid(16_000, hop=FRAMES * HOP_LENGTH, length=FRAMES * HOP_LENGTH, tail=1)


def read_config(path: Path) -> T5Config:
    """Return the sizes in the `config.json` beside the weights; those of the published MT3 where there is none.

    Raises:
        WeightsError: the file does not describe a T5 of this kind.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return T5Config()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
            raise WeightsError(f"{file}: only feed_forward_proj 'gated-gelu' is supported.")
        return T5Config(
            n_features=values["d_model"],
            d_model=values["d_model"],
            d_kv=values["d_kv"],
            d_ff=values["d_ff"],
            num_heads=values["num_heads"],
            num_encoder_layers=values["num_layers"],
            num_decoder_layers=values["num_decoder_layers"],
            vocabulary_size=values["vocab_size"],
            epsilon=values["layer_norm_epsilon"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} does not describe the network: {error!r}.") from error


class FrontEnd(StrEnum):
    """The three that networks of this family were trained with, `TF` being MT3's own.

    `TORCH_LEGACY` is MR-MT3's from November 2023 to June 2024, `TORCH_CURRENT` the one since: all but the same
    as `TF`. Source: Tan et al., MR-MT3 (2024), and the history of the code published with it.
    """

    TF = "tf"
    TORCH_LEGACY = "torch_legacy"
    TORCH_CURRENT = "torch_current"

    def config(self, *, min_max: bool = False) -> SpectrogramConfig:
        """Return its parameters; `min_max` scales the logarithms -12 … 5 to 0 … 1, as for MR-MT3's networks."""
        scale = (-12.0, 5.0) if min_max else None
        match self:
            case FrontEnd.TF:
                return SpectrogramConfig(scale=scale)
            case FrontEnd.TORCH_CURRENT:
                return SpectrogramConfig(triangles_in_hertz=True, scale=scale)
            case FrontEnd.TORCH_LEGACY:
                return SpectrogramConfig(
                    triangles_in_hertz=True, scale=scale, high_edge=8000.0, offset=1e-6, centered=True
                )


class MemoryStart(StrEnum):
    """The initial memory of a recording: `WITH_PREV` as in all published networks, or `V2`."""

    WITH_PREV = "with_prev"
    V2 = "v2"

    @property
    def token_ids(self) -> list[int]:
        """Token ids of an imaginary preceding segment; padding follows."""
        return [MT3_CODEC.encode(Event(EventType.TIE, 0)), END] if self is MemoryStart.WITH_PREV else [END]


@dataclass(frozen=True)
class TrainingSetup:
    """The settings of a checkpoint's training that inference depends on.

    Attributes:
        min_max: whether the spectrogram is scaled to 0 … 1.
        memory_rows: how many rows of the memory the decoder looks at; 0 in networks without one.
    """

    front_end: FrontEnd = FrontEnd.TF
    min_max: bool = False
    positions: Positions = Positions.MAGENTA
    memory_rows: int = 0
    memory_start: MemoryStart = MemoryStart.WITH_PREV

    @property
    def spectrogram(self) -> SpectrogramConfig:
        """Parameters of the front end."""
        return self.front_end.config(min_max=self.min_max)


MT3 = TrainingSetup()
"""The setup of the published MT3, and of every file of that network which the table does not name."""

_LEGACY = TrainingSetup(FrontEnd.TORCH_LEGACY, min_max=True, positions=Positions.MT3_PYTORCH)
_FROM_MT3 = replace(_LEGACY, front_end=FrontEnd.TF)

MR_MT3 = replace(_LEGACY, memory_rows=64)
"""The setup of the checkpoint in the catalog, and of every file of that network that the table does not name."""

# The first that fits counts. Which front end the memory networks want is inferred from dates: their names were in
# use by April 2024. What was trained on from MT3's own weights kept MT3's front end. The number of rows is in the
# name.
PUBLISHED = {
    "*segmemV2_prev*_MT3_*": _FROM_MT3,
    "*segmemV2_prev*": MR_MT3,
    "slakh_f1_0.65*": _LEGACY,
    "commu_mt3*": _FROM_MT3,
}
"""Training setups by pattern of the file name, its suffix left out."""

MOST_ROWS = 1024
"""Maximum rows of a memory: one for each token id that it is made of."""

_ROWS_IN_NAME = re.compile(r"context=(\d+)")


def training_setup_of(stem: str, usual: TrainingSetup, given: Mapping[str, Any]) -> TrainingSetup:
    """Return how a checkpoint was trained.

    Args:
        stem: name of its file, without the suffix.
        usual: where the table has no row for it.
        given: overrides by attribute; None is ignored.
    Raises:
        InvalidOptionError: a value that does not exist.
    """
    known = next((row for pattern, row in PUBLISHED.items() if fnmatchcase(stem, pattern)), usual)
    if not usual.memory_rows:
        known = replace(known, memory_rows=0)
    elif rows := _ROWS_IN_NAME.search(stem):
        known = replace(known, memory_rows=int(rows[1]))
    given = {name: _checked(name, value) for name, value in given.items() if value is not None}
    if known is MR_MT3 and stem != "mr_mt3" and "memory_rows" not in given:
        _log.warning(
            "the name %s does not state the number of memory rows: %d is assumed; set memory_rows=… if it differs",
            stem,
            known.memory_rows,
        )
    return replace(known, **given)


CHOICES: dict[str, type[StrEnum]] = {
    "front_end": FrontEnd,
    "positions": Positions,
    "memory_start": MemoryStart,
}


def _checked(name: str, value: Any) -> Any:
    if name in CHOICES:
        try:
            return CHOICES[name](value)
        except ValueError:
            choices = ", ".join(CHOICES[name])
            raise InvalidOptionError(f"There is no {name} {value!r}; choose one of: {choices}.") from None
    if name == "memory_rows":
        if type(value) is not int or not 0 <= value <= MOST_ROWS:
            raise InvalidOptionError(f"memory_rows is {value!r}, but must be a number from 0 to {MOST_ROWS}.")
    elif type(value) is not bool:
        raise InvalidOptionError(f"{name} is {value!r}, but must be True or False.")
    return value
