"""The liveness file. `python -m worker.liveness_file` exits with status 1 if the worker on this machine hangs."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from shared.config import Settings, read_settings


def liveness_file(settings: Settings) -> Path:
    """Return the file that a worker touches while it makes progress: see `worker.liveness`."""
    return settings.liveness_file or Path(tempfile.gettempdir()) / "mt3-worker.liveness"


def seconds_since_touch(file: Path) -> float | None:
    """Return the seconds since a worker last touched its file; None if it never did."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return None


def main() -> None:
    """Exit with a status that depends on the age of the file."""
    settings = read_settings()
    file = liveness_file(settings)
    seconds = seconds_since_touch(file)
    if seconds is None:
        sys.exit(f"mt3-infer: no worker has started yet ({file} is not there)")
    if seconds > settings.liveness_seconds:
        sys.exit(f"mt3-infer: the worker hangs: its last sign of activity was {seconds:.0f} s ago")


if __name__ == "__main__":
    main()
