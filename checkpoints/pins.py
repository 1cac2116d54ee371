"""Sums learned on the first download of a file that the catalog cannot know, pinned from then on.

    ROOT/.pins/mr_mt3.json     {"mr_mt3.ckpt": {"size": 582511409, "sha256": "…"}}

They outlive the checkpoint's removal: what is downloaded again must be the same bytes. Delete the file to forget
them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoints.catalog import Entry
from checkpoints.errors import ChecksumError
from checkpoints.files import CheckpointFile, read_json, write_json

_log = logging.getLogger(__name__)


def with_pins(root: Path, entry: Entry) -> Entry:
    """Return the entry with the sums that this store has learned."""
    if all(file.sha256 for file in entry.files):
        return entry
    pins = read_json(_path(root, entry))
    return replace(entry, files=tuple(_pinned(file, pins.get(file.name)) for file in entry.files))


def pin(root: Path, entry: Entry, file: CheckpointFile, size: int, sha256: str, *, origin: str) -> None:
    """Remember what a file is.

    Raises:
        ChecksumError: it is known to be another one.
    """
    path = _path(root, entry)
    pins = read_json(path)
    known = _pinned(file, pins.get(file.name)).sha256
    if known == sha256:
        return
    if known is not None:
        raise ChecksumError(
            f"The file {file.name} of the checkpoint {entry.name} from {origin} has the sha256 {sha256}, "
            f"but {known} is pinned in {path}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**pins, file.name: {"size": size, "sha256": sha256}})
    _log.warning(
        "the catalog does not know the sum of %s: the %s bytes from %s with the sha256 %s are trusted, "
        "and pinned in %s from now on",
        file.name,
        f"{size:,}",
        origin,
        sha256,
        path,
    )


def _path(root: Path, entry: Entry) -> Path:
    return root / ".pins" / f"{entry.name}.json"


def _pinned(file: CheckpointFile, known: Any) -> CheckpointFile:
    if file.sha256 or not isinstance(known, dict):
        return file
    return replace(file, size=known["size"], sha256=known["sha256"])
