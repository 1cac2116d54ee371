"""Classification of failures: which error code the client sees, and whether another attempt may help."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from checkpoints.errors import CheckpointError, DownloadError, LockTimeoutError
from mt3_infer.errors import AudioError, MT3Error
from shared.db import is_unavailable
from shared.errors import ServiceError, Unavailable, is_disk_full

OUT_OF_MEMORY = "out_of_memory"
ALLOCATION_MESSAGES = ("can't allocate memory", "Failed to allocate memory", "bad_alloc")


class SilentAudioError(AudioError):
    """The recording is silent."""

    code = "silent_audio"


class NotDelivered(ServiceError):  # noqa: N818
    """The receiver of a webhook did not accept it. The next attempt is after `pause`; None if there is none."""

    code = "webhook_not_delivered"

    def __init__(self, message: str, pause: float | None) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True)
class Failure:
    """The error that is written into the job.

    `is_counted` is False if the attempt does not count towards MT3_MAX_ATTEMPTS: when a dependency of the service
    is unavailable, the job is not to blame and waits for it. `pause` is the time until the next attempt in
    seconds; without it, the time grows with the number of attempts.
    """

    code: str
    detail: str
    retryable: bool
    is_counted: bool = True
    pause: float | None = None


def classify(error: Exception) -> Failure:
    """Classify an error: the one place that decides which failures are retried."""
    if is_out_of_memory(error):
        return Failure(OUT_OF_MEMORY, "The worker ran out of memory.", retryable=True)
    if is_unavailable(error):
        return Failure("unavailable", "The database did not answer.", retryable=True, is_counted=False)
    if is_disk_full(error):
        return Failure("unavailable", "The worker's disk is full.", retryable=True, is_counted=False)
    match error:
        case Unavailable():
            return Failure(error.code, str(error), retryable=True, is_counted=False)
        case NotDelivered():
            return Failure(error.code, str(error), error.pause is not None, is_counted=False, pause=error.pause)
        case ServiceError():
            return Failure(error.code, str(error), retryable=error.retryable)
        case DownloadError() | LockTimeoutError():
            return Failure(error.code, error.user_message, retryable=True)
        case CheckpointError():
            return Failure(error.code, error.user_message, retryable=False)
        case MT3Error():
            return Failure(error.code, str(error), retryable=False)
        case _:
            detail = "An internal error occurred. The worker's log has the details; retrying may help."
            return Failure("internal_error", detail, retryable=True)


def is_out_of_memory(error: Exception) -> bool:
    """Return True if the machine or the GPU ran out of memory, by the error of any library in use."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # if it is not loaded, it cannot have raised the error
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # PyTorch on a CPU and onnxruntime have no dedicated class for it.
    return isinstance(error, RuntimeError) and any(message in str(error) for message in ALLOCATION_MESSAGES)
