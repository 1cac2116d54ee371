"""Marks views by the dependencies they use: each kind has a thread pool of its own (`web.bridge`)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "mt3_workload"


class Workload(StrEnum):
    """Kinds of views."""

    LIVENESS = "liveness"  # no dependency
    READINESS = "readiness"  # every dependency
    DATABASE = "database"  # the default
    STORAGE = "storage"  # transfers of recordings or results; minutes if storage is slow


def works_with(workload: Workload) -> Callable[[View], View]:
    """Mark a view. Goes below the decorators of the framework."""

    def mark(view: View) -> View:
        setattr(view, _ATTRIBUTE, workload)
        return view

    return mark


def workload_of(view: Callable[..., Any] | None) -> Workload:
    """Return the mark of a view."""
    return getattr(view, _ATTRIBUTE, Workload.DATABASE)
