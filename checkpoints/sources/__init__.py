"""Sources of checkpoint files: one protocol, one module for each kind, and the table of kinds.

A new kind is a file here with a class that takes the catalog's options as keywords, and a row in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.sources.git import GitSource
from checkpoints.sources.git_lfs import GitLfsSource
from checkpoints.sources.huggingface import HuggingFaceSource
from checkpoints.sources.npm import NpmSource
from checkpoints.sources.t5x import T5xSource
from checkpoints.sources.url import UrlSource
from checkpoints.sources.wheel import WheelSource


class Source(Protocol):
    """A source of a file."""

    @property
    def label(self) -> str:
        """A few words that name this source to a person."""

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str | None:
        """Write the file's bytes to `part`; return the sha256 of `part` if it was taken on the way.

        `part` belongs to the caller alone. It may hold the beginning that an earlier try left, from this
        source or another: continue it or overwrite it. What is needed for continuing (an ETag) may be kept in
        `resume_note(part)`; the store carries it along with the part. The store verifies what is delivered.

        Args:
            progress: called with the bytes that `part` holds, now and then, also while nothing moves;
                what it raises (a cancel) is let through.
        Raises:
            SourceError: the download failed; `part` keeps what was received.
        """


SourceFactory = Callable[[SourceSpec], Source]

SOURCES: dict[str, Callable[..., Source]] = {
    "git": GitSource,
    "git_lfs": GitLfsSource,
    "huggingface": HuggingFaceSource,
    "npm": NpmSource,
    "t5x": T5xSource,
    "url": UrlSource,
    "wheel": WheelSource,
}


def open_source(spec: SourceSpec) -> Source:
    """Build the source that a catalog row describes.

    Raises:
        LookupError: there is no such kind.
        TypeError: that kind takes other options.
    """
    if spec.kind not in SOURCES:
        raise LookupError(f"there is no source of kind {spec.kind!r}; the kinds are: {', '.join(SOURCES)}")
    return SOURCES[spec.kind](**spec.options)
