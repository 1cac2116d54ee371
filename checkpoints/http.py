"""Downloads over HTTP that resume where they stopped: `Range`, `If-Range` and the part file, on top of urllib3.

urllib3 follows redirects and retries connections and busy servers, within the limits of `Patience`; every request
of every source is made here.

A part is resumed from its bytes and a note that names the resource they came from with that resource's strong
ETag. Any answer other than 206 with the matching `Content-Range` starts the download over, so bytes of two
versions are never joined. A part that came from elsewhere, or without a strong ETag, is resumed only where the
catalog knows the sum, which then shows whether the two ends fit.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from html import unescape
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ResponseError,
)
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile, read_json, resume_note, write_json

if TYPE_CHECKING:
    from urllib3.connectionpool import ConnectionPool

Response: TypeAlias = urllib3.BaseHTTPResponse

_BLOCK_BYTES = 1 << 20
_ENOUGH_BYTES = 1 << 16  # a connection that brought this many earns the next ones the full number of tries
_SMALL_BYTES = 1 << 16  # a body of the wrong size is looked at before it is refused if it is no longer than this
_REASON_BYTES = 1 << 14  # of the body of a refusal
_REASON_LETTERS = 300
_REDIRECTS = 10
_HTTP_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_XML_MESSAGE = re.compile(rb"<Message>([^<]+)</Message>")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
# "aws-chunked" describes an upload; some S3 servers repeat it on the way down, where nothing is coded.
_UNCODED = {"", "identity", "aws-chunked"}
_TICK_SECONDS = 0.25  # how often `alive` is called while nothing moves


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
        backoff: seconds before the second try, doubled each time; up to as much again is added at random, so that
            a thousand workers do not come back at the same moment.
        longest: seconds that a pause may last, whatever the server asks for.
    """

    tries: int = 5
    timeout: float = 30.0
    backoff: float = 1.0
    longest: float = 30.0

    def pause(self, failures: int, asked: float | None = None) -> float:
        """Return how many seconds to wait after so many failures, or as long as the server asks for."""
        seconds = self.backoff * 2 ** max(0, failures - 1) if asked is None else asked
        return min(seconds + random.uniform(0, self.backoff), self.longest)  # noqa: S311 - no secret


PATIENT = Patience()


def _ignore() -> None:
    """Do nothing."""


class RefusedError(SourceError):
    """The server answered, and the answer was no.

    Attributes:
        status: of the answer.
        headers: of the answer.
    """

    def __init__(self, response: Response, tries: int) -> None:
        self.status = response.status
        self.headers = response.headers
        words = _status_words(response.status)
        if reason := _reason_of(response):
            words += f": {reason}"
        super().__init__(f"{words} ({tries} times in a row)" if response.status in _BUSY else words)


def download(
    locate: Callable[[], Address],
    resource: str,
    file: CheckpointFile,
    part: Path,
    progress: Callable[[int], None],
    patience: Patience,
) -> str:
    """Fill `part`, starting where it ends; return the sha256 of all that it then holds.

    Args:
        locate: asked before each connection, so that signed links can be fresh.
        resource: names what is downloaded; the same each time, however its links are signed.
        file: its size, if it is certain, says how far to go; with a sum, any source's bytes are resumed.
    Raises:
        SourceError: in a few words why not; the part keeps what came.
    """
    with _Part(part, resource) as out:
        retries = _Retries.start(patience, lambda: progress(out.size))
        while out.size != file.exact_size:
            before = out.size
            try:
                _connect(locate(), file, out, progress, patience)
                break
            except HTTPError as error:
                if out.size - before >= _ENOUGH_BYTES:
                    retries = _Retries.start(patience, lambda: progress(out.size))
                retries = _after_break(retries, error, patience)
        return out.sha256()


def read(
    address: Address,
    patience: Patience,
    *,
    data: bytes | None = None,
    limit: int = 1 << 24,
    alive: Callable[[], None] = _ignore,
) -> bytes:
    """Return a body of at most `limit` bytes.

    Args:
        alive: called now and then while this waits; what it raises ends the wait.
    Raises:
        SourceError: it cannot be had; where the server refused, a `RefusedError`.
    """
    retries = _Retries.start(patience, alive)
    while True:
        try:
            with open_address(address, patience, data=data, alive=alive) as response:
                return _read_whole(response, limit)
        except HTTPError as error:
            retries = _after_break(retries, error, patience)


