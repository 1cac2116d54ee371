"""What the views work with, kept on the application: settings, database, storage, queue, catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app

from checkpoints.catalog import Catalog
from shared.config import Settings
from shared.db import Sessions
from shared.fairness import WaitingLine
from shared.queue import JobQueue
from shared.storage import ObjectStorage

EXTENSION = "mt3"
OWNER = "public"  # everybody, as long as the service asks for no keys


@dataclass(frozen=True)
class Parts:
    """The collaborators of one application."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    queue: JobQueue
    catalog: Catalog
    line: WaitingLine


def parts() -> Parts:
    """Those of the application that answers this request."""
    return cast(Parts, current_app.extensions[EXTENSION])
