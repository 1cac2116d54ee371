"""Preemption: between two segments of a long recording its worker runs short items that no other worker takes.

A shard keeps a worker for minutes. An idle worker takes short work at once; where none is idle, those that are at
a long recording run it before they go on. They keep a part of the time for themselves, so that it gets done, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 1.0  # how long short work has waited if no worker is idle; and from one look for it to the next
SHARE = 3.0  # seconds for short work, for each second of the long recording
MOST_SECONDS = 60.0  # for short work at a stretch, give or take the last item


class Preemption:
    """To be called between two segments. `run_short` runs one short item, and returns False if there was none.

    Attributes:
        seconds: that short work took until now.
    """

    def __init__(self, run_short: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_short = run_short
        self._clock = clock
        self._since = clock()  # when the long recording went on
        self._left = 0.0  # seconds that short work may take
        self.seconds = 0.0

    def __call__(self) -> None:
        """Run what waits, if it is time to look."""
        began = self._clock()
        if began - self._since < WAIT_SECONDS:
            return
        self._left = min(MOST_SECONDS, self._left + SHARE * (began - self._since))
        ended = began
        while self._left > ended - began and self._run_short():
            ended = self._clock()
        self._left -= ended - began
        self.seconds += ended - began
        self._since = self._clock()
