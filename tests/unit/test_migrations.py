"""The same migrations on both databases: they result in the tables of the code, and keep existing data."""

from __future__ import annotations

import os
import subprocess
import sys
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
from shared.db import make_engine, make_sessions
from shared.jobs import NewJob, create_job, get_job
from shared.tables import Base

# SQLite does not report indexes on expressions.
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
    """Return settings that name a database without any tables."""
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


def test_migrations_result_in_the_tables_of_the_code(empty: Settings, engine: Engine) -> None:
    upgrade(empty)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_job_survives_all_upgrades_and_downgrades(empty: Settings, engine: Engine) -> None:
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


def make_database(url: str, encoding: str) -> Settings:
    name = f"m{uuid7().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        made = f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(made.encode())
    return Settings(database_url=f"{url.rpartition('/')[0]}/{name}")


@pytest.mark.integration
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "UTF8"])
def test_a_database_of_these_encodings_is_migrated_and_keeps_any_text(postgres_url: str, encoding: str) -> None:
    settings = make_database(postgres_url, encoding)
    upgrade(settings)
    engine = make_engine(settings)
    job_id, name = UUID(str(uuid7())), "Жizнь – é🎵.wav"
    new = NewJob(job_id, "public", "m", {}, {name: name}, name, "k", 1)
    create_job(make_sessions(engine), new)
    with make_sessions(engine)() as session:
        job = get_job(session, "public", job_id)
    assert (job.filename, job.client_metadata) == (name, {name: name})
    engine.dispose()


@pytest.mark.integration
@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1251", "EUC_JP"])
def test_a_database_that_cannot_hold_every_text_is_refused(postgres_url: str, encoding: str) -> None:
    settings = make_database(postgres_url, encoding)
    run = subprocess.run(
        [sys.executable, "-m", "migrations"],
        env={**os.environ, "MT3_DATABASE_URL": settings.database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert f"encoding is {encoding}" in line
    assert "ENCODING 'UTF8'" in line
