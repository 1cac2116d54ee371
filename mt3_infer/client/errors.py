"""Errors of the client.

ClientError
├── UnreachableError          the service cannot be reached
├── JobFailedError            the transcription failed or was canceled
├── WaitTimeoutError          the transcription has not ended in time
└── ApiError                  the service answered with a problem document (RFC 9457); `code` is stable
    ├── InvalidRequestError   400, 415, 422
    ├── UnauthorizedError     401
    ├── ForbiddenError        403
    ├── NotFoundError         404, 410
    ├── ConflictError         409
    ├── TooLargeError         413
    ├── RateLimitedError      429
    └── UnavailableError      503
"""

from __future__ import annotations

from typing import Any

from mt3_infer.errors import MT3Error


class ClientError(MT3Error):
    """Base class of all errors of the client. The message is one sentence for the user."""

    code = "client_error"


class UnreachableError(ClientError):
    """The service cannot be reached, or the connection broke again and again."""

    code = "unreachable"


class JobFailedError(ClientError):
    """The transcription failed or was canceled; `code` is that of its error."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this one error


class WaitTimeoutError(ClientError):
    """The transcription has not ended in time; it goes on."""

    code = "wait_timeout"


class ApiError(ClientError):
    """The service refused a request.

    Attributes:
        status: of HTTP.
        code: stable, for programs.
        retry_after: seconds after which the request may succeed, if the service named them.
        fields: what is wrong with which field of the request.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        retry_after: float | None = None,
        fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # type: ignore[misc]
        self.retry_after = retry_after
        self.fields = fields or {}


class InvalidRequestError(ApiError):
    """Something in the request is wrong."""


class UnauthorizedError(ApiError):
    """A key is needed, or it is wrong, expired or revoked."""


class ForbiddenError(ApiError):
    """The key does not allow this."""


class NotFoundError(ApiError):
    """There is no such job or file, or it belongs to another owner."""


class ConflictError(ApiError):
    """The state of the job does not allow this."""


class TooLargeError(ApiError):
    """The recording is larger than the service takes."""


class RateLimitedError(ApiError):
    """There were too many requests."""


class UnavailableError(ApiError):
    """The service, or something that it depends on, is unavailable."""


CLASSES: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    413: TooLargeError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
    503: UnavailableError,
}
