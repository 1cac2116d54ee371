"""`celery --app tests.integration.stuck_worker worker`: a worker whose consumer loop stops after a while."""

import time

from worker.app import app, liveness

__all__ = ["app"]

LEFT = iter(range(20))
turned = liveness.turned


def turn_and_get_stuck() -> None:
    turned()
    if next(LEFT, None) is None:
        time.sleep(600)


liveness.turned = turn_and_get_stuck  # type: ignore[method-assign]
