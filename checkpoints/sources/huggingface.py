"""Fetches one file from the Hugging Face Hub, or from what `HF_ENDPOINT` names.

huggingface_hub knows addresses and tokens (`HF_TOKEN`, or what its own login left); the requests are our own, so
that they are retried and resumed like those to any other source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import PATIENT, Address, Patience, RefusedError, one_line, open_address
from checkpoints.resume import download
from checkpoints.sources.git_lfs import require_announced

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REDIRECTS = 5  # within the Hub: a repository that was renamed


@dataclass(frozen=True)
class _Held:
    """A file as the Hub describes it; None for a value that the Hub does not state."""

    sha256: str | None
    size: int | None
    commit: str | None


@dataclass(frozen=True)
class HuggingFaceSource:
    """A file of a repository on the Hub.

    Attributes:
        repository: "owner/name".
        path: of the file in the repository.
        revision: a branch, tag or commit.
        type: "model", "space" or "dataset".
    """

    repository: str
    path: str
    revision: str = "main"
    type: str = "model"
    patience: Patience = PATIENT

    @property
    def label(self) -> str:
        """The repository."""
        return f"Hugging Face ({self.repository})"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str:
        """Ask what the repository holds; download it with resume if it is what is wanted."""
        try:
            from huggingface_hub import get_token, hf_hub_url
        except ImportError:
            raise SourceError("huggingface_hub is not installed (pip install huggingface_hub)") from None
        endpoint = os.environ.get("HF_ENDPOINT")
        url = hf_hub_url(
            self.repository, self.path, repo_type=self.type, revision=self.revision, endpoint=endpoint
        )
        token = get_token()
        address = Address(url, {"Authorization": f"Bearer {token}"} if token else {})
        site = (endpoint or "https://huggingface.co").rstrip("/")
        held = self._ask(address, site, lambda: progress(part.stat().st_size))
        if file.sha256 and held.sha256 not in (None, file.sha256):
            raise SourceError(f"{self.path} is another file there now (sha256 {held.sha256})")
        if file.sha256 is None and held.size:
            file = replace(file, sha256=held.sha256, size=held.size, estimated=False)
        resource = f"hf:{self.repository}/{self.path}@{held.commit}"
        sha256 = download(lambda: address, resource, file, part, progress, self.patience)
        if held.sha256:
            require_announced(part, file, sha256)
        elif file.exact_size not in (None, size := part.stat().st_size):
            raise SourceError(f"what it sends has {size:,} bytes, not the {file.size:,} that it announces")
        return sha256

    def _ask(self, address: Address, site: str, alive: Callable[[], None]) -> _Held:
        """Ask what the Hub holds, up to the point where it points to another host, which stores the bytes."""
        for _ in range(_REDIRECTS):
            try:
                answer = open_address(address, self.patience, method="HEAD", redirect=False, alive=alive)
            except RefusedError as error:
                raise SourceError(self._refusal(error, site)) from error
            except SourceError as error:
                raise SourceError(f"the Hub at {site} did not answer ({error})") from error
            answer.close()
            headers = answer.headers
            target = urljoin(address.url, headers.get("Location", address.url))
            is_elsewhere = urlsplit(target).netloc != urlsplit(address.url).netloc
            if "Location" not in headers or "X-Linked-Etag" in headers or is_elsewhere:
                break
            address = Address(target, address.headers)
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag", "")).removeprefix("W/").strip('"')
        size = headers.get("X-Linked-Size") or ("" if "Location" in headers else headers.get("Content-Length", ""))
        return _Held(
            sha256=etag if _SHA256.fullmatch(etag) else None,  # of small files: a git id
            size=int(size) if size.isdecimal() else None,
            commit=headers.get("X-Repo-Commit"),
        )

    def _refusal(self, error: RefusedError, site: str) -> str:
        code, folder = error.headers.get("X-Error-Code"), {"space": "spaces/", "dataset": "datasets/"}
        if code == "GatedRepo":
            return (
                f"it is gated: accept its terms at {site}/{folder.get(self.type, '')}{self.repository}, "
                f"make a token at {site}/settings/tokens and set HF_TOKEN to it"
            )
        if code == "RevisionNotFound":
            return f"the repository has no revision {self.revision}"
        if code == "EntryNotFound":
            return f"the repository holds no {self.path}"
        reason = one_line(error.headers.get("X-Error-Message", ""))
        if code == "RepoNotFound" or (error.status == HTTPStatus.UNAUTHORIZED and not reason):
            return (
                f"there is no repository {self.repository}, or it is private (a token from "
                f"{site}/settings/tokens in HF_TOKEN opens it)"
            )
        return f"the Hub answers {error.status}{f' ({reason})' if reason else ''}"
