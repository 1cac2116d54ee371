"""Support for processes that must not outlive their parent."""

from __future__ import annotations

import ctypes
import signal


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is killed (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
