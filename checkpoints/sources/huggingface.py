"""Fetches one file from the Hugging Face Hub, or from what `HF_ENDPOINT` names.

huggingface_hub knows addresses, tokens (`HF_TOKEN`, or what its own login left) and what refusals mean; the
bytes come by our own download, so that an interrupted one is continued as from any other source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import PATIENT, Address, Patience, download
from checkpoints.sources.git_lfs import require_announced

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        held = self._ask(url, endpoint, token)
        announced = held.etag if held.etag and _SHA256.fullmatch(held.etag) else None  # of small files: a git id
        if file.sha256 and announced not in (None, file.sha256):
            raise SourceError(f"{self.path} is another file there now (sha256 {announced})")
        if file.sha256 is None and announced:
            file = replace(file, sha256=announced, size=held.size or file.size)
        address = Address(url, {"Authorization": f"Bearer {token}"} if token else {})
        resource = f"hf:{self.repository}/{self.path}@{held.commit_hash}"
        sha256 = download(lambda: address, resource, file, part, progress, self.patience)
        if announced:
            require_announced(part, file, sha256)
        return sha256

    def _ask(self, url: str, endpoint: str | None, token: str | None) -> HfFileMetadata:
        from huggingface_hub import errors, get_hf_file_metadata

        site = (endpoint or "https://huggingface.co").rstrip("/")
        folder = {"model": "", "space": "spaces/", "dataset": "datasets/"}[self.type]
        try:
            return get_hf_file_metadata(
                url, token=token or False, timeout=self.patience.timeout, endpoint=endpoint
            )
        except errors.GatedRepoError:
            raise SourceError(
                f"it is gated: accept its terms at {site}/{folder}{self.repository}, make a token "
                f"at {site}/settings/tokens and set HF_TOKEN to it"
            ) from None
        except errors.RepositoryNotFoundError:
            raise SourceError(
                f"there is no repository {self.repository}, or it is private (a token from "
                f"{site}/settings/tokens in HF_TOKEN opens it)"
            ) from None
        except errors.RevisionNotFoundError:
            raise SourceError(f"the repository has no revision {self.revision}") from None
        except errors.EntryNotFoundError:
            raise SourceError(f"the repository holds no {self.path}") from None
        except errors.HfHubHTTPError as error:
            raise SourceError(f"the Hub answers {error.response.status_code}") from error
        except Exception as error:  # its HTTP library's, which is another in each of its major versions
            raise SourceError(f"the Hub at {site} cannot be asked ({type(error).__name__}: {error})") from error
