"""Requests to the service: repeated while it is unavailable, with problems as typed errors."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    import httpx2 as httpx
except ImportError as error:
    raise ImportError("The client needs one more package: pip install 'mt3-infer-service[client]'") from error

from mt3_infer.client.errors import CLASSES, ApiError, UnreachableError

AGENT = "mt3-infer-client"
RETRIED = (429, 502, 503, 504)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds


OnPause = Callable[[Exception, float], None]


class Transport:
    """One connection pool to a service.

    Args:
        url: of the service, without `/v1`.
        patience: how many seconds a request is repeated for while the service is unavailable.
        on_pause: called before each pause with the error, and the seconds until the request is sent again.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout: float,
        patience: float,
        on_pause: OnPause | None = None,
        **more: Any,
    ) -> None:
        headers = {"User-Agent": AGENT}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = url.rstrip("/")
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, **more)
        self._patience, self._on_pause = patience, on_pause

    def send(
        self,
        method: str,
        path: str,
        *,
        is_repeatable: bool = True,
        content: Callable[[], dict[str, Any]] = dict,
        **arguments: Any,
    ) -> httpx.Response:
        """Return the response to a request that succeeded.

        Args:
            is_repeatable: the request may be sent again when it is not known what became of it.
            content: returns further arguments for each attempt, such as a file at its beginning.
        Raises:
            ApiError, UnreachableError
        """
        pauses = self._pauses()
        while True:
            try:
                response = self.http.request(method, path, **arguments, **content())
                if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
                    return response
                error: ApiError | UnreachableError = as_error(response)
            except httpx.TransportError as failure:
                if not is_repeatable and not isinstance(failure, httpx.ConnectError):
                    raise self._failed(failure) from failure
                error = self._failed(failure)
            pauses.before_next(error)

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Open the response to a GET, after redirects, once.

        Raises:
            ApiError, UnreachableError
        """
        try:
            with self.http.stream("GET", path, headers=headers, follow_redirects=True) as response:
                if not response.is_success:
                    response.read()
                    raise as_error(response)
                yield response
        except httpx.TransportError as failure:
            raise self._failed(failure) from failure

    def put(self, url: str, content: bytes) -> None:
        """Send bytes once, to a path of the service or to a link of its bucket, which must not see the key.

        Raises:
            ApiError, UnreachableError
        """
        try:
            if url.startswith("/"):
                response = self.http.put(url, content=content)
            else:
                response = httpx.put(url, content=content, timeout=self.http.timeout)
        except httpx.TransportError as failure:
            raise self._failed(failure) from failure
        if not response.is_success:
            raise as_error(response)

    def pauses(self) -> Pauses:
        """Return the pauses of something that is tried again by its caller."""
        return self._pauses()

    def _pauses(self) -> Pauses:
        return Pauses(self._patience, self._on_pause)

    def _failed(self, failure: Exception) -> UnreachableError:
        reason = str(failure) or type(failure).__name__
        return UnreachableError(f"The service at {self.url} cannot be reached: {reason}. Check the address.")


class Pauses:
    """Exponential pauses with jitter, or what the service asks for, until the patience ends."""

    def __init__(self, patience: float, on_pause: OnPause | None = None) -> None:
        self._patience, self._on_pause = patience, on_pause
        self._give_up = time.monotonic() + patience
        self._pause = FIRST_PAUSE

    def reset(self) -> None:
        """Begin anew after a success."""
        self._give_up, self._pause = time.monotonic() + self._patience, FIRST_PAUSE

    def before_next(self, error: Exception) -> None:
        """Wait before the next attempt, or raise the error if it is final or the patience is at its end."""
        is_temporary = isinstance(error, UnreachableError) or getattr(error, "status", 0) in RETRIED
        pause = getattr(error, "retry_after", None)
        if pause is None:
            pause = self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - not security-relevant
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        if not is_temporary or time.monotonic() + pause > self._give_up:
            raise error
        if self._on_pause is not None:
            self._on_pause(error, pause)
        time.sleep(pause)


def as_error(response: httpx.Response) -> ApiError:
    """Return the error that a response stands for; one that is no problem document is described by its status."""
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    status = response.status_code
    detail = problem.get("detail") or f"The service answered with {status} {response.reason_phrase}."
    return CLASSES.get(status, ApiError)(
        str(detail),
        status=status,
        code=str(problem.get("code") or f"http_{status}"),
        retry_after=_seconds(response.headers.get("Retry-After")),
        fields=problem.get("errors"),
    )


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None
