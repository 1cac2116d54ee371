"""The sound font that notes are rendered with: `MT3_SOUND_FONT`, else FluidR3Mono, fetched like a checkpoint.

FluidR3Mono is in SF3 format, General MIDI, 14.6 MB, under the MIT license: `sound_font` in the catalog.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from mt3_infer.errors import MissingSoundFontError

if TYPE_CHECKING:
    from checkpoints.store import CheckpointStore

ENTRY = "sound_font"  # its row in checkpoints/catalog.toml


def find_sound_font(chosen: str | PathLike[str] | None = None, store: CheckpointStore | None = None) -> Path:
    """Return the path of the sound font, fetching it if it is not there.

    Args:
        chosen: one of the user's own; that of `MT3_SOUND_FONT` without it.
        store: where checkpoints are kept; the user's own without it.
    Raises:
        MissingSoundFontError: there is no such file.
        CheckpointError: it is not installed and cannot be fetched.
    """
    chosen = chosen or os.environ.get("MT3_SOUND_FONT")
    if chosen:
        if not Path(chosen).is_file():
            raise MissingSoundFontError(f"The sound font {chosen} is not there: mend MT3_SOUND_FONT, or unset it.")
        return Path(chosen)
    from checkpoints.store import CheckpointStore

    store = store or CheckpointStore.from_environment()
    return store.fetch(ENTRY) / store.entry(ENTRY).files[0].name
