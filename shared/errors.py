"""Errors that a client of the service may meet, each with a stable `code`.

ServiceError
├── JobNotFound            not_found
├── StateConflict          state_conflict          what was asked is not possible in the job's state
├── IdempotencyConflict    idempotency_conflict    the key was used before, for another request
├── InvalidCursor          invalid_cursor
└── Unavailable            unavailable             database, queue or storage is away: try again
    ├── StorageUnavailable
    └── DatabaseUnavailable

`retryable` says once, for worker and reconciler, whether another attempt may help.
"""

from __future__ import annotations

import errno
from typing import ClassVar

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ServiceError(Exception):
    """Anything the service raises on purpose. The message is one sentence for a person."""

    code: ClassVar[str] = "service_error"
    retryable: ClassVar[bool] = False


class JobNotFound(ServiceError):  # noqa: N818 - reads better where it is raised
    """No such job, or not this client's."""

    code = "not_found"


class StateConflict(ServiceError):  # noqa: N818
    """The job's state forbids what was asked."""

    code = "state_conflict"


class IdempotencyConflict(ServiceError):  # noqa: N818
    """The idempotency key was used before with another request."""

    code = "idempotency_conflict"


class InvalidCursor(ServiceError):  # noqa: N818
    """The cursor was not made by this service."""

    code = "invalid_cursor"


class Unavailable(ServiceError):  # noqa: N818
    """A part that we need is away for now."""

    code = "unavailable"
    retryable = True


class StorageUnavailable(Unavailable):
    """The object storage does not answer, or answers with an error of its own."""


class ObjectMissing(ServiceError):  # noqa: N818
    """Storage answers, and has no such object."""

    code = "object_missing"


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk of ours has no room left, such as the one for temporary files."""
    return isinstance(error, OSError) and error.errno in NO_ROOM
