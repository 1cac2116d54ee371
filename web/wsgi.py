"""The Flask application of a web process. Reads the environment."""

from __future__ import annotations

import threading

from shared import startup
from shared.config import read_settings
from shared.logs import configure_logs
from web import create_app
from web.parts import EXTENSION, Parts

settings = read_settings()
configure_logs(settings)
app = create_app(settings)


def _tell_of_late_parts() -> None:
    """One line for each part that is not there yet. Until it is, requests that need it are answered with 503."""
    parts: Parts = app.extensions[EXTENSION]
    startup.wait_for("database", lambda: startup.check_database(parts.sessions))
    startup.wait_for("storage", parts.storage.check)


threading.Thread(target=_tell_of_late_parts, name="startup", daemon=True).start()
