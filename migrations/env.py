"""The environment of Alembic: one transaction on the configured database, exclusive by a lock."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from migrations import UnsuitableDatabase
from shared.config import Settings, read_settings
from shared.db import make_engine
from shared.tables import Base

STATEMENT_SECONDS = 3600.0  # large tables take long, and so does waiting for a process that already migrates
LOCK_ID = 7_346_033  # of this application's migrations, among PostgreSQL's advisory locks


def check_encoding(connection: Connection) -> None:
    """Raise unless the database can hold any text, such as the name of a recording."""
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding not in ("UTF8", "SQL_ASCII"):
        raise UnsuitableDatabase(
            f"The database's encoding is {encoding}, which does not hold every file name: "
            "make one with CREATE DATABASE mt3 ENCODING 'UTF8' TEMPLATE template0."
        )


def run(connection: Connection) -> None:
    """Migrate; on SQLite, tables are altered by copying (batch mode)."""
    if connection.dialect.name == "postgresql":
        check_encoding(connection)
        connection.execute(text("SELECT pg_advisory_lock(:id)"), {"id": LOCK_ID})
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


settings = context.config.attributes.get("settings")
if not isinstance(settings, Settings):
    settings = read_settings()
engine = make_engine(settings, statement_seconds=STATEMENT_SECONDS)
try:
    with engine.connect() as connection:
        run(connection)
finally:
    engine.dispose()
