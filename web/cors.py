"""Cross-origin requests from the pages of MT3_CORS_ORIGINS. They send keys: cookies are not accepted from them."""

from __future__ import annotations

from flask import Request, Response

from shared.config import Settings

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
SENT = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Last-Event-ID, Prefer, Range"
)
EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Encoding, Content-Range, ETag, Link, Location, "
    "Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-ID"
)
PREFLIGHT_SECONDS = 600


def is_allowed(request: Request, settings: Settings) -> bool:
    """Return True if a page of an allowed origin sent the request."""
    origin = request.headers.get("Origin", "").strip().lower()
    allowed = settings.cors_origins
    return bool(allowed) and origin not in ("", "null") and (origin in allowed or "*" in allowed)


def answer_preflight(request: Request, settings: Settings) -> Response | None:
    """Return the response to a browser that asks before a cross-origin request; None for any other request."""
    is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not is_preflight or not is_allowed(request, settings):
        return None
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = METHODS
    response.headers["Access-Control-Allow-Headers"] = SENT
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response


def add_headers(response: Response, request: Request, settings: Settings) -> None:
    """Let pages of allowed origins read a response."""
    if not settings.cors_origins:
        return
    response.vary.add("Origin")
    if is_allowed(request, settings):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
