"""Errors of this package, as a tree.

CheckpointError                     checkpoint_error
├── CatalogError                    invalid_catalog
├── UnknownCheckpointError          unknown_checkpoint
├── CheckpointNotFoundError         checkpoint_not_found
│   └── OfflineError                checkpoint_offline
├── DownloadError                   checkpoint_download_failed
├── ChecksumError                   checkpoint_corrupt
├── DiskSpaceError                  disk_full
├── StoreNotWritableError           checkpoint_dir_not_writable
├── LockTimeoutError                checkpoint_lock_timeout
├── BundleError                     invalid_bundle
└── SourceError                     checkpoint_source_failed   one source; the store then tries the next

A `code` is stable: the service passes it to clients unchanged. A message is one sentence for a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class CheckpointError(Exception):
    """Anything that this package raises on purpose."""

    code: ClassVar[str] = "checkpoint_error"


class CatalogError(CheckpointError):
    """The catalog contradicts itself or names something that does not exist."""

    code = "invalid_catalog"


class UnknownCheckpointError(CheckpointError):
    """No checkpoint goes by that name or alias."""

    code = "unknown_checkpoint"


class CheckpointNotFoundError(CheckpointError):
    """The checkpoint is known but not installed."""

    code = "checkpoint_not_found"


class OfflineError(CheckpointNotFoundError):
    """The checkpoint is not installed, and offline mode forbids fetching it."""

    code = "checkpoint_offline"


class DownloadError(CheckpointError):
    """Every source failed.

    Attributes:
        attempts: (source, reason) in the order in which they were tried.
    """

    code = "checkpoint_download_failed"

    def __init__(self, message: str, attempts: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class ChecksumError(CheckpointError):
    """The bytes are not those that the catalog promises."""

    code = "checkpoint_corrupt"


class DiskSpaceError(CheckpointError):
    """Too little room for the download."""

    code = "disk_full"


class StoreNotWritableError(CheckpointError):
    """The checkpoint directory cannot be written to."""

    code = "checkpoint_dir_not_writable"


class LockTimeoutError(CheckpointError):
    """Another process has held the checkpoint's lock for too long."""

    code = "checkpoint_lock_timeout"


class BundleError(CheckpointError):
    """An archive is not a bundle of checkpoints that can be used here."""

    code = "invalid_bundle"


class SourceError(CheckpointError):
    """One source could not deliver. The message completes "from SOURCE: …"."""

    code = "checkpoint_source_failed"
