"""Sends webhooks on threads of their own: a receiver that is slow or gone delays no transcription and no other.

One thread looks for deliveries that are due; a few send them, at most half of them to the same receiver.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from shared import deliveries
from shared.kinds import Claim
from shared.logs import get_logger
from worker.context import Services
from worker.runner import Runner

log = get_logger(__name__)

THREADS = 4
POLL_SECONDS = 1.0


class Deliveries:
    """The threads of a worker process that send webhooks until it shuts down."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runner = Runner(services)
        self._receivers: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._senders = ThreadPoolExecutor(THREADS, "webhooks")
        self._thread = threading.Thread(target=self._serve, name="deliveries", daemon=True)

    def start(self) -> None:
        """Begin to look for deliveries."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the last delivery has ended, once the process is shutting down."""
        if self._thread.is_alive():
            self._thread.join()
        self._senders.shutdown()

    def _serve(self) -> None:
        while not self._services.stopping.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._receivers.total() < THREADS)
                busy = [receiver for receiver, count in self._receivers.items() if count >= THREADS // 2]
            claim = self._claim(busy)
            if claim is None:
                self._services.stopping.wait(POLL_SECONDS)
                continue
            with self._changed:
                self._receivers[claim.input_key or ""] += 1
            self._senders.submit(self._send, claim)

    def _claim(self, busy: list[str]) -> Claim | None:
        settings = self._services.settings
        try:
            return deliveries.claim_next(
                self._services.sessions,
                worker=self._services.worker,
                lease_seconds=settings.lease_seconds,
                max_attempts=settings.max_attempts,
                except_for=busy,
            )
        except Exception as error:
            log.warning("deliveries_wait", error=str(error).splitlines()[:1])
            return None

    def _send(self, claim: Claim) -> None:
        try:
            self._runner.run(claim)
        except Exception as error:  # the database is unavailable while the process shuts down; the lease expires
            log.error("delivery_abandoned", error=repr(error)[:500])
        finally:
            with self._changed:
                self._receivers[claim.input_key or ""] -= 1
                self._receivers += Counter()  # without the zeros
                self._changed.notify()
