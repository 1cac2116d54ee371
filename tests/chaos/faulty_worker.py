"""`celery --app tests.chaos.faulty_worker worker`: the worker, with the faults of `tests.chaos.faults`."""

from tests.chaos import faults

faults.plant("worker")

from worker.app import app  # noqa: E402

__all__ = ["app"]
