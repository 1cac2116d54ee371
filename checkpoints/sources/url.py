"""Fetches one file from an http(s) address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from checkpoints.files import CheckpointFile
from checkpoints.http import PATIENT, Address, Patience
from checkpoints.resume import download


@dataclass(frozen=True)
class UrlSource:
    """A file that is simply there."""

    url: str
    patience: Patience = PATIENT

    @property
    def label(self) -> str:
        """The address, without what might be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str:
        """Download with resume."""
        return download(lambda: Address(self.url), self.url, file, part, progress, self.patience)
