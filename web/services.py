"""The services that views use, kept on the application: settings, database, storage, queue, catalog."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from checkpoints.catalog import Catalog
from shared.config import Settings
from shared.db import Sessions
from shared.line import WaitingLine
from shared.queue import JobQueue
from shared.storage import ObjectStorage
from shared.stored import StoredTotal
from web.credentials import Credentials

EXTENSION = "mt3"


@dataclass(frozen=True)
class Services:
    """The services of one application."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    queue: JobQueue
    catalog: Catalog
    line: WaitingLine
    credentials: Credentials
    stored: StoredTotal
    is_exposure_noted: threading.Event = field(default_factory=threading.Event)


def services() -> Services:
    """Return the services of the current application."""
    return cast(Services, current_app.extensions[EXTENSION])
