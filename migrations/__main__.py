"""`python -m migrations`: migrate the configured database, and wait for it if it starts later."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from sqlalchemy.exc import OperationalError

from migrations import UnsuitableDatabase, upgrade
from shared.config import read_settings
from shared.logs import configure_logs, get_logger
from shared.startup import wait_for


def main() -> None:
    """Wait for the database, then migrate it."""
    signal.signal(signal.SIGTERM, _end)
    settings = read_settings()
    configure_logs(settings)
    log = get_logger(__name__)
    try:
        wait_for("database", lambda: upgrade(settings), only=(OperationalError,))
    except UnsuitableDatabase as error:
        log.error("unsuitable_database", error=str(error))
        sys.exit(1)
    log.info("database_is_up_to_date")


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