def open_address(
    address: Address,
    patience: Patience,
    *,
    data: bytes | IO[bytes] | None = None,
    method: str | None = None,
    redirect: bool = True,
    alive: Callable[[], None] = _ignore,
) -> Response:
    """Ask, following redirects, through the proxies that the environment names; retry while the server is busy.

    Raises:
        RefusedError: the answer is no.
        SourceError: it cannot be asked at all.
    """
    if not _HTTP_ADDRESS.match(address.url):
        raise SourceError(f"{address.url} is not an http address")
    headers = {"User-Agent": "mt3-infer", "Accept-Encoding": "identity", "Connection": "close", **address.headers}
    try:
        response = _pool(address.url, patience).urlopen(
            method or ("GET" if data is None else "POST"),
            address.url,
            body=data,
            headers=headers,
            redirect=redirect,
            retries=_Retries.start(patience, alive),
            preload_content=False,
            enforce_content_length=False,  # `_copy` compares, and can state what is missing
        )
    except HTTPError as error:
        raise _final(error, patience) from error
    except ValueError as error:  # an address or a header that is none, ours or one that a server points to
        raise SourceError(f"it cannot be asked ({error})") from error
    if response.status >= HTTPStatus.BAD_REQUEST:
        with response:
            raise RefusedError(response, patience.tries)
    return response


class _Retries(urllib3.Retry):
    """urllib3's retries, with bounded pauses that can be canceled, and redirects that never leave https."""

    RETRY_AFTER_STATUS_CODES = frozenset()  # `status_forcelist` says which; Retry-After only how long

    _patience: Patience
    _alive: Callable[[], None]

    @classmethod
    def start(cls, patience: Patience, alive: Callable[[], None]) -> Self:
        """Return the full number of tries."""
        left = patience.tries - 1
        retries = cls(
            total=None,
            connect=left,
            read=left,
            status=left,
            other=left,
            redirect=_REDIRECTS,
            allowed_methods=None,
            status_forcelist=_BUSY,
            raise_on_status=False,
        )
        retries._patience, retries._alive = patience, alive
        return retries

    def new(self, **options: Any) -> Self:
        """Return a copy with other counts."""
        copy = super().new(**options)
        copy._patience, copy._alive = self._patience, self._alive
        return copy

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Response | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """Count a failure or a redirect; refuse those that no further try can change."""
        if isinstance(error, NameResolutionError) or _untrusted(error):
            raise MaxRetryError(_pool, url, error) from error  # type: ignore[arg-type]
        if response is not None and url and (location := response.get_redirect_location()):
            old, new = urlsplit(url).scheme, urlsplit(urljoin(url, location)).scheme
            if new not in {"https", old}:
                response.close()
                raise SourceError(f"it redirects from {old} to {new}")
        return super().increment(method, url, response, error, _pool, _stacktrace)

    def sleep(self, response: Response | None = None) -> None:
        """Wait as long as the server asks for, else twice as long each time."""
        asked = None
        if response is not None:
            try:
                asked = self.get_retry_after(response)
            except (InvalidHeader, OverflowError):  # neither seconds nor a date
                asked = None
        failures = sum(entry.redirect_location is None for entry in self.history)
        deadline = time.monotonic() + self._patience.pause(failures, asked)
        while (left := deadline - time.monotonic()) > 0:
            self._alive()
            time.sleep(min(left, _TICK_SECONDS))


class _BrokenOffError(ProtocolError):
    """The connection ended before the body did."""


class _RestartError(_BrokenOffError):
    """This server cannot resume the part: the next connection starts over, at once."""


def _after_break(retries: _Retries, error: HTTPError, patience: Patience) -> _Retries:
    """Count a body that broke off, and wait.

    Raises:
        SourceError: it was the last try.
    """
    try:
        retries = retries.increment("GET", error=error)
    except MaxRetryError as exhausted:
        raise _final(exhausted, patience) from error
    if not isinstance(error, _RestartError):
        retries.sleep()
    return retries


def _pool(url: str, patience: Patience) -> urllib3.PoolManager:
    """Return the way to a host: direct, or through the proxy that the environment names for it."""
    parts = urlsplit(url)
    timeout = urllib3.Timeout(connect=patience.timeout, read=patience.timeout)
    proxy = getproxies().get(parts.scheme)
    if proxy is None or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return urllib3.PoolManager(timeout=timeout)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    login = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, timeout=timeout)


class _Part:
    """The part being written, and what is needed to resume it another time.

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
        while block := self._stream.read(_BLOCK_BYTES):
            self._add(block)
        if self.size:
            note = read_json(self._note)
            self._etag = note.get("etag") if note.get("resource") == self._resource else None
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
        write_json(self._note, {"resource": self._resource, "etag": self._etag})

    def write(self, block: bytes) -> None:
        """Append."""
        view = memoryview(block)
        while view:
            view = view[self._stream.write(view) :]
        self._add(block)

    def sha256(self) -> str:
        """Return the sum of all bytes."""
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
        response = open_address(Address(address.url, headers), patience, alive=lambda: progress(out.size))
    except RefusedError as error:
        if ranged and error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            out.restart()
            raise _RestartError("it cannot continue the download") from error
        raise
    with response:
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if coding not in _UNCODED:
            raise SourceError(f"it sends the file {coding}-coded, which was not asked for")
        # Some S3 servers send the requested range with its `Content-Range`, but with the status 200.
        if response.status == HTTPStatus.PARTIAL_CONTENT or "Content-Range" in response.headers:
            if not ranged:
                raise SourceError("it sends a part of the file without having been asked to")
            total = _resumed_total(response, out, file)
            if total is None:
                out.restart()
                raise _RestartError("it sends another part of the file than was asked for")
        else:
            if out.size:
                out.restart()
            total = _stated_length(response)
        out.remember(response.headers.get("ETag"))
        _copy(response, total, file, out, progress)


def _resumed_total(response: Response, out: _Part, file: CheckpointFile) -> int | None:
    """Return the size of the whole file if a part of it begins where ours ends and is of the right file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != out.size or file.exact_size not in (None, int(match[2])):
        return None
    # Only a 206 says that the condition of If-Range was looked at.
    vouched = response.status == HTTPStatus.PARTIAL_CONTENT or response.headers.get("ETag") == out.etag
    return int(match[2]) if vouched or file.sha256 else None


