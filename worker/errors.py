"""How an attempt's failure is classed: which code the client sees, and whether another attempt may help."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from checkpoints.errors import CheckpointError, DownloadError, LockTimeoutError
from mt3_infer.errors import AudioError, MT3Error
from shared.db import is_away
from shared.errors import ServiceError, Unavailable, is_disk_full

OUT_OF_MEMORY = "out_of_memory"
ALLOCATION_WORDS = ("can't allocate memory", "Failed to allocate memory", "bad_alloc")


class SilentAudioError(AudioError):
    """The recording holds no sound."""

    code = "silent_audio"


@dataclass(frozen=True)
class Failure:
    """What is written into the job.

    `is_counted`: whether the attempt counts towards MT3_MAX_ATTEMPTS. Where a part of ours was away, the
    job is not to blame and waits for it.
    """

    code: str
    detail: str
    retryable: bool
    is_counted: bool = True


def classify(error: Exception) -> Failure:
    """Class an error: the one place that decides which failures another attempt may mend."""
    if is_out_of_memory(error):
        return Failure(OUT_OF_MEMORY, "The worker ran out of memory.", retryable=True)
    if is_away(error):
        return Failure("unavailable", "The database did not answer.", retryable=True, is_counted=False)
    if is_disk_full(error):
        return Failure("unavailable", "A disk of ours is full.", retryable=True, is_counted=False)
    match error:
        case Unavailable():
            return Failure(error.code, str(error), retryable=True, is_counted=False)
        case ServiceError():
            return Failure(error.code, str(error), retryable=error.retryable)
        case DownloadError() | LockTimeoutError():
            return Failure(error.code, error.user_message, retryable=True)
        case CheckpointError():
            return Failure(error.code, error.user_message, retryable=False)
        case MT3Error():
            return Failure(error.code, str(error), retryable=False)
        case _:
            return Failure("internal_error", "Something went wrong on our side.", retryable=True)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, of the machine or of the GPU, in the words of any library that we run on."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # if it is not loaded, it raised nothing
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # PyTorch on a CPU, and onnxruntime, have no class of their own for it.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION_WORDS)
