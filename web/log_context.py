"""Adds to the log lines of a request what views know about it, for the access log too."""

from __future__ import annotations

from typing import Any

from structlog.contextvars import bind_contextvars

FIELDS = "mt3.log"  # in the environment of a request: further fields of its line in the access log


def log_owner(environ: dict[str, Any], owner: str) -> None:
    """Add the owner to every later line of this request."""
    bind_contextvars(owner=owner)
    environ.get(FIELDS, {})["owner"] = owner
