"""Download one file to any path, without catalog or store: resumed, verified, renamed at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from checkpoints.errors import CheckpointError, OfflineError
from checkpoints.files import CheckpointFile
from checkpoints.install import install_file, translate_os_errors
from checkpoints.sources import Source
from checkpoints.store import is_offline

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_file(
    source: Source,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> Path:
    """Download to `path`, replacing what is there; return `path`.

    Args:
        sha256: what the file must have; without it, only web pages, Git LFS pointers and nothing are refused.
        progress: called with the bytes that are here; what it raises ends the download and is let through.
    Raises:
        DownloadError, ChecksumError: the download failed, or the file has another sum.
        OfflineError: `MT3_OFFLINE` forbids downloads.
        StoreNotWritableError, DiskSpaceError: it cannot be written.
        CheckpointError: the sum is no SHA-256.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256 := sha256.lower()):
        raise CheckpointError(f"{sha256!r} is no SHA-256: that is 64 hexadecimal digits.")
    if is_offline():
        raise OfflineError(
            f"Offline mode (MT3_OFFLINE) forbids downloads: copy the file to {path} from another machine."
        )
    file = CheckpointFile(path.name, 0, sha256, ())
    with translate_os_errors(path.parent, "folder", "choose another place"):
        install_file(path, file, [source], progress, title=f"The file {path}")
    return path
