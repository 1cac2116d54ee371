"""The quota of the whole service: MT3_MAX_STORED_BYTES, for the recordings and results of all owners together.

Adding up all rows takes a while where there are many, so it is done at most every few seconds. Meanwhile a process
counts what it stores itself; what others store is noticed with the next measurement.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from shared.db import Sessions
from shared.errors import StorageFull
from shared.quotas import count_stored_bytes

MEASURE_SECONDS = 10.0


@dataclass
class StoredTotal:
    """The bytes that all owners have stored, measured on demand.

    Attributes:
        limit: of all recordings and results; None: no limit, and nothing is measured.
    """

    sessions: Sessions
    limit: int | None
    seconds: float = MEASURE_SECONDS
    _bytes: int = field(default=0, init=False)
    _measured: float = field(default=float("-inf"), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def measure(self) -> int:
        """Return the bytes stored, as of a few seconds ago at most."""
        with self._lock:
            if time.monotonic() - self._measured > self.seconds:
                with self.sessions() as session:
                    self._bytes = count_stored_bytes(session)
                self._measured = time.monotonic()
            return self._bytes

    def admit(self, added: int) -> None:
        """Raise if the service may not store so many further bytes; otherwise count them.

        Raises:
            StorageFull
        """
        if self.limit is None:
            return
        stored = self.measure()
        if stored + max(1, added) > self.limit:
            raise StorageFull(
                f"There is no room for this recording: the service stores {stored / 1e6:,.1f} MB of the "
                f"{self.limit / 1e6:,.1f} MB that it may. "
                "Delete transcriptions that are no longer needed, or ask its operator."
            )
        with self._lock:
            self._bytes += added
