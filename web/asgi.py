"""The ASGI application that `python -m web` serves, configured by the environment."""

from web.bridge import AsgiApp
from web.wsgi import app as flask_app
from web.wsgi import settings

app = AsgiApp(flask_app, patience=settings.slow_client_seconds)
