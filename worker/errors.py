"""How an attempt's failure is classed: which code the client sees, and whether another attempt may help."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.exc import OperationalError

from checkpoints.errors import CheckpointError, DownloadError, LockTimeoutError
from mt3_infer.errors import AudioError, MT3Error
from shared.errors import ServiceError


class SilentAudioError(AudioError):
    """The recording holds no sound."""

    code = "silent_audio"


@dataclass(frozen=True)
class Failure:
    """What is written into the job."""

    code: str
    detail: str
    retryable: bool


def classify(error: Exception) -> Failure:
    """The one place that says which failures another attempt may mend."""
    match error:
        case MemoryError():
            return Failure("out_of_memory", "The worker ran out of memory.", retryable=True)
        case OperationalError():
            return Failure("unavailable", "The database did not answer.", retryable=True)
        case ServiceError():
            return Failure(error.code, str(error), retryable=error.retryable)
        case DownloadError() | LockTimeoutError():
            return Failure(error.code, str(error), retryable=True)
        case MT3Error() | CheckpointError():
            return Failure(error.code, str(error), retryable=False)
        case _:
            return Failure("internal_error", "Something went wrong on our side.", retryable=True)
