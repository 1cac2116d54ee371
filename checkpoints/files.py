"""Files of checkpoints: their description in the catalog, verification, and atomic replacement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML_OPENINGS = (b"<!doctype html", b"<html")
_ESTIMATE_ERROR = 0.4  # how far an estimated size may be off; half a file is further off


@dataclass(frozen=True)
class SourceSpec:
    """A source of a file: its kind and the options of that kind."""

    kind: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint.

    Attributes:
        name: its name in the store; no folders.
        size: in bytes; 0 where it is not known.
        sha256: 64 lower-case hexadecimal digits; None where only a first download can show them.
        sources: in the order in which they are tried.
        estimated: the size is an estimate, unless the sum is known.
    """

    name: str
    size: int
    sha256: str | None
    sources: tuple[SourceSpec, ...]
    estimated: bool = True

    @property
    def exact_size(self) -> int | None:
        """The size if it is certain."""
        return None if self.estimated and not self.sha256 else self.size or None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mismatch_reason(path: Path, file: CheckpointFile, sha256: str | None = None) -> str | None:
    """Return in a few words why the file at `path` is not `file`; None if it is.

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
    size = path.stat().st_size
    if file.exact_size not in (None, size):
        return f"it has {size:,} bytes, not {file.size:,}"
    if file.sha256 is None:
        if file.size and abs(size - file.size) > _ESTIMATE_ERROR * file.size:
            return f"it has {size:,} bytes, not about {file.size:,}"
        return None
    found = sha256 or sha256_of(path)
    if found != file.sha256:
        return f"its sha256 is {found}, not {file.sha256}"
    return None


def resume_note(part: Path) -> Path:
    """Return where a source may note what it needs to resume `part`."""
    return part.with_name(part.name + ".json")


@contextmanager
def temporary_part(folder: Path) -> Iterator[Path]:
    """Yield the name of a temporary file in a folder, and remove that file afterwards.

    The name is short, since the name of the file that it becomes may be as long as the file system allows.
    """
    part = folder / f".mt3-infer-{uuid4().hex}.part"
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a file to write that then replaces `path` atomically; an error leaves `path` unchanged."""
    with temporary_part(path.parent) as part:
        yield part
        part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Replace a file as a whole."""
    with replaced_atomically(path) as part:
        part.write_text(json.dumps(content))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; {} where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
