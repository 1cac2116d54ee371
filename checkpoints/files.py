"""What the catalogue says of one file, and whether a file on disk is that one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML_OPENINGS = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class SourceSpec:
    """Where a file can be had: a kind of source and what that kind needs to know."""

    kind: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint.

    Attributes:
        name: its name in the store; no folders.
        size: in bytes; an estimate where the sum is not known, and 0 where nothing is.
        sha256: 64 lower-case hexadecimal digits; None where only a first download can tell them.
        sources: in the order in which they are tried.
    """

    name: str
    size: int
    sha256: str | None
    sources: tuple[SourceSpec, ...]

    @property
    def exact_size(self) -> int | None:
        """The size if it is certain: that of a file whose sum is known."""
        return self.size or None if self.sha256 else None


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def why_wrong(path: Path, file: CheckpointFile, sha256: str | None = None) -> str | None:
    """Say in a few words why the file at `path` is not `file`; None if it is.

    The two bodies that are most often taken for weights are named: a Git LFS pointer (a clone without
    git-lfs) and a web page (a login or an error behind a 200).

    Args:
        sha256: that of the file at `path`, if it is known; else it is hashed.
    """
    with path.open("rb") as stream:
        opening = stream.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    if opening.startswith(_LFS_POINTER):
        return "it is a Git LFS pointer, not the weights"
    if opening.lower().startswith(_HTML_OPENINGS):
        return "it is a web page, not the weights"
    if not opening:
        return "it is empty"
    if file.sha256 is None:
        return None
    size = path.stat().st_size
    if file.exact_size not in (None, size):
        return f"it has {size:,} bytes, not {file.size:,}"
    found = sha256 or sha256_of(path)
    if found != file.sha256:
        return f"its sha256 is {found}, not {file.sha256}"
    return None


def resume_note(part: Path) -> Path:
    """Where a source may note what it needs to continue `part`."""
    return part.with_name(part.name + ".json")
