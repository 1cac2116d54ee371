"""Clients that wait for the end of a job or an export: a query for all of them, and each view runs twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, update

from shared import jobs
from shared.config import Settings
from shared.db import Sessions
from shared.endings import find_ended
from shared.tables import WorkItem, WorkStatus
from tests.access import KeyService, key_service
from tests.unit.web.test_events import Connection
from tests.work import add_job, fail, must_claim
from web import waits
from web.bridge import AsgiApp
from web.waits import Waits

COUNT = 12


@pytest.fixture
def service(settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyService]:
    monkeypatch.setattr(waits, "STEP_SECONDS", 0.01)
    with key_service(settings, sessions) as running:
        yield running


async def answer_of(connection: Connection) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, headers = await connection.start()
    await connection.task
    return status, headers, json.loads(connection.messages.get_nowait()["body"])


def test_many_that_wait_cost_one_query_until_the_job_ends(
    service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, key = AsgiApp(service.app, patience=5), service.key()
    job_id, calls, reads = service.job(key), 0, 0
    call, read = app._call_flask, find_ended

    def counted(environ: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        return call(environ)

    def counted_read(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(*arguments)

    monkeypatch.setattr(app, "_call_flask", counted)
    monkeypatch.setattr(waits, "find_ended", counted_read)

    async def wait() -> None:
        headers = {"authorization": f"Bearer {key}", "prefer": "wait=50"}
        clients = [Connection(app, f"/v1/transcriptions/{job_id}", headers) for _ in range(COUNT)]
        while calls < COUNT or reads < 5:
            await asyncio.sleep(0.01)
        assert (calls, [client.task.done() for client in clients]) == (COUNT, [False] * COUNT)
        service.finish(job_id)
        for client in clients:
            status, sent, body = await asyncio.wait_for(answer_of(client), 20)
            assert (status, body["status"], sent["preference-applied"]) == (200, "succeeded", "wait=50")
            assert "retry-after" not in sent
        assert calls == 2 * COUNT
        assert not app._waits._watched

    asyncio.run(wait())
    app.close()


@pytest.mark.parametrize("how", ["deleted", "time over", "client gone"])
def test_wait_ends_otherwise(service: KeyService, how: str) -> None:
    app, key = AsgiApp(service.app, patience=5), service.key()
    job_id = service.job(key)

    async def wait() -> None:
        seconds = "0.3" if how == "time over" else "50"
        headers = {"authorization": f"Bearer {key}", "prefer": f"wait={seconds}"}
        client = Connection(app, f"/v1/transcriptions/{job_id}", headers)
        while not app._waits._watched:
            await asyncio.sleep(0.01)
        if how == "client gone":
            client.left.set()
            await asyncio.wait_for(client.task, 20)
        else:
            change = "DELETE" if how == "deleted" else "PATCH"
            body = {} if how == "deleted" else {"json": {"name": "new.wav"}}
            service.call(key, change, f"/v1/transcriptions/{job_id}", **body)
            status, _, answer = await asyncio.wait_for(answer_of(client), 20)
            assert status == (404 if how == "deleted" else 200)
            assert how == "deleted" or answer["filename"] == "new.wav", "the state at the end of the wait"
        assert not app._waits._watched

    asyncio.run(wait())
    app.close()


def test_export_is_waited_for(service: KeyService) -> None:
    app, key = AsgiApp(service.app, patience=5), service.key()
    job_id = service.finished_job(key)
    export = service.call(key, "POST", f"/v1/transcriptions/{job_id}/exports", json={"format": "midi"}).json

    async def wait() -> None:
        headers = {"authorization": f"Bearer {key}", "prefer": "wait=50"}
        client = Connection(app, f"/v1/transcriptions/{job_id}/exports/{export['id']}", headers)
        while UUID(export["id"]) not in app._waits._watched:
            await asyncio.sleep(0.01)
        with service.sessions.begin() as session:
            item: UUID = UUID(export["id"])
            done = update(WorkItem).where(WorkItem.id == item)
            session.execute(done.values(status=WorkStatus.FAILED, error_code="broken", error_detail="It broke."))
        status, _, answer = await asyncio.wait_for(answer_of(client), 20)
        assert (status, answer["status"]) == (200, "failed")

    asyncio.run(wait())
    app.close()


def test_database_that_is_away_ends_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "STEP_SECONDS", 0.01)
    failures, job_id = 3, uuid4()

    async def read(ids: Collection[UUID]) -> Collection[UUID]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("the database is unavailable")
        return ids

    async def wait() -> None:
        with Waits(read).watch(job_id) as ended:
            await asyncio.wait_for(ended, 20)

    asyncio.run(wait())
    assert failures < 0


def test_jobs_and_exports_that_have_ended_are_found_in_two_queries(any_sessions: Sessions) -> None:
    running, ended, deleted = (add_job(any_sessions) for _ in range(3))
    fail(any_sessions, must_claim(any_sessions, ended), retry_after=None)
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", deleted)
    asked: list[str] = []
    event.listen(any_sessions.kw["bind"], "before_cursor_execute", lambda *args: asked.append(args[2]))
    assert find_ended(any_sessions, [running, ended, deleted]) == {ended, deleted}
    assert len(asked) == 2
    assert find_ended(any_sessions, [running]) == set()
    assert len(asked) == 3
