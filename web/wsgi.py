"""The Flask application of a web process, configured by the environment."""

from __future__ import annotations

import threading

from shared import startup
from shared.config import read_settings
from shared.logs import configure_logs
from shared.tracing import configure_tracing
from web import create_app
from web.services import EXTENSION, Services

settings = read_settings()
configure_logs(settings)
configure_tracing("mt3-web")
app = create_app(settings)


def _log_unavailable_dependencies() -> None:
    """Log each dependency that is not available yet. Until it is, requests that need it get a 503."""
    services: Services = app.extensions[EXTENSION]
    startup.wait_for("database", lambda: startup.check_database(services.sessions))
    startup.wait_for("storage", services.storage.check)


threading.Thread(target=_log_unavailable_dependencies, name="startup", daemon=True).start()
