"""The fields of a request by which a client asks for webhooks, and the check of fields that are addresses."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from shared.config import Settings
from shared.public_address import AddressRefused, PublicHttp, Target
from shared.webhook_events import EVENTS


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class WebhookFields(BaseModel):
    """Where to send events of the job."""

    webhook_url: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="A URL of yours, to which signed events are sent when the job ends (Standard Webhooks)."
    )
    webhook_events: Annotated[tuple[str, ...], BeforeValidator(_split)] | None = Field(
        None, description=f"The events to send, with commas between them; all without it: {', '.join(EVENTS)}."
    )


def parse_address(settings: Settings, field: str, url: str) -> Target:
    """Return the parts of a URL in a field of a request.

    Raises:
        AddressRefused: the service does not request such URLs; the message names the field.
    """
    try:
        return PublicHttp(settings.allowed_networks).parse(url)
    except AddressRefused as refused:
        raise AddressRefused(f"{field}: {refused}") from None
