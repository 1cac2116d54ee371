"""The two databases of the service, queried directly; each records which attempt completed which job.

In `finishes`, `held` is the current attempt at the job's last item, `wrote` the one whose artifacts the job got.
`changes` lists every job that changed its state after it had ended.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID

import psycopg

Rows = list[tuple[object, ...]]

POSTGRES_WITNESS = """
CREATE TABLE finishes (job uuid, held int, wrote int, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_finish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO finishes (job, held, wrote)
  SELECT NEW.id, attempt, split_part(NEW.artifacts->0->>'key', '/', -2)::int
  FROM work_items WHERE job_id = NEW.id AND kind IN ('transcribe', 'assemble') ORDER BY kind LIMIT 1;
  RETURN NEW;
END $$;
CREATE TRIGGER note_finish AFTER UPDATE OF artifacts ON jobs
  FOR EACH ROW WHEN (NEW.status = 'succeeded') EXECUTE FUNCTION note_finish();
CREATE TABLE changes (job uuid, was text, became text);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO changes (job, was, became) VALUES (NEW.id, OLD.status, NEW.status);
  RETURN NEW;
END $$;
CREATE TRIGGER note_change AFTER UPDATE OF status ON jobs
  FOR EACH ROW WHEN (OLD.finished_at IS NOT NULL AND NEW.status <> OLD.status) EXECUTE FUNCTION note_change();
"""

# A key ends in the attempt, / and a name; the rest before them is removed.
SQLITE_WITNESS = """
CREATE TABLE finishes (job CHAR(32), held int, wrote int,
  at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')));
CREATE TRIGGER note_finish AFTER UPDATE OF artifacts ON jobs WHEN NEW.status = 'succeeded' BEGIN
  INSERT INTO finishes (job, held, wrote)
  SELECT NEW.id, attempt, CAST(replace(folder, rtrim(folder, '0123456789'), '') AS INTEGER)
  FROM work_items, (SELECT rtrim(rtrim(key, replace(key, '/', '')), '/') AS folder
    FROM (SELECT json_extract(NEW.artifacts, '$[0].key') AS key))
  WHERE job_id = NEW.id AND kind IN ('transcribe', 'assemble') ORDER BY kind LIMIT 1;
END;
CREATE TABLE changes (job CHAR(32), was text, became text);
CREATE TRIGGER note_change AFTER UPDATE OF status ON jobs
  WHEN OLD.finished_at IS NOT NULL AND NEW.status <> OLD.status BEGIN
  INSERT INTO changes (job, was, became) VALUES (NEW.id, OLD.status, NEW.status);
END;
"""


class Database(Protocol):
    """A database as the accounting uses it."""

    @property
    def url(self) -> str:
        """Return the value of MT3_DATABASE_URL."""

    def ask(self, statement: str, *values: object) -> Rows:
        """Run a statement with %s for each value."""

    def plant_witness(self) -> None:
        """Install triggers that record which attempt completes which job."""


@dataclass(frozen=True)
class PostgresDatabase:
    """PostgreSQL; statements are retried while it is unavailable."""

    url: str

    def ask(self, statement: str, *values: object) -> Rows:
        for left in range(200, -1, -1):
            try:
                with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
                    cursor = connection.execute(statement, values or None)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if not left:
                    raise
                time.sleep(0.1)
        raise AssertionError

    def plant_witness(self) -> None:
        self.ask(POSTGRES_WITNESS)


@dataclass(frozen=True)
class SqliteDatabase:
    """SQLite in one file. Returns UUIDs and aware times, as PostgreSQL does."""

    file: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    def ask(self, statement: str, *values: object) -> Rows:
        with closing(self._connect()) as connection:
            return connection.execute(statement.replace("%s", "?"), [_for_sqlite(v) for v in values]).fetchall()

    def plant_witness(self) -> None:
        with closing(self._connect()) as connection:
            connection.executescript(SQLITE_WITNESS)

    @contextmanager
    def written_to(self) -> Iterator[None]:
        """Hold the write lock for the duration of the block."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.rollback()

    def _connect(self) -> sqlite3.Connection:
        sqlite3.register_converter("CHAR", lambda text: UUID(text.decode()))
        sqlite3.register_converter("DATETIME", lambda text: datetime.fromisoformat(text.decode() + "+00:00"))
        return sqlite3.connect(self.file, timeout=30, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES)


def _for_sqlite(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        case UUID():
            return value.hex
        case _:
            return value
