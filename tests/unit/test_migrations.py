"""The same migrations on both databases: they end in the tables that the code has, and keep what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text
from uuid6 import uuid7

import migrations
from migrations import upgrade
from shared.config import Settings
from shared.db import make_engine
from shared.tables import Base

# SQLite cannot say what an index on an expression is: `test_turns` shows that it is used.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Skipped unsupported reflection of expression-based index",
    "ignore:autogenerate skipping metadata-specified expression-based index",
)

INSERT = """
INSERT INTO jobs (id, owner, status, model, options, client_metadata, upload_key, upload_bytes, attempt,
  attempts_charged, run_after, audio_seconds_done, created_at, artifacts)
VALUES (:id, 'public', 'queued', 'm', '{}', '{}', 'k', 1, 0, 0, :now, 0, :now, '[]')
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name a database without any tables."""
    if request.param == "sqlite":
        return Settings(database_url=f"sqlite:///{tmp_path / 'new.sqlite3'}")
    url: str = request.getfixturevalue("postgres_url")
    name = f"m{uuid7().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return Settings(database_url=f"{url.rpartition('/')[0]}/{name}")


@pytest.fixture
def engine(empty: Settings) -> Iterator[Engine]:
    engine = make_engine(empty)
    yield engine
    engine.dispose()


def test_migrations_end_in_the_tables_that_the_code_has(empty: Settings, engine: Engine) -> None:
    upgrade(empty)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_job_survives_all_migrations_and_all_steps_back(empty: Settings, engine: Engine) -> None:
    upgrade(empty, "0001")
    with engine.begin() as connection:
        connection.execute(text(INSERT), {"id": UUID(str(uuid7())).hex, "now": "2026-01-01 00:00:00.000000"})
    upgrade(empty)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT status, attempts FROM jobs")).one()
    assert (row.status, row.attempts) == ("queued", 0)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["settings"] = empty
    command.downgrade(config, "0001")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM jobs")) == 1
