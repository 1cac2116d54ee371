"""The door of the web process: `gunicorn --config python:web.gunicorn web.wsgi:app`. Reads the environment."""

from __future__ import annotations

from shared.config import read_settings
from shared.logs import configure_logs
from web import create_app

settings = read_settings()
configure_logs(settings)
app = create_app(settings)
