"""Download weights of one's own, resumed and verified: thin wrappers around `checkpoints`.

    from mt3_infer.utils.download import download_file, download_from_huggingface

    download_file(url="https://example.com/checkpoint.pth", output_path="custom.pth", expected_sha256="abc123…")
    download_from_huggingface(repo_id="owner/name", filename="model.pth", output_path="model.pth")

Both raise the branches of `CheckpointError`: `DownloadError` (it cannot be had), `ChecksumError` (it is another
file), `OfflineError`, `StoreNotWritableError`, `DiskSpaceError`. An interrupted download is continued by the next.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from checkpoints.single import fetch_file
from checkpoints.sources.huggingface import HuggingFaceSource
from checkpoints.sources.url import UrlSource


def _ignore(size: int) -> None:
    """Show nothing."""


def download_file(
    url: str,
    output_path: str | Path,
    expected_sha256: str | None = None,
    *,
    progress: Callable[[int], None] = _ignore,
) -> Path:
    """Download from an http(s) address to `output_path`, replacing what is there; return the path.

    Args:
        expected_sha256: 64 hexadecimal digits; without it, only web pages, Git LFS pointers and empty files
            are refused.
        progress: called with the bytes that are here; what it raises ends the download.
    """
    return fetch_file(UrlSource(url), Path(output_path), sha256=expected_sha256, progress=progress)


def download_from_huggingface(
    repo_id: str,
    filename: str,
    output_path: str | Path,
    expected_sha256: str | None = None,
    *,
    revision: str = "main",
    repo_type: str = "model",
    progress: Callable[[int], None] = _ignore,
) -> Path:
    """Download from the Hugging Face Hub to `output_path`, replacing what is there; return the path.

    A token is taken from `HF_TOKEN` or a login of huggingface_hub; `HF_ENDPOINT` names another Hub.

    Args:
        repo_type: "model", "space" or "dataset".
    """
    source = HuggingFaceSource(repo_id, filename, revision, repo_type)
    return fetch_file(source, Path(output_path), sha256=expected_sha256, progress=progress)
