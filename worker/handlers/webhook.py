"""Send an event of a job to the URL of its client, signed as Standard Webhooks specifies.

A response of 2xx accepts it. Redirects are not followed, and nothing of a response's body is kept.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus

from standardwebhooks import Webhook

from shared import deliveries, tracing
from shared.kinds import Claim
from shared.public_address import AddressRefused, PublicHttp, RequestFailed
from worker.context import Context, Done, Postponed
from worker.errors import NotDelivered

SILENCE_SECONDS = 5.0  # without a byte from the receiver
DEADLINE_SECONDS = 10.0  # for a delivery, whatever comes
BODY_BYTES = 16 * 1024  # read of a response, so that the receiver sees it taken


def run(context: Context) -> Done:
    """Send the event once.

    Raises:
        NotDelivered: it was not accepted, with the time of the next attempt.
        Postponed: an earlier event of the job waits.
    """
    claim, services = context.claim, context.services
    with services.sessions() as session:
        wait = deliveries.seconds_to_wait(session, claim)
        secrets = deliveries.signing_secrets(session, services.settings, claim.owner)
    if wait is not None:
        raise Postponed(wait)
    if not secrets:
        raise NotDelivered("There is no secret to sign webhooks with. Set MT3_WEBHOOK_SECRET.", None)
    try:
        status, asked = _send(PublicHttp(services.settings.allowed_networks), claim, secrets)
    except AddressRefused as error:
        raise NotDelivered(str(error), None) from error
    except RequestFailed as error:
        pause = _pause(context, None)
        with services.sessions.begin() as session:
            deliveries.rest(session, claim.input_key or "", pause or deliveries.REST_SECONDS)
        raise NotDelivered(str(error), pause) from error
    if not 200 <= status < 300:
        pause = None if status == HTTPStatus.GONE else _pause(context, asked)
        raise NotDelivered(f"The receiver answered with status {status}.", pause)
    return Done()


def _send(http: PublicHttp, claim: Claim, secrets: list[str]) -> tuple[int, float | None]:
    """Return the status of the response, and the seconds of its Retry-After."""
    at, body, event_id = datetime.now(UTC), claim.payload["body"], f"msg_{claim.id}"
    headers = {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, at, body) for secret in secrets),
    }
    if (traceparent := tracing.traceparent()) is not None:
        headers["traceparent"] = traceparent
    with http.open(
        "POST",
        claim.payload["url"],
        headers=headers,
        body=body.encode(),
        timeout=SILENCE_SECONDS,
        deadline=DEADLINE_SECONDS,
    ) as response:
        asked = response.headers.get("Retry-After", "")
        response.read(BODY_BYTES)
        return response.status, float(asked) if re.fullmatch(r"\d{1,9}", asked) else None


def _pause(context: Context, asked: float | None) -> float | None:
    with context.services.sessions() as session:
        return deliveries.pause_after(session, context.claim, asked)
