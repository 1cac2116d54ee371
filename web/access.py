"""Access control: requires a key of the right scope for every view that is not marked as open.

A client sends its key as `Authorization: Bearer mt3_…`. A browser that is logged in sends a cookie instead; then
unsafe methods are accepted only from the service's own pages. A job belongs to the owner of the key that created
it, and to views it does not exist for any other: they pass `current_owner()` to every query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import UUID

from flask import Flask, Request, Response, g

from shared.errors import ShareNotFound
from shared.exposure import is_loopback
from shared.keys import PUBLIC, Identity
from shared.logs import get_logger
from shared.quotas import NO_QUOTAS, Quotas, quotas_of
from shared.tables import Scope
from web.browsers import SAFE_METHODS, is_from_own_page
from web.errors import problem
from web.services import services

log = get_logger(__name__)

COOKIE = "mt3_login"
SHARED = "shared"  # the blueprint of views that a share link opens
REALM = "mt3-infer"
SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key that `mt3-infer keys create` made: mt3_…"},
    "login": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "A browser that is logged in."},
}
REFUSALS = {
    "401": "A valid key is needed.",
    "403": "The scope of the key or a quota does not allow this, or a page of another site sent the request.",
    "429": "Too many requests, or too much is queued; see `Retry-After`.",
}
# Views of libraries, which cannot be marked.
OPEN_ENDPOINTS = ("static", "openapi.spec", "openapi.docs")

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "mt3_scope"


@dataclass(frozen=True)
class Access:
    """Hold what a request may do, and for which owner.

    Attributes:
        key_id: None as long as the service has no keys.
        secret: the key, or the value of the cookie.
        quotas: of the key, in place of those of the settings.
        share: the token of the share link by which the request came.
    """

    owner: str
    scope: Scope
    key_id: UUID | None = None
    name: str | None = None
    secret: str | None = None
    is_cookie: bool = False
    quotas: Quotas = NO_QUOTAS
    share: str | None = None


EVERYBODY = Access(PUBLIC, Scope.ADMIN)


def needs(scope: Scope | None) -> Callable[[View], View]:
    """Mark a view that needs this scope, or none; without a mark, the method decides. Goes below decorators."""

    def mark(view: View) -> View:
        setattr(view, _ATTRIBUTE, scope)
        return view

    return mark


def scope_of(endpoint: str, view: Callable[..., Any], method: str) -> Scope | None:
    """Return the scope that a request needs; None if the view is open to everybody."""
    if endpoint in OPEN_ENDPOINTS or method == "OPTIONS":
        return None
    by_method = Scope.READ if method in SAFE_METHODS else Scope.WRITE
    return cast("Scope | None", getattr(view, _ATTRIBUTE, by_method))


def current_access() -> Access:
    """Return what the current request may do."""
    return cast(Access, g.access)


def current_owner() -> str:
    """Return the owner of the jobs that the current request may see."""
    return current_access().owner


def current_quotas() -> Quotas:
    """Return what the owner may have queued and stored by the current request."""
    return quotas_of(services().settings).override(current_access().quotas)


def job_address(job_id: UUID) -> str:
    """Return the path under which the current request may read a job."""
    share = current_access().share
    return f"/v1/shared/{share}" if share else f"/v1/transcriptions/{job_id}"


def access_check() -> Callable[[], bool]:
    """Return a function that returns False once the key or link of the current request is no longer valid."""
    access, credentials = current_access(), services().credentials
    if access.share is not None:
        token = access.share
        return lambda: credentials.find_shared_job(token) is not None
    if access.secret is not None:
        secret = access.secret
        return lambda: credentials.identify(secret) is not None
    return lambda: True


def refuse_without_key(app: Flask, request: Request) -> Response | None:
    """Return a problem unless the request may call its view; otherwise set `current_access`."""
    if request.endpoint is None:
        return None  # 404 or 405
    scope = scope_of(request.endpoint, app.view_functions[request.endpoint], request.method)
    if scope is None:
        return None
    if request.blueprint == SHARED:
        _follow_share_link(request)
        return None
    if services().settings.auth == "none":
        _note_exposure(request.environ["SERVER_NAME"])
        g.access = EVERYBODY
        return None
    secret, is_cookie = _secret_of(request)
    identity = services().credentials.identify(secret) if secret else None
    if identity is None:
        text = "The key is invalid, expired or revoked." if secret else "A key is needed."
        text += " Send a valid one as Authorization: Bearer mt3_…, or log in."
        return unauthorized(text, is_wrong=secret is not None)
    if is_cookie and request.method not in SAFE_METHODS and not is_from_own_page(request):
        text = "A log-in is accepted only from this service's own pages. Send a key in the header Authorization."
        return problem(403, "cross_site", text)
    if not identity.scope.includes(scope):
        return _forbidden(scope, identity)
    key = (identity.key_id, identity.name, secret, is_cookie, identity.quotas)
    g.access = Access(identity.owner, identity.scope, *key)
    return None


def _note_exposure(listens_on: str) -> None:
    """Log once that everybody may use the service, whatever server runs it."""
    if services().is_exposure_noted.is_set() or is_loopback(listens_on):
        return
    services().is_exposure_noted.set()
    log.warning("open_to_everybody", address=listens_on, hint="Set MT3_AUTH=keys to require keys.")


def declare_access(spec: dict[str, Any]) -> None:
    """Declare in OpenAPI which operations need a key, and the answers without one."""
    for path, operations in spec["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for operation in operations.values():
            operation.setdefault("security", [{name: []} for name in SECURITY_SCHEMES])
            for status, description in REFUSALS.items():
                content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/HTTPError"}}}
                operation["responses"].setdefault(status, {"description": description, "content": content})


def _secret_of(request: Request) -> tuple[str | None, bool]:
    """Return the key or the cookie of a request, and True for a cookie. A key takes precedence."""
    header = request.headers.get("Authorization")
    if header is None:
        cookie = request.cookies.get(COOKIE)
        return cookie, cookie is not None
    kind, _, value = header.strip().partition(" ")
    return (value.strip() if kind.lower() == "bearer" else ""), False


def _follow_share_link(request: Request) -> None:
    """Let a request under `/v1/shared/{token}` read the job of that link, and no other.

    Raises:
        ShareNotFound
    """
    arguments = request.view_args or {}
    token = arguments.pop("token")
    shared = services().credentials.find_shared_job(token)
    if shared is None:
        raise ShareNotFound("This share link does not exist. It may have expired or been revoked.")
    arguments["job_id"] = shared.job_id
    g.access = Access(shared.owner, Scope.READ, share=token)


def unauthorized(text: str, *, is_wrong: bool = True) -> Response:
    """Return the response to a request without a valid key.

    Args:
        is_wrong: a key was sent.
    """
    response = problem(401, "unauthorized", text)
    error = ', error="invalid_token"' if is_wrong else ""
    response.headers["WWW-Authenticate"] = f'Bearer realm="{REALM}"{error}'
    return response


def _forbidden(scope: Scope, identity: Identity) -> Response:
    text = f"This needs a key with the scope {scope}. The scope of this key is {identity.scope}."
    response = problem(403, "insufficient_scope", text)
    challenge = f'Bearer realm="{REALM}", error="insufficient_scope", scope="{scope}"'
    response.headers["WWW-Authenticate"] = challenge
    return response
