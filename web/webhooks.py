"""Webhooks: the fields of a request, `…/deliveries` of a transcription, and the secret that signs them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from apiflask import APIBlueprint
from pydantic import BaseModel, Field

from shared import deliveries
from shared.deliveries import Delivery
from shared.errors import JobNotFound
from shared.tables import Scope, WorkStatus
from shared.webhook_events import EVENTS
from web.access import current_owner, needs
from web.errors import InvalidRequest
from web.schemas import ErrorView
from web.services import Services, services
from web.webhook_fields import parse_address

blueprint = APIBlueprint("webhooks", __name__, url_prefix="/v1", tag="Webhooks")

STATES: dict[WorkStatus, Literal["waiting", "sending", "succeeded", "failed"]] = {
    WorkStatus.QUEUED: "waiting",
    WorkStatus.PROCESSING: "sending",
    WorkStatus.SUCCEEDED: "succeeded",
}


class DeliveryAttempt(BaseModel):
    """One try to send an event."""

    number: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: ErrorView | None


class DeliveryView(BaseModel):
    """An event for the client's URL, with the attempts to send it."""

    id: str
    event: str
    url: str
    status: Literal["waiting", "sending", "succeeded", "failed"]
    next_attempt_at: datetime | None
    attempts: list[DeliveryAttempt]


class DeliveryList(BaseModel):
    """All deliveries of a transcription, oldest first."""

    items: list[DeliveryView]


class SecretView(BaseModel):
    """Hold what webhooks are signed with, for a library of Standard Webhooks."""

    secret: str = Field(description="`whsec_` and base64.")


def check_webhook(services: Services, url: str | None, events: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the events to send, all of them by default; () if there is no URL.

    Raises:
        AddressRefused, InvalidRequest
    """
    if url is None:
        if events:
            raise InvalidRequest("webhook_events needs webhook_url.")
        return ()
    parse_address(services.settings, "webhook_url", url)
    if unknown := [event for event in events or () if event not in EVENTS]:
        raise InvalidRequest(f"Unknown event {unknown[0][:100]!r} in webhook_events. Known: {', '.join(EVENTS)}.")
    if services.settings.auth == "keys":
        deliveries.make_secret(services.sessions, current_owner())
    elif services.settings.webhook_secret is None:
        raise InvalidRequest("This service cannot sign webhooks: its operator must set MT3_WEBHOOK_SECRET.")
    return tuple(events or EVENTS)


@blueprint.get("/transcriptions/<uuid:job_id>/deliveries")
@blueprint.output(DeliveryList)
@blueprint.doc(summary="List the webhooks of a transcription", responses=[404])
def index(job_id: UUID) -> dict[str, Any]:
    """Return all deliveries of a job."""
    with services().sessions() as session:
        found = deliveries.list_deliveries(session, current_owner(), job_id)
        return {"items": [_view(delivery) for delivery in found]}


@blueprint.post("/transcriptions/<uuid:job_id>/deliveries/<uuid:delivery_id>/redeliver")
@blueprint.output(DeliveryView, status_code=202)
@blueprint.doc(
    summary="Send a webhook again",
    description="With the same `webhook-id` and body; at once if it waits for its next attempt.",
    responses=[404],
)
def redeliver(job_id: UUID, delivery_id: UUID) -> tuple[dict[str, Any], int]:
    """Queue a delivery again."""
    with services().sessions.begin() as session:
        delivery = deliveries.redeliver(session, current_owner(), job_id, delivery_id)
        return _view(delivery), 202


@blueprint.get("/webhook-secret")
@blueprint.output(SecretView)
@blueprint.doc(
    summary="Get the secret that your webhooks are signed with",
    description="404 without keys: the operator sets it then (`MT3_WEBHOOK_SECRET`).",
    responses=[404],
)
@needs(Scope.WRITE)
def show_secret() -> dict[str, str]:
    """Return the secret of the owner, made if there is none."""
    _require_keys()
    with services().sessions() as session:
        found = deliveries.get_secret(session, services().settings, current_owner())
    return {"secret": found or deliveries.make_secret(services().sessions, current_owner())}


@blueprint.post("/webhook-secret/rotate")
@blueprint.output(SecretView)
@blueprint.doc(
    summary="Replace the secret that your webhooks are signed with",
    description="For a day, webhooks are signed with the previous one, too.",
    responses=[404],
)
def rotate_secret() -> dict[str, str]:
    """Return the new secret of the owner."""
    _require_keys()
    return {"secret": deliveries.rotate_secret(services().sessions, current_owner())}


def _require_keys() -> None:
    if services().settings.auth == "none":
        raise JobNotFound("Without keys, the secret of webhooks is the operator's setting MT3_WEBHOOK_SECRET.")


def _view(delivery: Delivery) -> dict[str, Any]:
    item = delivery.item
    view = DeliveryView(
        id=str(item.id),
        event=item.payload["event"],
        url=item.payload["url"],
        status=STATES.get(item.status, "failed"),
        next_attempt_at=max(item.run_after, datetime.now(UTC)) if item.status is WorkStatus.QUEUED else None,
        attempts=[
            DeliveryAttempt(
                number=attempt.number,
                started_at=attempt.started_at,
                finished_at=attempt.finished_at,
                outcome=attempt.outcome,
                error=ErrorView(code=attempt.error_code, detail=attempt.error_detail or "")
                if attempt.error_code
                else None,
            )
            for attempt in delivery.attempts
        ],
    )
    return view.model_dump(mode="json")
