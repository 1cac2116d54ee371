"""Limits on requests and on what is queued and stored, and the headers that tell clients about them.

Requests are counted per key with Flask-Limiter in Redis, so that all web processes share the counts. While Redis
does not answer, requests are not limited until it does: an unlimited service is better than none.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response, g, request
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.config import Settings
from shared.errors import QuotaExceeded
from web.browsers import SAFE_METHODS
from web.errors import problem
from web.services import EXTENSION

if TYPE_CHECKING:
    from flask_limiter import Limiter, RequestLimit

REDIS_SECONDS = 0.25  # a request waits no longer for Redis, and then not again for a while
UNLIMITED = 999_999_999
RETRY_SECONDS = 15  # until it is worth trying again while a quota is used up
REPEATED = "mt3.repeated"  # in the environment of a request that `web.bridge` repeats for a client that waits


def limit_requests(app: Flask) -> None:
    """Count requests against the configured rates, after access control and before the views."""
    settings: Settings = app.extensions[EXTENSION].settings
    if not settings.rate_limit_read and not settings.rate_limit_write:
        return
    from flask_limiter import ApplicationLimit, Limiter, RateLimitExceeded

    reads = ApplicationLimit(settings.rate_limit_read, exempt_when=lambda: _is_write(request))
    writes = ApplicationLimit(settings.rate_limit_write, exempt_when=lambda: not _is_write(request))
    options: dict[str, Any] = {  # of the client
        "socket_timeout": REDIS_SECONDS,
        "socket_connect_timeout": REDIS_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    limiter = Limiter(
        _client,
        application_limits=[limit for limit in (reads, writes) if limit.limit_provider],
        storage_uri=settings.redis_url,
        storage_options=options,
        key_prefix="mt3",
        strategy="fixed-window",
        in_memory_fallback=[f"{UNLIMITED}/second"],
    )
    limiter.request_filter(_is_exempt)

    @app.after_request
    def add_headers(response: Response) -> Response:
        _describe(limiter, response)
        return response

    limiter.init_app(app)

    @app.errorhandler(RateLimitExceeded)
    def refuse(error: RateLimitExceeded) -> Response:
        seconds = _seconds_left(limiter.current_limit)
        text = f"Too many requests: {error.limit.limit} are allowed. Try again in {seconds} s."
        response = problem(429, "rate_limited", text)
        response.headers["Retry-After"] = str(seconds)
        return response


def refuse_over_quota(error: QuotaExceeded) -> Response:
    """Return the response to a request that exceeds a quota: 429 if waiting helps, else 403."""
    response = problem(429 if error.may_wait else 403, error.code, str(error))
    if error.may_wait:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    response.headers["RateLimit-Policy"] = f'"{error.quota}";q={math.floor(error.limit)}'
    response.headers["RateLimit"] = f'"{error.quota}";r=0'
    return response


def _client() -> str:
    """Return what requests are counted for: a key, a share link, or an address as long as there are no keys."""
    access = g.access
    if access.key_id is not None:
        client = str(access.key_id)
    elif access.share is not None:
        client = hashlib.sha256(access.share.encode()).hexdigest()[:32]
    else:
        client = request.remote_addr or "unknown"
    return f"{'write' if _is_write(request) else 'read'}:{client}"


def _is_write(asked: Request) -> bool:
    return asked.method not in SAFE_METHODS


def _is_exempt() -> bool:
    return "access" not in g or REPEATED in request.environ


def _describe(limiter: Limiter, response: Response) -> None:
    """Add `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11) to a response."""
    limits = [each for each in limiter.current_limits if each.limit.amount != UNLIMITED]
    if not limits or "RateLimit" in response.headers:
        return
    kind = "write" if _is_write(request) else "read"
    policies, states = [], []
    try:
        for each in limits:
            name = f'"{kind}-{each.limit.GRANULARITY.name}"'
            policies.append(f"{name};q={each.limit.amount};w={each.limit.get_expiry()}")
            states.append(f"{name};r={max(0, each.remaining)};t={_seconds_left(each)}")
    except Exception:  # Redis stopped answering since
        return
    response.headers["RateLimit-Policy"] = ", ".join(policies)
    response.headers["RateLimit"] = ", ".join(states)


def _seconds_left(limit: RequestLimit | None) -> int:
    if limit is None:
        return 1
    left = math.ceil(limit.reset_at - time.time())
    return max(1, min(left, limit.limit.get_expiry()))  # `reset_at` is rounded, too
