"""The addresses that a job carries, so that clients need not make them."""

from __future__ import annotations

from pydantic import BaseModel, Field

from shared.tables import Job, Status
from web.access import current_access, job_address


class LinksView(BaseModel):
    """Where a job is, and what can be done with it now; null where its state forbids it."""

    self: str
    artifacts: str = Field(description="The list of its files, which grows with its exports.")
    events: str = Field(description="Its state and its notes as server-sent events.")
    cancel: str | None
    retry: str | None


def view_links(job: Job) -> LinksView:
    """Return the addresses for the current request; by a share link nothing can be changed."""
    address, may_change = job_address(job.id), not current_access().share
    is_active = job.status in (Status.QUEUED, Status.PROCESSING)
    has_stopped = job.status in (Status.FAILED, Status.CANCELED)
    return LinksView(
        self=address,
        artifacts=f"{address}/artifacts",
        events=f"{address}/events",
        cancel=f"{address}/cancel" if may_change and is_active else None,
        retry=f"{address}/retry" if may_change and has_stopped else None,
    )
