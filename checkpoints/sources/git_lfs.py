"""Fetches one file that a Git host keeps in LFS: its pointer, then the batch API, then the object.

Neither git nor git-lfs is needed. See github.com/git-lfs/git-lfs, docs/spec.md and docs/api/batch.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import PATIENT, Address, Patience, one_line, parse_json, read, stated_reason
from checkpoints.resume import download

_POINTER_BYTES = 1 << 16  # no pointer is longer
_MEDIA_TYPE = "application/vnd.git-lfs+json"
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)


@dataclass(frozen=True)
class GitLfsSource:
    """A file of a repository on GitHub, on Hugging Face, or on a host whose raw files lie under /raw/.

    Attributes:
        repository: its https address, without ".git".
        revision: a branch, tag or commit.
        path: of the file in the repository.
    """

    repository: str
    revision: str
    path: str
    patience: Patience = PATIENT

    @property
    def label(self) -> str:
        """The repository."""
        parts = urlsplit(self.repository)
        return f"Git LFS at {parts.netloc.rpartition('@')[2]}{parts.path}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str:
        """Ask what the repository holds; download it with resume if it is what is wanted."""

        def alive() -> None:
            progress(part.stat().st_size)

        held = self._read_pointer(file, alive)
        if file.sha256 not in (None, held.sha256):
            raise SourceError(f"{self.path} is another file there now (sha256 {held.sha256})")
        resource = f"lfs:{held.sha256}"
        sha256 = download(lambda: self._locate(held, alive), resource, held, part, progress, self.patience)
        if file.sha256 is None:
            require_announced(part, held, sha256)
        return sha256

    def _read_pointer(self, file: CheckpointFile, alive: Callable[[], None] = lambda: None) -> CheckpointFile:
        """Return what the repository holds under that path."""
        parts = urlsplit(self.repository)
        if parts.netloc == "github.com":
            base = f"https://raw.githubusercontent.com{parts.path}"
        else:
            base = f"{self.repository}/raw"
        address = Address(f"{base}/{quote(self.revision)}/{quote(self.path)}")
        match = _POINTER.fullmatch(read(address, self.patience, limit=file.size or _POINTER_BYTES, alive=alive))
        if match is None:
            raise SourceError(f"{self.path} is no Git LFS pointer there")
        return replace(file, sha256=match[1].decode(), size=int(match[2]))

    def _locate(self, held: CheckpointFile, alive: Callable[[], None]) -> Address:
        """Ask the batch API where the object is now; links may be short-lived."""
        wanted = {
            "operation": "download",
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": held.sha256, "size": held.size}],
        }
        address = Address(
            f"{self.repository}.git/info/lfs/objects/batch",
            {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE},
        )
        answer = read(address, self.patience, data=json.dumps(wanted).encode(), alive=alive)
        content: Any = None
        try:
            content = parse_json(answer)
            given: dict[str, Any] = content["objects"][0]
            if error := given.get("error"):
                raise SourceError(f"the LFS server refuses it ({error['code']}: {one_line(error['message'])})")
            link = given["actions"]["download"]
            headers = link.get("header") or {}
            return Address(str(link["href"]), {name: str(value) for name, value in headers.items()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            reason = stated_reason(content)
            raise SourceError(
                f"the LFS server gives no link to the file{f' ({reason})' if reason else ''}"
            ) from error


def require_announced(part: Path, announced: CheckpointFile, sha256: str) -> None:
    """Refuse bytes that are not those which the source itself announced.

    Raises:
        SourceError: they are not; the part is emptied.
    """
    if sha256 != announced.sha256:
        part.write_bytes(b"")
        raise SourceError(f"what it sends (sha256 {sha256}) is not what it announces ({announced.sha256})")
