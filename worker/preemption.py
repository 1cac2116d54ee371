"""Preemption: between two segments of a long recording its worker runs short items that no idle worker claims.

A shard occupies a worker for minutes. Idle workers claim short items at once; if there are none, workers that
process a long recording run them before its next segment. Long work keeps a fixed share of the time, so that it
progresses.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 1.0  # short work that has waited this long found no idle worker; also the interval between checks
SHARE = 3.0  # seconds for short work, for each second of the long recording
MOST_SECONDS = 60.0  # for short work at a time, plus the rest of the last item


class Preemption:
    """A callable to use between two segments. `run_short` runs one short item; it returns False if there was none.

    Attributes:
        seconds: total time spent on short work.
    """

    def __init__(self, run_short: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_short = run_short
        self._clock = clock
        self._since = clock()  # when the long recording was resumed
        self._left = 0.0  # seconds that short work may take
        self.seconds = 0.0

    def __call__(self) -> None:
        """Run waiting short items, if the interval between checks is over."""
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
