"""The filters of transcriptions in a query, and the query of their list."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from shared.tables import Status


def _as_time(value: object) -> object:
    """Refuse numbers, which pydantic takes for seconds since 1970."""
    if not isinstance(value, str):
        return value
    if not re.match(r"\d{4}-\d\d-\d\d[Tt ]", value):
        raise PydanticCustomError("no_time", "send a time as of RFC 3339, for example 2026-01-31T12:00:00Z")
    return re.sub(r"(:[\d.]+) (\d\d:\d\d)$", r"\1+\2", value)  # a plus that was not encoded in the query


def _within_reach(value: datetime) -> datetime:
    """Return a time in UTC; one before or after all jobs becomes one that can be compared and moved by hours."""
    try:
        return min(max(value.astimezone(UTC), EARLIEST), LATEST)
    except OverflowError:  # year 1 or 9999, as clients write "always" and "never"
        return EARLIEST if value.year < LATEST.year else LATEST


EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
Time = Annotated[AwareDatetime, BeforeValidator(_as_time), AfterValidator(_within_reach)]


def _without_nul(value: str) -> str:
    """Refuse what PostgreSQL cannot compare with."""
    if "\0" in value:
        raise PydanticCustomError("nul", "must not contain NUL characters")
    return value


def split_at_commas(value: object) -> object:
    """Return the parts of a query parameter that has several values."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class FilterQuery(BaseModel):
    """The filters of transcriptions in a query."""

    status: Annotated[tuple[Status, ...], BeforeValidator(split_at_commas)] = Field(
        (), description="Only jobs in these states; several with commas between them."
    )
    model: str | None = Field(None, description="Only jobs of this model; a name or an alias.")
    created_after: Time | None = Field(None, description="Only jobs created after this time (RFC 3339).")
    created_before: Time | None = Field(None, description="Only jobs created before this time.")
    q: Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_without_nul)] | None = (
        Field(None, description="Only jobs whose file name contains this text, in any case.")
    )


class ListQuery(FilterQuery):
    """The query of `GET /v1/transcriptions`."""

    limit: int = Field(20, ge=1, le=100, description="Jobs per page.")
    cursor: str | None = Field(
        None, description="`next_cursor` of the page before.", json_schema_extra={"format": "uuid"}
    )
