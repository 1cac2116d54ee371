"""Announcements in the background: bursts are cut short, and failures stop nothing."""

from __future__ import annotations

import threading

from shared.queue import BURST, BackgroundQueue
from tests.servers import wait_until


class Broker:
    """Counts announcements; the first waits for `go`, and a broken one raises."""

    def __init__(self) -> None:
        self.go, self.is_broken = threading.Event(), False
        self.tried = 0

    def notify(self) -> None:
        self.tried += 1
        self.go.wait(30)
        if self.is_broken:
            raise ConnectionError("no broker")


def test_of_a_burst_only_a_few_announcements_are_sent() -> None:
    broker = Broker()
    queue = BackgroundQueue(broker)
    queue.notify()
    wait_until(lambda: broker.tried == 1, what="the first announcement")
    for _ in range(50):
        queue.notify()
    broker.go.set()
    wait_until(lambda: broker.tried == 1 + BURST, what="the burst")
    queue.notify()
    wait_until(lambda: broker.tried == 2 + BURST, what="an announcement of its own")


def test_announcements_go_on_after_a_failure() -> None:
    broker = Broker()
    broker.go.set()
    broker.is_broken = True
    queue = BackgroundQueue(broker)
    queue.notify()
    wait_until(lambda: broker.tried == 1, what="the failure")
    broker.is_broken = False
    queue.notify()
    wait_until(lambda: broker.tried == 2, what="the next announcement")
