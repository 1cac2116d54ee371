"""Downloads over HTTP that break off and go on: `Range` + `If-Range`, redirects, retries with backoff.

What continues a part: its bytes, and in its note the resource that they came from with that resource's strong
ETag. A server that then answers with anything but 206 and the matching `Content-Range` is answered by starting
over, so bytes of two versions are never joined. A part that came from elsewhere, or without a strong ETag, is
continued only where the catalogue knows the sum, which then tells whether the two ends fit.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile, resume_note

_BLOCK_BYTES = 1 << 20
_ENOUGH_BYTES = 1 << 16  # a connection that brought this many earns the next ones the full number of tries
_SMALL_BYTES = 1 << 16  # a body of the wrong size is looked at before it is refused if it is no longer than this
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_TICK_SECONDS = 0.25  # how often `progress` is called while nothing moves


@dataclass(frozen=True)
class Address:
    """Where to ask now, and with which headers."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """How long to put up with a server.

    Attributes:
        tries: connections in a row that may bring next to nothing; at least 1.
        timeout: seconds without a byte after which a connection is given up.
        backoff: seconds before the second try; doubled each time.
        longest: seconds that a pause may last, whatever the server asks for.
    """

    tries: int = 5
    timeout: float = 30.0
    backoff: float = 1.0
    longest: float = 30.0


PATIENT = Patience()


class _InterruptedError(Exception):
    """The connection ended too early; another may do better after `pause` seconds (None: as usual)."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


def download(
    locate: Callable[[], Address],
    resource: str,
    file: CheckpointFile,
    part: Path,
    progress: Callable[[int], None],
    patience: Patience,
) -> str:
    """Fill `part`, going on where it ends; give the sha256 of all that it then holds.

    Args:
        locate: asked before each connection, so that signed links can be fresh.
        resource: names what is downloaded; the same each time, however its links are signed.
        file: its size, if it is certain, says how far to go; with a sum, any source's bytes are continued.
    Raises:
        SourceError: in a few words why not; the part keeps what came.
    """
    tries = patience.tries
    with _Part(part, resource) as out:
        while out.size != file.exact_size:
            before = out.size
            try:
                _connect(locate(), file, out, progress, patience)
                break
            except _InterruptedError as error:
                tries = patience.tries if out.size - before >= _ENOUGH_BYTES else tries - 1
                if tries == 0:
                    raise SourceError(f"{error} ({patience.tries} times in a row)") from error
                _wait(_pause(error, patience.tries - tries, patience), lambda: progress(out.size))
        return out.sha256()


def read(address: Address, patience: Patience, *, data: bytes | None = None, limit: int = 1 << 24) -> bytes:
    """Give a body of at most `limit` bytes.

    Raises:
        SourceError: it cannot be had; where the server refused, its `status` says how.
    """
    for attempt in range(1, patience.tries + 1):
        try:
            with open_address(address, patience, data=data) as response:
                return _read_whole(response, patience, limit)
        except _InterruptedError as error:
            if attempt == patience.tries:
                raise SourceError(f"{error} ({patience.tries} times in a row)") from error
            time.sleep(_pause(error, attempt, patience))
    raise AssertionError("patience.tries is at least 1")


class RefusedError(SourceError):
    """The server answered, and the answer was no."""

    def __init__(self, status: int, headers: Message) -> None:
        super().__init__(_status_words(status))
        self.status = status
        self.headers = headers


def open_address(
    address: Address, patience: Patience, *, data: bytes | IO[bytes] | None = None, method: str | None = None
) -> HTTPResponse:
    """Ask, following redirects, through the proxies that the environment names.

    Raises:
        RefusedError: an answer that asking again will not change.
        SourceError: it cannot be asked at all.
    """
    if urlsplit(address.url).scheme not in ("http", "https"):
        raise SourceError(f"{address.url} is not an http address")
    headers = {"User-Agent": "mt3-infer", "Accept-Encoding": "identity", **address.headers}
    request = urllib.request.Request(address.url, data, headers, method=method)  # noqa: S310 - checked above
    try:
        response: HTTPResponse = _opener.open(request, timeout=patience.timeout)
    except (OSError, HTTPException) as error:
        raise _failure(error, patience) from error
    return response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most 10; takes credentials to no other host, and never leaves https or HTTP altogether."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Ask at the new address what was asked at the old one."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in {"https", old.scheme}:
            fp.close()
            raise SourceError(f"it redirects from {old.scheme} to {new.scheme}")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and old.netloc != new.netloc:
            request.remove_header("Authorization")
        return request


_opener = urllib.request.build_opener(_Redirects)


