"""Lists with filters and the search for expired jobs read an index, not the table, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, insert, text
from sqlalchemy.orm import Session
from uuid6 import uuid7

from shared import jobs
from shared.db import Sessions
from shared.tables import Job, Status
from tests.work import add_job, expire_lease, must_claim, rescue

ROWS = 5000


@pytest.fixture
def session(any_sessions: Sessions) -> Session:
    """Insert many recently succeeded jobs of one model, and update the planner's statistics."""
    now = datetime.now(UTC)
    same: dict[str, Any] = {
        "owner": "public",
        "status": Status.SUCCEEDED,
        "model": "basic_pitch",
        "options": {},
        "client_metadata": {},
        "upload_key": "k",
        "upload_bytes": 1,
        "attempts": 1,
        "audio_seconds_done": 1.0,
        "artifacts": [],
    }
    with any_sessions.begin() as session:
        rows = []
        for number in range(ROWS):
            at = now - timedelta(minutes=number)
            rows.append({**same, "id": UUID(str(uuid7())), "created_at": at, "finished_at": at})
        session.execute(insert(Job), rows)
    with any_sessions.begin() as session:
        session.execute(text("ANALYZE"))
    return any_sessions()


def plan_of(session: Session, call: Any) -> str:
    """Return the query plan of the first statement that a function executes."""
    seen: list[tuple[str, Any]] = []

    def remember(_c: Connection, _k: Any, statement: str, values: Any, _x: Any, _m: bool) -> None:
        seen.append((statement, values))

    engine = session.get_bind()
    assert isinstance(engine, Engine)
    event.listen(engine, "before_cursor_execute", remember)
    try:
        call()
    finally:
        event.remove(engine, "before_cursor_execute", remember)
    session.rollback()
    statement, values = seen[0]
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    lines = session.connection().exec_driver_sql(explain + statement, values).all()
    session.rollback()
    return "\n".join(str(line[-1]) for line in lines)


@pytest.mark.parametrize(
    "filters",
    [
        {"statuses": (Status.QUEUED,)},
        {"model": "yourmt3"},
        {"model": "yourmt3", "statuses": (Status.SUCCEEDED,)},
        {"model": "basic_pitch", "statuses": (Status.FAILED,)},
    ],
)
def test_a_list_of_few_jobs_does_not_read_the_others(session: Session, filters: dict[str, Any]) -> None:
    plan = plan_of(session, lambda: jobs.list_jobs(session, "public", jobs.JobFilter(**filters)))
    assert "ix_jobs_" in plan, plan
    assert not reads_all(plan), plan


@pytest.mark.parametrize("filters", [{}, {"statuses": (Status.SUCCEEDED,)}, {"model": "basic_pitch"}])
def test_a_list_of_many_jobs_reads_them_in_order(session: Session, filters: dict[str, Any]) -> None:
    plan = plan_of(session, lambda: jobs.list_jobs(session, "public", jobs.JobFilter(**filters)))
    assert "Sort" not in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    assert "Seq Scan" not in plan, plan


def test_search_for_expired_jobs_reads_only_those(session: Session) -> None:
    plan = plan_of(session, lambda: jobs.expire_jobs(session, ttl_days=365))
    assert "ix_jobs_finished_at" in plan, plan


def reads_all(plan: str) -> bool:
    """Return True if a plan reads a whole table, or a whole index in order."""
    return any(words in plan for words in ("Seq Scan", "SCAN jobs", "using pk_jobs", "ix_jobs_owner_id"))


def test_a_claim_in_a_burst_reads_its_own_rows_only(postgres_sessions: Sessions) -> None:
    """Until the table is analyzed, the planner does not know of a burst, and may read all that is queued: once."""
    ids = [add_job(postgres_sessions) for _ in range(200)]
    seen: list[tuple[str, Any]] = []

    def remember(_c: Connection, _k: Any, statement: str, values: Any, _x: Any, _m: bool) -> None:
        seen.append((statement, values))

    engine = postgres_sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", remember)
    held = must_claim(postgres_sessions, ids[0])
    expire_lease(postgres_sessions, held)
    assert rescue(postgres_sessions) == ([("transcribe", 0)], [])
    event.remove(engine, "before_cursor_execute", remember)
    updates = [(statement, values) for statement, values in seen if statement.startswith("UPDATE")]
    assert len(updates) >= 4
    for statement, values in updates:
        with engine.connect() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
            (plan,) = connection.exec_driver_sql(explain, values).scalar_one()
            connection.rollback()
        assert most_loops(plan["Plan"]) <= 5, plan


def most_loops(node: dict[str, Any]) -> int:
    """Return how often a part of a plan was run."""
    return max([int(node["Actual Loops"]), *(most_loops(child) for child in node.get("Plans", []))])
