"""The sound font that notes are rendered with: `MT3_SOUND_FONT`, else FluidR3Mono, fetched like a checkpoint.

FluidR3Mono is in SF3 format, General MIDI, 14.6 MB, under the MIT license: `sound_font` in the catalog.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mt3_infer.errors import MissingSoundFontError

ENTRY = "sound_font"  # its row in checkpoints/catalog.toml


def find_sound_font(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the sound font, fetching it if it is not there.

    Raises:
        MissingSoundFontError: `MT3_SOUND_FONT` names no file.
        CheckpointError: it is not installed and cannot be fetched.
    """
    if chosen := environ.get("MT3_SOUND_FONT"):
        if not Path(chosen).is_file():
            raise MissingSoundFontError(f"MT3_SOUND_FONT names no file: {chosen}")
        return Path(chosen)
    from checkpoints.store import CheckpointStore

    store = CheckpointStore.from_environment(environ)
    entry = store.entry(ENTRY)
    return store.fetch(ENTRY) / entry.files[0].name