def _stated_length(response: Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and "Transfer-Encoding" not in response.headers else None


def _copy(
    response: Response, total: int | None, file: CheckpointFile, out: _Part, progress: Callable[[int], None]
) -> None:
    wanted = file.exact_size
    if wanted and total and total != wanted and total > _SMALL_BYTES:
        raise SourceError(f"it has {total:,} bytes, not {wanted:,}")
    progress(out.size)
    while total is None or out.size < total:
        block = response.read1(_BLOCK_BYTES, decode_content=False)
        if not block:
            break
        out.write(block)
        progress(out.size)
        if wanted and out.size > wanted:
            return  # enough to know that it is wrong
    if total is not None and out.size < total:
        raise _BrokenOffError(f"the connection broke off after {out.size:,} of {total:,} bytes")


def _read_whole(response: Response, limit: int) -> bytes:
    """Read a small body; one that is compressed, as some proxies do with text, is unpacked."""
    body = response.read(limit + 1, decode_content=True)
    if len(body) > limit:
        raise SourceError(f"it sends more than {limit:,} bytes where a few were expected")
    received, length = response.tell(), _stated_length(response)
    if length is not None and received < length:
        raise _BrokenOffError(f"the connection broke off after {received:,} of {length:,} bytes")
    return body


def _final(error: HTTPError, patience: Patience) -> SourceError:
    """Return the sentence for a failure that no further try can change, or that used up all tries."""
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(reason, ResponseError):
        return SourceError("it redirects without end")
    if isinstance(reason, NameResolutionError):
        return SourceError("its name cannot be resolved")
    if certificate := _untrusted(reason):
        return SourceError(f"its certificate is not trusted ({certificate.verify_message})")
    if not isinstance(error, MaxRetryError):
        return SourceError(f"it cannot be asked ({error})")
    words = _cause(reason, patience)
    if isinstance(reason, ProxyError):
        words = f"the proxy fails: {words}"
    return SourceError(f"{words} ({patience.tries} times in a row)")


def _untrusted(error: Exception | None) -> ssl.SSLCertVerificationError | None:
    links = _chain(error)
    return next((link for link in links if isinstance(link, ssl.SSLCertVerificationError)), None)


def _cause(error: Exception, patience: Patience) -> str:
    """Return in a few words what broke a connection."""
    for link in _chain(error):
        if isinstance(link, _BrokenOffError):
            return str(link)
        if isinstance(link, TimeoutError | Urllib3TimeoutError) and not isinstance(link, NewConnectionError):
            return f"nothing came for {patience.timeout:g} s"
        if isinstance(link, OSError) and link.strerror:
            return link.strerror.lower()
    return "the connection broke off"


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and those it wraps: as its cause, or as urllib3 does, among its arguments."""
    links: list[BaseException] = []
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if link is not None and link not in links:
            links.append(link)
            waiting += [link.__cause__, *(wrapped for wrapped in link.args if isinstance(wrapped, BaseException))]
    return links


def _reason_of(response: Response) -> str:
    """Return what a server states as its reason in the body of a refusal: JSON with a message, or S3's XML."""
    try:
        body = response.read(_REASON_BYTES, decode_content=True)
        if match := _XML_MESSAGE.search(body):
            return one_line(unescape(match[1].decode(errors="replace")))
        return stated_reason(parse_json(body))
    except (HTTPError, ValueError):
        return ""


def parse_json(body: bytes) -> Any:
    """Return what a server's JSON holds.

    Raises:
        ValueError: it is no JSON, or nested without end.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def stated_reason(content: Any) -> str:
    """Return the message in a JSON answer that reports an error; "" without one."""
    for key in ("error", "errors", "message", "detail"):
        inner = content.get(key) if isinstance(content, dict) else None
        if isinstance(inner, list) and inner:
            inner = inner[0]
        if isinstance(inner, str) and inner.strip():
            return one_line(inner)
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            return one_line(inner["message"])
    return ""


def one_line(text: str) -> str:
    """Return a server's words as a part of one sentence: one line, printable, of bounded length."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[:_REASON_LETTERS].rstrip(".")


def _status_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"
