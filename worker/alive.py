"""`python -m worker.alive`: status 0 if the worker of this container gets on with its work, 1 if it hangs."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from shared.config import Settings, read_settings


def alive_file(settings: Settings) -> Path:
    """The file that a worker touches as long as it is well: see `worker.liveness`."""
    return settings.alive_file or Path(tempfile.gettempdir()) / "mt3-worker.alive"


def silence(file: Path) -> float | None:
    """Seconds since a worker last touched its file; None if it never did."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return None


def main() -> None:
    """Look at the file's age."""
    settings = read_settings()
    file = alive_file(settings)
    seconds = silence(file)
    if seconds is None:
        sys.exit(f"mt3-infer: no worker has started yet ({file} is not there)")
    if seconds > settings.alive_seconds:
        sys.exit(f"mt3-infer: the worker hangs: it last moved {seconds:.0f} s ago")


if __name__ == "__main__":
    main()
