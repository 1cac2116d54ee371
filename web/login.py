"""`/v1/session`: log a browser in with a key, and out. The cookie holds a random value, not the key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field

from shared import keys
from shared.tables import Scope
from web.access import COOKIE, current_access, needs, unauthorized
from web.services import services

LOGIN_SECONDS = 14 * 86_400

blueprint = APIBlueprint("session", __name__, url_prefix="/v1/session", tag="Access")


class NewSession(BaseModel):
    """The body of `POST /v1/session`."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(max_length=255, description="A key that `mt3-infer keys create` made.")


class SessionView(BaseModel):
    """The key of a request, or of the log-in."""

    auth: str = Field(description="`keys`, or `none` if the service needs no key.")
    name: str | None = Field(description="The name of the key.")
    scope: Scope
    expires_at: datetime | None = Field(description="When the key expires.")


@blueprint.post("")
@blueprint.input(NewSession, arg_name="body")
@blueprint.output(SessionView)
@blueprint.doc(
    summary="Log in with a key",
    description="For browsers: sets a cookie that is accepted in place of the key from the service's own pages.",
    responses=[401],
)
@needs(None)
def log_in(body: NewSession) -> Response:
    """Set the cookie of a log-in."""
    if services().settings.auth == "none":
        return jsonify(_view("none", None))
    identity = services().credentials.identify(body.key.strip())
    if identity is None or not body.key.strip().startswith(keys.KEY_PREFIX):
        return unauthorized("The key is invalid, expired or revoked. Check that you copied all of it.")
    with services().sessions.begin() as session:
        cookie = keys.open_login(session, identity.key_id, seconds=LOGIN_SECONDS)
    response = jsonify(_view("keys", identity))
    response.set_cookie(
        COOKIE, cookie, max_age=LOGIN_SECONDS, httponly=True, secure=_is_https(), samesite="Lax", path="/"
    )
    return response


@blueprint.get("")
@blueprint.output(SessionView)
@blueprint.doc(summary="Get the name and the scope of the key in use")
def show() -> dict[str, Any]:
    """Describe the key of the request."""
    access = current_access()
    identity = services().credentials.identify(access.secret) if access.secret else None
    return _view(services().settings.auth, identity)


@blueprint.delete("")
@blueprint.output({}, status_code=204)
@blueprint.doc(summary="Log out")
@needs(None)
def log_out() -> Response:
    """End the log-in of a browser."""
    cookie = request.cookies.get(COOKIE)
    if cookie:
        with services().sessions.begin() as session:
            keys.close_login(session, cookie)
        services().credentials.forget(cookie)
    response = Response(status=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, secure=_is_https(), samesite="Lax")
    return response


def _is_https() -> bool:
    """Return True if the browser reached the service by TLS, which a proxy may terminate."""
    proxied = request.headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower()
    return "https" in (request.scheme, proxied) or request.headers.get("Origin", "").startswith("https://")


def _view(auth: str, identity: keys.Identity | None) -> dict[str, Any]:
    view = SessionView(
        auth=auth,
        name=identity.name if identity else None,
        scope=identity.scope if identity else Scope.ADMIN,
        expires_at=identity.expires_at if identity else None,
    )
    return view.model_dump(mode="json")
