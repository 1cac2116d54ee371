"""Fetch a recording from the URL that a client named, within limits of size and time, then have it transcribed.

A connection that breaks off is resumed where it ended if the server can do so; see `shared.public_address` for
what is never requested.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from urllib3 import BaseHTTPResponse

from shared.config import Settings
from shared.errors import ServiceError
from shared.kinds import TRANSCRIBE, Claim, Download, NewItem
from shared.logs import get_logger
from shared.public_address import PublicHttp, RequestFailed
from shared.storage import upload_prefix
from shared.tables import Job, Phase, Status
from worker.context import Context, Done

log = get_logger(__name__)

PIECE_BYTES = 256 * 1024
TRIES = 5  # connections in a row that bring nothing
PAUSE_SECONDS = 1.0  # before the second of them, doubled each time
TIMEOUT_SECONDS = 20.0  # without a byte
REDIRECTS = 5
PAGES = ("text/html", "application/xhtml+xml")
HINTS = {401: "it needs a log-in", 403: "it does not allow that", 404: "there is no such file", 410: "it is gone"}
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class SourceUnavailable(ServiceError):  # noqa: N818 - reads better where it is raised
    """The server refuses to send the recording."""

    code = "source_unavailable"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable  # type: ignore[misc]


class SourceTooLarge(ServiceError):  # noqa: N818
    """The recording is larger than allowed."""

    code = "source_too_large"


class SourceTooSlow(ServiceError):  # noqa: N818
    """The recording did not arrive in time."""

    code = "source_too_slow"


class SourceNotAudio(ServiceError):  # noqa: N818
    """The URL leads to a web page or to nothing."""

    code = "source_not_audio"


@dataclass
class Fetch:
    """A file that is fetched, over one connection or several.

    Attributes:
        report: called with the bytes that are there and those there will be, 0 if unknown; what it raises ends it.
    """

    http: PublicHttp
    url: str
    file: BinaryIO
    max_bytes: int
    seconds: float
    report: Callable[[int, int], None]
    done: int = 0
    total: int | None = None
    etag: str | None = None

    def run(self) -> int:
        """Fetch the whole file; return its size.

        Raises:
            AddressRefused, RequestFailed, SourceUnavailable, SourceTooLarge, SourceTooSlow, SourceNotAudio
        """
        deadline = time.monotonic() + self.seconds
        failures = 0
        while True:
            begun_at = self.done
            try:
                self._connect(deadline - time.monotonic())
                return self.done
            except (RequestFailed, SourceUnavailable) as error:
                if time.monotonic() >= deadline:
                    raise SourceTooSlow(
                        f"The recording did not arrive within {self.seconds:,.0f} seconds. Upload it instead."
                    ) from error
                failures = 0 if self.done > begun_at else failures + 1
                if not error.retryable or failures >= TRIES:
                    raise
                log.info("source_broke_off", bytes_done=self.done, error=str(error))
            self._pause(min(deadline, time.monotonic() + PAUSE_SECONDS * 2 ** max(0, failures - 1)))

    def _connect(self, seconds: float) -> None:
        headers = {}
        if self.done and self.etag:
            headers = {"Range": f"bytes={self.done}-", "If-Range": self.etag}
        with self.http.open(
            "GET",
            self.url,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            deadline=max(0.001, seconds),
            redirects=REDIRECTS,
        ) as response:
            self._begin(response, is_resuming=bool(headers))
            for piece in response.stream(PIECE_BYTES, decode_content=False):
                self.file.write(piece)
                self.done += len(piece)
                self._check_size(self.done)
                self.report(self.done, self.total or 0)
        if self.total is not None and self.done < self.total:
            raise RequestFailed("The connection broke off.")
        if not self.done:
            raise SourceNotAudio("The URL leads to an empty file. Check it in a browser.")

    def _begin(self, response: BaseHTTPResponse, *, is_resuming: bool) -> None:
        """Continue after the bytes that are there if the server does so, else start over."""
        if response.status == 206 and is_resuming:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if match and int(match[1]) == self.done and response.headers.get("ETag") == self.etag:
                return
            self._start_over()
            raise RequestFailed("The server does not resume where it should.")
        if response.status == 416 and is_resuming:
            self._start_over()
            raise RequestFailed("The server does not resume.")
        if response.status != 200:
            self._refuse(response)
        self._start_over()
        if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() in PAGES:
            raise SourceNotAudio("The URL leads to a web page. Use the address of the recording itself.")
        length = response.headers.get("Content-Length", "")
        self.total = int(length) if length.isdecimal() else None
        self._check_size(self.total or 0)
        etag = response.headers.get("ETag", "")
        self.etag = etag if etag.startswith('"') else None  # a weak one does not identify bytes

    def _start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.done, self.total, self.etag = 0, None, None

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise SourceTooLarge(
                f"The recording exceeds the limit of {self.max_bytes / 1e6:,.0f} MB. Use a more compressed one."
            )

    def _refuse(self, response: BaseHTTPResponse) -> None:
        status = response.status
        hint = HINTS.get(status, "try again later" if status in BUSY else "check the URL in a browser")
        raise SourceUnavailable(
            f"The server of the URL answered with status {status}: {hint}.", retryable=status in BUSY
        )

    def _pause(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self.report(self.done, self.total or 0)
            time.sleep(min(0.25, left))


def stores(claim: Claim) -> Sequence[str]:
    """Return the prefix under which an attempt stores the recording."""
    return (_prefix(claim),)


def make_http(settings: Settings) -> PublicHttp:
    """Return the way to the servers of clients."""
    return PublicHttp(settings.allowed_networks)


def run(context: Context) -> Done:
    """Fetch the recording, and put the job back in line for its transcription.

    Raises:
        AddressRefused, RequestFailed, SourceUnavailable, SourceTooLarge, SourceTooSlow, SourceNotAudio
    """
    claim, services = context.claim, context.services
    started = time.monotonic()

    def report(done: int, total: int) -> None:
        speed = round(done / max(time.monotonic() - started, 1e-3))
        context.heartbeat.report(Phase.FETCHING_SOURCE, download=Download(done, total, speed, waiting=False))

    report(0, 0)
    with cast(BinaryIO, tempfile.TemporaryFile()) as file:
        settings = services.settings
        fetch = Fetch(
            make_http(settings),
            claim.payload["url"],
            file,
            settings.max_recording_bytes,
            settings.fetch_seconds,
            report,
        )
        size = fetch.run()
        file.seek(0)
        key = _prefix(claim) + "audio"
        services.storage.put(key, file, content_type="application/octet-stream")
    log.info("source_fetched", bytes=size, seconds=round(time.monotonic() - started, 1))
    job = {
        "status": Status.QUEUED,
        "phase": None,
        "download": None,
        "attempts": Job.attempts - 1,  # counted again when the transcription begins
        "upload_key": key,
        "upload_bytes": size,
    }
    return Done(then=[NewItem(TRANSCRIBE, input_key=key)], job=job)


def _prefix(claim: Claim) -> str:
    return f"{upload_prefix(claim.job_id)}{claim.attempt}/"
