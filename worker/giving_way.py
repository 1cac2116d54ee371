"""A long recording gives way: between two of its segments its worker does short jobs that nobody else takes.

A shard keeps a worker for minutes. Who is free hears of a short job at once; where nobody is, those who are at a
long recording do it before they go on. They keep a part of the time for themselves, so that it gets done too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 1.0  # that a short job has waited when nobody is free, and from one look for such jobs to the next
SHARE = 3.0  # seconds for short jobs, for each second of one's own
MOST_SECONDS = 60.0  # for short jobs at a stretch, give or take the last one


class GivingWay:
    """Called between two segments. `do_one` does one short job, and says whether there was one.

    Attributes:
        seconds: that went to short jobs until now.
    """

    def __init__(self, do_one: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._do_one = do_one
        self._clock = clock
        self._since = clock()  # when the own work went on
        self._left = 0.0  # seconds that short jobs may take
        self.seconds = 0.0

    def __call__(self) -> None:
        """Do what waits, if it is time to look."""
        began = self._clock()
        if began - self._since < WAIT_SECONDS:
            return
        self._left = min(MOST_SECONDS, self._left + SHARE * (began - self._since))
        ended = began
        while self._left > ended - began and self._do_one():
            ended = self._clock()
        self._left -= ended - began
        self.seconds += ended - began
        self._since = self._clock()
