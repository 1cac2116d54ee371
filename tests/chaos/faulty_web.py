"""`python -m web --app tests.chaos.faulty_web:app`: the web process, with the faults of `tests.chaos.faults`."""

from tests.chaos import faults

faults.plant("web")

from web.asgi import app  # noqa: E402

__all__ = ["app"]
