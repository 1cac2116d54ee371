"""Errors that clients of the service may see, each with a stable `code`.

ServiceError
├── JobNotFound            not_found
├── StateConflict          state_conflict          the job's state does not allow the request
├── CorrectionsChanged     precondition_failed     other corrections were stored meanwhile
├── IdempotencyConflict    idempotency_conflict    the key was used before, for another request
├── InvalidCursor          invalid_cursor
├── KeyNotFound            key_not_found           there is no API key of that id
├── Exposed                exposed                 the service would be open to a network without keys
├── QuotaExceeded          quota_exceeded          the owner has as much queued or stored as it may
├── ShareNotFound          share_not_found         the share link is unknown, expired or revoked
├── StorageFull            storage_full            all owners together have as much stored as the service may
├── RecordingRemoved       recording_removed       the recording was removed after its time in storage
├── ObjectMissing          object_missing          storage answers, but has no such file
└── Unavailable            unavailable             database, queue or storage is unavailable: try again
    ├── StorageUnavailable
    └── DatabaseUnavailable

`retryable` is True if another attempt may help.
"""

from __future__ import annotations

import errno
from typing import ClassVar

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ServiceError(Exception):
    """Base class of the errors that the service raises on purpose. The message is one sentence for a person."""

    code: ClassVar[str] = "service_error"
    retryable: ClassVar[bool] = False


class JobNotFound(ServiceError):  # noqa: N818 - reads better where it is raised
    """There is no such job, or it belongs to another client."""

    code = "not_found"


class StateConflict(ServiceError):  # noqa: N818
    """The job's state does not allow the request."""

    code = "state_conflict"


class CorrectionsChanged(ServiceError):  # noqa: N818
    """The corrections that a request changes are no longer those that are stored."""

    code = "precondition_failed"


class IdempotencyConflict(ServiceError):  # noqa: N818
    """The idempotency key was used before with another request."""

    code = "idempotency_conflict"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used before with a different request. Use a new key.")


class InvalidCursor(ServiceError):  # noqa: N818
    """The cursor was not made by this service."""

    code = "invalid_cursor"


class KeyNotFound(ServiceError):  # noqa: N818
    """There is no API key of that id."""

    code = "key_not_found"


class Exposed(ServiceError):  # noqa: N818
    """The service would be open to everybody in a network."""

    code = "exposed"


class QuotaExceeded(ServiceError):  # noqa: N818
    """The owner has as much queued or stored as it may.

    Attributes:
        quota: the name of the quota: `jobs`, `audio` or `stored`.
        limit: its value.
        may_wait: True if the same request may succeed later without the client doing anything.
    """

    code = "quota_exceeded"

    def __init__(self, quota: str, limit: float, message: str, *, may_wait: bool) -> None:
        super().__init__(message)
        self.quota = quota
        self.limit = limit
        self.may_wait = may_wait


class StorageFull(ServiceError):  # noqa: N818
    """The service has as much stored as MT3_MAX_STORED_BYTES allows."""

    code = "storage_full"


class ShareNotFound(ServiceError):  # noqa: N818
    """The share link is unknown, expired or revoked."""

    code = "share_not_found"


class Unavailable(ServiceError):  # noqa: N818
    """A dependency is temporarily unavailable."""

    code = "unavailable"
    retryable = True


class StorageUnavailable(Unavailable):
    """The object storage does not answer, or answers with a server error."""


class RecordingRemoved(ServiceError):  # noqa: N818
    """The recording of a job was removed after MT3_UPLOAD_TTL_DAYS."""

    code = "recording_removed"

    def __init__(self) -> None:
        super().__init__("The recording was removed after its time in storage. Upload it again to use it.")


class ObjectMissing(ServiceError):  # noqa: N818
    """Storage answers but has no such object."""

    code = "object_missing"


def is_disk_full(error: BaseException) -> bool:
    """Return True if a local disk is full, such as the one for temporary files."""
    return isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS
