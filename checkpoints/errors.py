"""Errors of this package, as a tree.

CheckpointError                     checkpoint_error
├── CatalogError                    invalid_catalog
├── UnknownCheckpointError          unknown_checkpoint
├── CheckpointNotFoundError         checkpoint_not_found
│   └── OfflineError                checkpoint_offline
├── LicenseNotAdmittedError         license_not_admitted
├── DownloadError                   checkpoint_download_failed
├── ChecksumError                   checkpoint_corrupt
├── DiskSpaceError                  disk_full
├── StoreNotWritableError           checkpoint_dir_not_writable
├── LockTimeoutError                checkpoint_lock_timeout
├── BundleError                     invalid_bundle
└── SourceError                     checkpoint_source_failed   one source; the store then tries the next

A `code` is stable: the service passes it to clients unchanged. A message is one sentence with all details,
for the command line and the log; `user_message` is what the service shows to its users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class CheckpointError(Exception):
    """Base class of all errors of this package.

    Attributes:
        user_message: one sentence without paths, sums and addresses, for users who cannot change the installation.
    """

    code: ClassVar[str] = "checkpoint_error"
    user_message: ClassVar[str] = (
        "The model cannot be installed. Ask the operator of the service to check its checkpoint settings."
    )


class CatalogError(CheckpointError):
    """The catalog contradicts itself or names something that does not exist."""

    code = "invalid_catalog"


class UnknownCheckpointError(CheckpointError):
    """No checkpoint has that name or alias."""

    code = "unknown_checkpoint"
    user_message = "The worker does not know this model. Ask the operator of the service to update the worker."


class LicenseNotAdmittedError(CheckpointError):
    """The license of the weights is not among those that MT3_LICENSES admits."""

    code = "license_not_admitted"
    user_message = (
        "The license of this model's weights does not allow commercial use, which this service requires. "
        "Choose another model."
    )


class CheckpointNotFoundError(CheckpointError):
    """The checkpoint is known but not installed."""

    code = "checkpoint_not_found"
    user_message = (
        "The model is not installed. Choose another one, or ask the operator of the service to install it."
    )


class OfflineError(CheckpointNotFoundError):
    """The checkpoint is not installed, and offline mode forbids fetching it."""

    code = "checkpoint_offline"


class DownloadError(CheckpointError):
    """Every source failed.

    Attributes:
        attempts: (source, reason) in the order in which they were tried.
    """

    code = "checkpoint_download_failed"
    user_message = "The model could not be downloaded. Try again later, or choose another one."

    def __init__(self, message: str, attempts: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class ChecksumError(CheckpointError):
    """The bytes differ from those in the catalog."""

    code = "checkpoint_corrupt"
    user_message = (
        "The model's files are damaged. Choose another one, or ask the operator of the service to check it."
    )


class DiskSpaceError(CheckpointError):
    """Too little room for the download."""

    code = "disk_full"
    user_message = "The worker lacks disk space for the model. Ask the operator of the service to free some."


class StoreNotWritableError(CheckpointError):
    """The checkpoint directory cannot be written to."""

    code = "checkpoint_dir_not_writable"


class LockTimeoutError(CheckpointError):
    """Another process has held the checkpoint's lock for too long."""

    code = "checkpoint_lock_timeout"
    user_message = "The download of the model made no progress. Try again later."


class BundleError(CheckpointError):
    """An archive is not a bundle of checkpoints that can be used here."""

    code = "invalid_bundle"


class SourceError(CheckpointError):
    """One source could not deliver. The message completes "from SOURCE: …"."""

    code = "checkpoint_source_failed"
