"""`celery --app tests.chaos.faulty_worker worker`: the worker, with what `tests.chaos.faults` plants."""

from tests.chaos import faults

faults.plant("worker")

from worker.app import app  # noqa: E402

__all__ = ["app"]
