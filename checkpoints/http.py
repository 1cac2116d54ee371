"""HTTP requests that follow redirects and retry connections and busy servers, within the limits of `Patience`.

Every request of every source is made here, with urllib3; `checkpoints.resume` downloads files on top of it.
"""

from __future__ import annotations

import json
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import unescape
from http import HTTPStatus
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

if TYPE_CHECKING:
    from urllib3.connectionpool import ConnectionPool

Response: TypeAlias = urllib3.BaseHTTPResponse

_REASON_BYTES = 1 << 14  # of the body of a refusal
_REASON_LETTERS = 300
_REDIRECTS = 10
_HTTP_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_XML_MESSAGE = re.compile(rb"<Message>([^<]+)</Message>")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_TICK_SECONDS = 0.25  # how often `alive` is called while nothing moves


@dataclass(frozen=True)
class Address:
    """A URL to request, and the headers to send."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """Limits on retries and waiting.

    Attributes:
        tries: connections in a row that may bring next to nothing; at least 1.
        timeout: seconds without a byte after which a connection is dropped.
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
    """The server answered with an error.

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
        SourceError: the request failed; a `RefusedError` if the server refused it.
    """
    retries = Retries.start(patience, alive)
    while True:
        try:
            with open_address(address, patience, data=data, alive=alive) as response:
                return _read_whole(response, limit)
        except HTTPError as error:
            retries = after_break(retries, error, patience)


def open_address(
    address: Address,
    patience: Patience,
    *,
    data: bytes | IO[bytes] | None = None,
    method: str | None = None,
    redirect: bool = True,
    alive: Callable[[], None] = _ignore,
) -> Response:
    """Send a request, following redirects, through the proxies of the environment; retry while the server is busy.

    Raises:
        RefusedError: the server answered with an error.
        SourceError: the request failed.
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
            retries=Retries.start(patience, alive),
            preload_content=False,
            enforce_content_length=False,  # the reader compares, and can state what is missing
        )
    except HTTPError as error:
        raise _final(error, patience) from error
    except ValueError as error:  # an invalid URL or header, in the request or in a redirect
        raise SourceError(f"the request failed ({error})") from error
    if response.status >= HTTPStatus.BAD_REQUEST:
        with response:
            raise RefusedError(response, patience.tries)
    return response


class Retries(urllib3.Retry):
    """urllib3's retries, with bounded pauses that can be canceled, and redirects that never leave https."""

    RETRY_AFTER_STATUS_CODES = frozenset()  # `status_forcelist` selects them; Retry-After sets only the pause

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


class BrokenOffError(ProtocolError):
    """The connection ended before the body did."""


class RestartError(BrokenOffError):
    """This server cannot resume the part: the next connection starts over, at once."""


def after_break(retries: Retries, error: HTTPError, patience: Patience) -> Retries:
    """Count a body that broke off, and wait.

    Raises:
        SourceError: it was the last try.
    """
    try:
        retries = retries.increment("GET", error=error)
    except MaxRetryError as exhausted:
        raise _final(exhausted, patience) from error
    if not isinstance(error, RestartError):
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


def stated_length(response: Response) -> int | None:
    """Return the size of a body as its header states it, or None."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and "Transfer-Encoding" not in response.headers else None


def _read_whole(response: Response, limit: int) -> bytes:
    """Read a small body; one that is compressed, as some proxies do with text, is unpacked."""
    body = response.read(limit + 1, decode_content=True)
    if len(body) > limit:
        raise SourceError(f"it sends more than {limit:,} bytes where a few were expected")
    received, length = response.tell(), stated_length(response)
    if length is not None and received < length:
        raise BrokenOffError(f"the connection broke off after {received:,} of {length:,} bytes")
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
        return SourceError(f"the request failed ({error})")
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
        if isinstance(link, BrokenOffError):
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
