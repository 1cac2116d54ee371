"""The database: engine, sessions, and the two differences between SQLite and PostgreSQL that matter here.

The clock is the database's (`now_plus`), so that leases do not depend on the workers' clocks. On SQLite a
transaction that writes must begin with its write: a read first would have to be upgraded, and fails at once
when another process wrote in between. The functions of `shared.jobs` follow that rule.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import DateTime, Dialect, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from shared.config import Settings

Sessions = sessionmaker[Session]

ENDED_BY_SERVER = {"25P03", "25P04", "25006"}
"""Codes of PostgreSQL: a transaction was idle for too long, took too long, or the server has become a standby."""


def is_unavailable(error: BaseException) -> bool:
    """Return True if the database is unreachable or closed the connection; False if the statement was at fault."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | InterfaceError | PoolTimeout)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, always UTC: `timestamptz` on PostgreSQL, ISO text with microseconds on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Reject naive times; SQLite stores no offset, so convert to UTC and drop it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now_plus(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function that it is
    """The database's present moment plus some seconds: `now_plus(30)`."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(float(seconds))


@compiles(now_plus, "postgresql")
def _now_plus_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(now_plus, "sqlite")
def _now_plus_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    # '%f' is SS.SSS; three more digits make it sort with what SQLAlchemy writes.
    seconds = compiler.process(element.clauses, **kw)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


PING_AFTER_SECONDS = 1.0  # without use; until then, a connection that the server has closed is noticed anyway
USED_AT = "mt3_used_at"  # in the info of a connection of the pool
STATEMENT_SECONDS = 8.0  # longer than any statement of the service should take, on any realistic table


def make_engine(settings: Settings, *, statement_seconds: float = STATEMENT_SECONDS) -> Engine:
    """Return an engine for the configured database; no connection is made yet.

    Args:
        statement_seconds: the limit for a statement on PostgreSQL. If the server does not answer for a little
            longer, the caller gets an error that `is_unavailable`, and never hangs.
    """
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": 30})
        event.listen(engine, "connect", _configure_sqlite)
        return engine
    limits_ms = {
        "statement_timeout": statement_seconds * 1000,
        "lock_timeout": statement_seconds * 600,
        # A process that is paused in the middle of a transaction must not keep its rows locked.
        "idle_in_transaction_session_timeout": max(2, settings.lease_seconds / 3) * 1000,
    }
    engine = create_engine(
        url,
        pool_size=20,  # near the number of threads of a web process; connections beyond it are not kept
        max_overflow=10,
        pool_use_lifo=True,  # what was used last is warm, here and in the server
        pool_timeout=5,
        connect_args={
            "client_encoding": "utf8",  # from a SQL_ASCII database, text would arrive as bytes
            "connect_timeout": 5,
            "options": " ".join(f"-c {name}={round(limit)}" for name, limit in limits_ms.items()),
            "tcp_user_timeout": 10000,
        },
    )
    event.listen(engine, "do_connect", _connect_with_patience(statement_seconds + 2))
    event.listen(engine, "handle_error", _mark_ended_connection)
    _replace_lost_connections(engine)
    return engine


def _mark_ended_connection(context: ExceptionContext) -> None:
    """Mark a connection as closed if the server's answer means that it is of no use any more.

    After a network was cut in the middle of a transaction, this answer may arrive before the end of the
    connection, and looks like an error of the statement.
    """
    if getattr(context.original_exception, "sqlstate", None) in ENDED_BY_SERVER:
        context.is_disconnect = True


def _replace_lost_connections(engine: Engine) -> None:
    """Replace connections of the pool that the server has closed; a ping before each use would be a round trip."""

    def note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[USED_AT] = time.monotonic()

    def check(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _proxy: Any) -> None:
        is_idle = time.monotonic() - record.info[USED_AT] > PING_AFTER_SECONDS
        try:
            if is_idle or _has_input(connection):
                engine.dialect.do_ping(connection)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise InvalidatePoolError from error  # the pool connects anew

    event.listen(engine, "connect", note_use)
    event.listen(engine, "checkin", note_use)
    event.listen(engine, "checkout", check)


def _has_input(connection: psycopg.Connection[Any]) -> bool:
    """Return True if the server has sent something unasked, as when it closes the connection."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _connect_with_patience(seconds: float) -> Callable[..., psycopg.Connection[Any]]:
    """Return a connect hook for SQLAlchemy whose connections wait no longer than this for an answer.

    libpq has a timeout for connecting but none for reading: without this, a query would wait forever for a frozen
    server that keeps its sockets open.
    """

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, seconds if timeout is None else timeout)
            except psycopg.OperationalError:
                if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                    self.pgconn.finish()  # a late answer must not be taken for that of the next query
                raise

    def connect(_dialect: Any, _record: Any, args: list[Any], kwargs: dict[str, Any]) -> psycopg.Connection[Any]:
        return Connection.connect(*args, **kwargs)

    return connect


def make_sessions(engine: Engine) -> Sessions:
    """Return a session factory; objects stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def reading(sessions: Sessions) -> Iterator[Session]:
    """Open a session for reads that need no common snapshot: without a transaction, each is one round trip."""
    with sessions() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an accepted job survives power loss
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
    connection.create_function("lower", 1, _lower, deterministic=True)  # its own knows ASCII only


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text
