"""A client of the service: submit recordings, wait for their notes, download files.

    from mt3_infer.client import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit("song.mp3", model="basic_pitch")
        client.download(client.wait(job.id), "transcription.mid", "song.mid")

Needs the extra `client`. Recordings of 16 MB and more are sent in parts and go on where an earlier attempt
stopped, even in another process. Requests are repeated while the service is unavailable; none has its effect
twice.
"""

from __future__ import annotations

from mt3_infer.client.client import Client
from mt3_infer.client.errors import (
    ApiError,
    ClientError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    RateLimitedError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from mt3_infer.client.views import Artifact, ErrorDetail, Export, Job, Progress, Queue

__all__ = [
    "ApiError",
    "Artifact",
    "Client",
    "ClientError",
    "ConflictError",
    "ErrorDetail",
    "Export",
    "ForbiddenError",
    "InvalidRequestError",
    "Job",
    "JobFailedError",
    "NotFoundError",
    "Progress",
    "Queue",
    "RateLimitedError",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
    "WaitTimeoutError",
]
