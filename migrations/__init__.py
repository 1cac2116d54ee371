"""Alembic migrations, and the function that migrates a database: `upgrade(settings)`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

from shared.config import Settings


class UnsuitableDatabase(Exception):  # noqa: N818
    """The database cannot hold what the service stores; the message names a suitable one."""


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Migrate the database to a revision; several processes may call it at once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["settings"] = settings
    command.upgrade(config, revision)
