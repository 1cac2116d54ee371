"""Share links: made and revoked by the owner of a job, followed by anybody who has one.

Under `/v1/shared/{token}` are the same views as under `/v1/transcriptions/{id}`, as far as they only read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from shared import shares
from shared.tables import Share
from web import events, exports, transcriptions
from web.access import SHARED, current_owner, needs
from web.client_json import Integer
from web.page import make_page
from web.services import services

SHARE_SECONDS = 30 * 86_400
LONGEST_SECONDS = 3650 * 86_400

blueprint = APIBlueprint("shares", __name__, url_prefix="/v1/transcriptions/<uuid:job_id>/shares", tag="Shares")
shared_blueprint = APIBlueprint(SHARED, __name__, url_prefix="/v1/shared/<token>", tag="Shares")
page_blueprint = APIBlueprint("shared_page", __name__, enable_openapi=False)


class NewShare(BaseModel):
    """The body of `POST /v1/transcriptions/{id}/shares`."""

    model_config = ConfigDict(extra="forbid")

    expires_in: Integer | None = Field(
        SHARE_SECONDS,
        ge=1,
        le=LONGEST_SECONDS,
        description="Seconds until the link expires; null: it lasts as long as the transcription.",
    )


class ShareView(BaseModel):
    """A link that shares a transcription."""

    id: str
    created_at: datetime
    expires_at: datetime | None


class CreatedShareView(ShareView):
    """A new link. The token is shown only now."""

    token: str
    url: str = Field(description="The address of the page that shows the transcription.")
    api_url: str = Field(description="The address under which programs read it.")


class ShareList(BaseModel):
    """The links of a transcription, oldest first."""

    items: list[ShareView]


@blueprint.post("")
@blueprint.input(NewShare, arg_name="body")
@blueprint.output(CreatedShareView, status_code=201)
@blueprint.doc(
    summary="Share a transcription by a link",
    description="Everybody who has the link may look, listen and download until it expires or is revoked.",
    responses=[404],
)
def create(job_id: UUID, body: NewShare) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Share a job."""
    with services().sessions.begin() as session:
        share, token = shares.create_share(session, current_owner(), job_id, expires_in=body.expires_in)
    view = CreatedShareView(
        **_view(share).model_dump(), token=token, url=f"/s/{token}", api_url=f"/v1/shared/{token}"
    )
    return view.model_dump(mode="json"), 201, {}


@blueprint.get("")
@blueprint.output(ShareList)
@blueprint.doc(summary="List the share links of a transcription", responses=[404])
def index(job_id: UUID) -> dict[str, Any]:
    """Return the links of a job, without their tokens."""
    with services().sessions() as session:
        found = shares.list_shares(session, current_owner(), job_id)
    return ShareList(items=[_view(share) for share in found]).model_dump(mode="json")


@blueprint.delete("/<token>")
@blueprint.output({}, status_code=204)
@blueprint.doc(
    summary="Revoke a share link",
    description="By its token or by its id. It takes effect within a few seconds.",
    responses=[404],
)
def revoke(job_id: UUID, token: str) -> tuple[str, int]:
    """Revoke a link."""
    with services().sessions.begin() as session:
        shares.revoke_share(session, current_owner(), job_id, token)
    services().credentials.forget(token)
    return "", 204


@page_blueprint.get("/s/<token>")
@needs(None)
def page(token: str) -> Response:
    """Return the page, which shows what is shared."""
    response = make_page(shows_job=True)
    response.headers["Referrer-Policy"] = "no-referrer"  # the address is the secret
    response.headers["X-Robots-Tag"] = "noindex"
    return response


for _rule, _view_function in (
    ("", transcriptions.show),
    ("/artifacts", transcriptions.artifacts),
    ("/artifacts/<name>", transcriptions.artifact),
    ("/audio", transcriptions.audio),
    ("/notes", events.notes),
    ("/events", events.events),
    ("/exports", exports.index),
    ("/exports/<uuid:export_id>", exports.show),
):
    _endpoint = f"{_view_function.__module__.rpartition('.')[2]}_{_view_function.__name__}"
    shared_blueprint.add_url_rule(_rule, _endpoint, _view_function, methods=["GET"])


def _view(share: Share) -> ShareView:
    return ShareView(id=str(share.id), created_at=share.created_at, expires_at=share.expires_at)
