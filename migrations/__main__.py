"""`python -m migrations`: bring the configured database up to date."""

from __future__ import annotations

import time

from sqlalchemy.exc import OperationalError

from migrations import upgrade
from shared.config import read_settings
from shared.logs import configure_logs, get_logger

PATIENCE_SECONDS = 60.0


def main() -> None:
    """Upgrade, waiting a while for a database that comes up later than we do."""
    settings = read_settings()
    configure_logs(settings)
    log = get_logger(__name__)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            upgrade(settings)
        except OperationalError as error:
            if time.monotonic() > give_up:
                raise SystemExit(f"mt3-infer: the database does not answer: {error.orig}") from None
            log.info("waiting_for_database", error=str(error.orig).splitlines()[0])
            time.sleep(1)
        else:
            log.info("database_is_up_to_date")
            return


if __name__ == "__main__":
    main()