class _Part:
    """The part being written, and what is needed to continue it another time.

    The sum is taken as the bytes are written, since nobody else writes to a part; by a thread, so that hashing one
    block takes no longer than waiting for the next.
    """

    def __init__(self, path: Path, resource: str) -> None:
        self._path = path
        self._resource = resource
        self._note = resume_note(path)
        self._etag: str | None = None
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-hasher")
        self._hashed: Future[None] | None = None
        self.size = 0

    def __enter__(self) -> _Part:
        self._stream = self._path.open("r+b", buffering=0)
        while block := self._stream.read(1 << 20):
            self._add(block)
        if self.size and self._note.exists():
            note = json.loads(self._note.read_text())
            self._etag = note["etag"] if note["resource"] == self._resource else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hasher.shutdown()
        self._stream.close()

    @property
    def etag(self) -> str | None:
        """The strong ETag of the resource that these bytes are of, if it had one."""
        return self._etag

    def restart(self) -> None:
        """Forget all that came."""
        self._finish_hashing()
        self._stream.seek(0)
        self._stream.truncate()
        self._hash = hashlib.sha256()
        self.size = 0
        self._etag = None

    def remember(self, etag: str | None) -> None:
        """Note what the bytes to come are of; a weak ETag does not vouch for bytes."""
        self._etag = etag if etag and not etag.startswith("W/") else None
        self._note.write_text(json.dumps({"resource": self._resource, "etag": self._etag}))

    def write(self, block: bytes) -> None:
        """Append."""
        view = memoryview(block)
        while view:
            view = view[self._stream.write(view) :]
        self._add(block)

    def sha256(self) -> str:
        """Of all bytes."""
        self._finish_hashing()
        return self._hash.hexdigest()

    def _add(self, block: bytes) -> None:
        self._finish_hashing()
        self._hashed = self._hasher.submit(self._hash.update, block)
        self.size += len(block)

    def _finish_hashing(self) -> None:
        if self._hashed is not None:
            self._hashed.result()
            self._hashed = None


def _connect(
    address: Address, file: CheckpointFile, out: _Part, progress: Callable[[int], None], patience: Patience
) -> None:
    """Ask for what is missing and write it."""
    if (out.size and not (out.etag or file.sha256)) or (file.exact_size and out.size > file.exact_size):
        out.restart()
    ranged = out.size > 0
    headers = dict(address.headers)
    if ranged:
        headers["Range"] = f"bytes={out.size}-"
        if out.etag:
            headers["If-Range"] = out.etag
    try:
        response = open_address(Address(address.url, headers), patience)
    except RefusedError as error:
        if ranged and error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            out.restart()
            raise _InterruptedError("it cannot continue the download", pause=0) from error
        raise
    with response:
        # Some S3 servers send the range that was asked for, say so, and call it 200.
        if response.status == HTTPStatus.PARTIAL_CONTENT or "Content-Range" in response.headers:
            if not ranged:
                raise SourceError("it sends a part of the file without having been asked to")
            if not _continues(response, out, file):
                out.restart()
                raise _InterruptedError("it sends another part of the file than was asked for", pause=0)
        elif out.size:
            out.restart()
        out.remember(response.headers.get("ETag"))
        _copy(response, file, out, progress, patience)


def _continues(response: HTTPResponse, out: _Part, file: CheckpointFile) -> bool:
    """Whether a part of the file begins where ours ends, and is of the right file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != out.size or file.exact_size not in (None, int(match[2])):
        return False
    # Only a 206 says that the condition of If-Range was looked at.
    return (
        response.status == HTTPStatus.PARTIAL_CONTENT
        or response.headers.get("ETag") == out.etag
        or bool(file.sha256)
    )


def _copy(
    response: HTTPResponse, file: CheckpointFile, out: _Part, progress: Callable[[int], None], patience: Patience
) -> None:
    length = response.headers.get("Content-Length", "")
    total = out.size + int(length) if length.isdecimal() and not response.chunked else None
    wanted = file.exact_size
    if wanted and total and total != wanted and total > _SMALL_BYTES:
        raise SourceError(f"it has {total:,} bytes, not {wanted:,}")
    progress(out.size)
    while total is None or out.size < total:
        try:
            block = response.read1(_BLOCK_BYTES)
        except (OSError, HTTPException) as error:
            raise _failure(error, patience) from error
        if not block:
            break
        out.write(block)
        progress(out.size)
        if wanted and out.size > wanted:
            return  # enough to know that it is wrong
    if total is not None and out.size < total:
        raise _InterruptedError(f"the connection broke off after {out.size:,} of {total:,} bytes")


def _read_whole(response: HTTPResponse, patience: Patience, limit: int) -> bytes:
    try:
        body = response.read(limit + 1)
    except (OSError, HTTPException) as error:
        raise _failure(error, patience) from error
    if len(body) > limit:
        raise SourceError(f"it sends more than {limit:,} bytes where a few were expected")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(body) < int(length):
        raise _InterruptedError(f"the connection broke off after {len(body):,} of {int(length):,} bytes")
    return body


def _failure(error: OSError | HTTPException, patience: Patience) -> Exception:
    """What to raise instead: an interruption, or the end."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code in _AGAIN:
            asked = error.headers.get("Retry-After", "")
            return _InterruptedError(_status_words(error.code), float(asked) if asked.isdecimal() else None)
        if 300 <= error.code < 400:
            return SourceError("it redirects without end")
        return RefusedError(error.code, error.headers)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SourceError(f"its certificate is not trusted ({reason.verify_message})")
    if isinstance(reason, socket.gaierror):
        return SourceError("its name cannot be resolved")
    if isinstance(reason, TimeoutError):
        return _InterruptedError(f"nothing came for {patience.timeout:g} s")
    if isinstance(reason, OSError) and reason.strerror:
        return _InterruptedError(reason.strerror.lower())
    return _InterruptedError("the connection broke off")


def _status_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"


def _pause(error: _InterruptedError, attempt: int, patience: Patience) -> float:
    usual = patience.backoff * 2 ** max(0, attempt - 1)
    return float(min(usual if error.pause is None else error.pause, patience.longest))


def _wait(seconds: float, alive: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        alive()
        time.sleep(min(left, _TICK_SECONDS))
