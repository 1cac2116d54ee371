"""Notes of running jobs over HTTP: pages by polling, and the events that a stream is made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from sqlalchemy import event, update

from shared import jobs, keys, note_stream, work
from shared.config import Settings
from shared.db import Sessions
from shared.kinds import Claim, Result
from shared.note_stream import UNPLANNED, Change, Fields
from shared.queue import InMemoryQueue
from shared.tables import Job
from tests.access import key_service
from tests.work import add_job, fail, must_claim
from web import create_app, streams
from web.bridge import AsgiApp
from web.events import read_news
from web.services import EXTENSION, Services
from web.streams import News, Stream, Streams, Watch

App = Callable[..., Awaitable[None]]


def note(pitch: int) -> Fields:
    fields = {"onset": 0.5, "offset": 1.0, "pitch": pitch, "velocity": 90, "program": 0}
    return fields | {"is_drum": False, "confidence": None}


def publish(sessions: Sessions, claim: Claim, *pitches: int, withdrawn: tuple[int, ...] = ()) -> None:
    with sessions.begin() as session:
        change = Change(withdrawn, [note(pitch) for pitch in pitches])
        assert note_stream.publish(session, claim, change) is not None


def succeed(sessions: Sessions, claim: Claim, *pitches: int) -> None:
    with sessions.begin() as session:
        assert work.complete(session, claim, result=Result([], note_count=len(pitches), audio_seconds=2.0))
        note_stream.end(session, claim.job_id, UNPLANNED, [note(pitch) for pitch in pitches])


@pytest.fixture
def app(settings: Settings, sessions: Sessions) -> Iterator[AsgiApp]:
    settings = settings.model_copy(update={"max_streams": 3})
    app = AsgiApp(create_app(settings, sessions=sessions, queue=InMemoryQueue()), patience=5)
    yield app
    app.close()


@pytest.fixture
def client(app: AsgiApp) -> FlaskClient:
    return app._flask.test_client()


@pytest.fixture
def services(app: AsgiApp) -> Services:
    services: Services = app._flask.extensions[EXTENSION]
    return services


def page(client: FlaskClient, job_id: UUID, after: str | None = None) -> tuple[dict[str, Any], str | None]:
    query = {} if after is None else {"after": after}
    answer = client.get(f"/v1/transcriptions/{job_id}/notes", query_string=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return dict(answer.json or {}), answer.headers.get("Retry-After")


def test_pages_of_notes_until_the_end(client: FlaskClient, sessions: Sessions) -> None:
    job_id = add_job(sessions)
    empty = {"status": "queued", "complete": False, "cursor": "0", "notes": [], "withdrawn": []}
    assert page(client, job_id) == (empty, "1")
    claim = must_claim(sessions, job_id)
    publish(sessions, claim, 60, 61)
    first, retry_after = page(client, job_id, "0")
    assert first["notes"] == [{"id": 1000, **note(60)}, {"id": 1001, **note(61)}]
    assert (first["status"], first["cursor"], retry_after) == ("processing", "1", "1")
    assert page(client, job_id, "1")[0]["notes"] == []
    publish(sessions, claim, 62, withdrawn=(1000,))
    second, _ = page(client, job_id, "1")
    assert (second["cursor"], second["withdrawn"], [n["pitch"] for n in second["notes"]]) == ("3", [1000], [62])
    assert [n["pitch"] for n in page(client, job_id)[0]["notes"]] == [61, 62], "what came and went is left out"
    succeed(sessions, claim, 61, 63)
    last, retry_after = page(client, job_id, "3")
    assert (last["status"], last["complete"], retry_after) == ("succeeded", True, None)
    assert (last["withdrawn"], [n["pitch"] for n in last["notes"]]) == ([3000], [63])
    assert page(client, job_id, last["cursor"]) == (
        {"status": "succeeded", "complete": True, "cursor": "5", "notes": [], "withdrawn": []},
        None,
    )


def test_pages_are_bounded_and_the_next_one_need_not_be_waited_for(
    client: FlaskClient, sessions: Sessions
) -> None:
    job_id = add_job(sessions)
    claim = must_claim(sessions, job_id)
    for pitch in range(25):
        publish(sessions, claim, pitch)
    succeed(sessions, claim, *range(25))
    first, retry_after = page(client, job_id)
    assert (len(first["notes"]), first["complete"], retry_after) == (20, False, "0")
    second, retry_after = page(client, job_id, first["cursor"])
    assert (len(second["notes"]), second["complete"], retry_after) == (5, True, None)


def test_a_job_that_failed_has_no_final_notes(client: FlaskClient, sessions: Sessions) -> None:
    job_id = add_job(sessions)
    claim = must_claim(sessions, job_id)
    publish(sessions, claim, 60)
    fail(sessions, claim, retry_after=None)
    body, retry_after = page(client, job_id)
    assert (body["status"], body["complete"], len(body["notes"]), retry_after) == ("failed", True, 1, None)


@pytest.mark.parametrize("call", ["notes", "events"])
@pytest.mark.parametrize(
    ("after", "status", "code"),
    [("-1", 422, "invalid_cursor"), ("x", 422, "invalid_cursor"), ("7", 422, "invalid_cursor")],
)
def test_cursors_of_nobody_are_refused(
    client: FlaskClient, sessions: Sessions, call: str, after: str, status: int, code: str
) -> None:
    job_id = add_job(sessions)
    answer = client.get(f"/v1/transcriptions/{job_id}/{call}?after={after}")
    assert (answer.status_code, json.loads(answer.text)["code"]) == (status, code)


@pytest.mark.parametrize("call", ["notes", "events"])
def test_jobs_without_a_stream_are_refused(client: FlaskClient, sessions: Sessions, call: str) -> None:
    assert client.get(f"/v1/transcriptions/{UUID(int=1)}/{call}").status_code == 404
    others = add_job(sessions, owner="other")
    assert client.get(f"/v1/transcriptions/{others}/{call}").status_code == 404
    job_id = add_job(sessions)
    with sessions.begin() as session:  # by an earlier release
        assert work.complete(session, must_claim(sessions, job_id), result=Result([], 5, 2.0))
    answer = client.get(f"/v1/transcriptions/{job_id}/{call}")
    assert (answer.status_code, json.loads(answer.text)["code"]) == (410, "notes_gone")


# --- streams -----------------------------------------------------------------------------------------------


class Connection:
    """A client's connection to the application."""

    def __init__(self, app: App, path: str, headers: Mapping[str, str] | None = None, query: str = "") -> None:
        self.left = asyncio.Event()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "http_version": "1.1",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "headers": [
                (b"host", b"localhost"),
                *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
            ],
        }
        self.text = ""
        self.task = asyncio.ensure_future(app(scope, self._receive, self.messages.put))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def start(self) -> tuple[int, dict[str, str]]:
        message = await asyncio.wait_for(self.messages.get(), 20)
        headers = {name.decode(): value.decode() for name, value in message["headers"]}
        return message["status"], headers

    async def until(self, words: str) -> list[tuple[str | None, str, Any]]:
        """Return the events up to one that contains some words."""
        while words not in self.text or not self.text.endswith("\n\n"):
            message = await asyncio.wait_for(self.messages.get(), 20)
            self.text += message["body"].decode()
            assert message.get("more_body") or words in self.text, self.text
        events = parse(self.text)
        self.text = ""
        return events


def parse(text: str) -> list[tuple[str | None, str, Any]]:
    """Return id, kind and data of each event."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


def events_of(job_id: UUID) -> str:
    return f"/v1/transcriptions/{job_id}/events"


def test_stream_from_the_queue_to_the_end(app: AsgiApp, sessions: Sessions) -> None:
    job_id = add_job(sessions)

    async def follow() -> None:
        client = Connection(app, events_of(job_id))
        status, headers = await client.start()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        assert "content-length" not in headers
        first, progress = await client.until("event: progress")
        assert first[:2] == (None, "status")
        assert (first[2]["status"], first[2]["queue"]["position"]) == ("queued", 1)
        assert progress[2]["fraction"] is None
        claim = must_claim(sessions, job_id)
        publish(sessions, claim, 60, 61)
        got = await client.until("event: notes")
        assert [(kind, data.get("status")) for _, kind, data in got if kind == "status"] == [
            ("status", "processing")
        ]
        assert got[-1] == ("1", "notes", {"notes": [{"id": 1000, **note(60)}, {"id": 1001, **note(61)}]})
        succeed(sessions, claim, 61, 62)
        rest = [event for event in await client.until("event: end") if event[1] not in ("status", "progress")]
        assert rest == [
            ("2", "notes_withdrawn", {"ids": [1000]}),
            ("3", "notes", {"notes": [{"id": 3000, **note(62)}]}),
            ("3.end", "end", {"status": "succeeded", "note_count": 2, "error": None}),
        ]
        await asyncio.wait_for(client.task, 20)
        again = Connection(app, events_of(job_id), {"last-event-id": "3.end"})
        assert (await again.start())[0] == 204

    asyncio.run(follow())


def test_duration_of_a_stream_is_no_latency(app: AsgiApp, sessions: Sessions) -> None:
    job_id = add_job(sessions)
    fail(sessions, must_claim(sessions, job_id), retry_after=None)
    labels = {"method": "GET", "route": "/v1/transcriptions/<uuid:job_id>/events"}

    async def follow() -> None:
        client = Connection(app, events_of(job_id))
        await client.start()
        await client.until("event: end")
        await client.task

    counted, measured = (
        partial(REGISTRY.get_sample_value, f"mt3_http_request{s}") for s in ("s_total", "_seconds_count")
    )
    before = counted({**labels, "status": "200"}) or 0, measured(labels)
    asyncio.run(follow())
    assert (counted({**labels, "status": "200"}), measured(labels)) == (before[0] + 1, before[1])


@pytest.mark.parametrize("by", ["header", "query"])
def test_stream_goes_on_after_the_last_event(app: AsgiApp, sessions: Sessions, by: str) -> None:
    job_id = add_job(sessions)
    claim = must_claim(sessions, job_id)
    for pitch in (60, 61, 62):
        publish(sessions, claim, pitch)
    fail(sessions, claim, retry_after=None)

    async def follow() -> None:
        if by == "header":
            client = Connection(app, events_of(job_id), {"last-event-id": "2"}, "after=0")
        else:
            client = Connection(app, events_of(job_id), query="after=2")
        await client.start()
        got = await client.until("event: end")
        assert [event_id for event_id, *_ in got if event_id] == ["3", "3.end"]
        assert got[-1][2] == {
            "status": "failed",
            "note_count": None,
            "error": {"code": "broken", "detail": "It broke."},
        }

    asyncio.run(follow())


def test_more_notes_than_fit_at_once_all_arrive(app: AsgiApp, sessions: Sessions) -> None:
    job_id = add_job(sessions)
    claim = must_claim(sessions, job_id)
    for pitch in range(21):
        publish(sessions, claim, pitch)
    succeed(sessions, claim, *range(21))

    async def follow() -> None:
        clients = [Connection(app, events_of(job_id)), Connection(app, events_of(job_id), query="after=10")]
        for client, first in zip(clients, (1, 11), strict=True):
            await client.start()
            ids = [event_id for event_id, *_ in await client.until("event: end") if event_id]
            assert ids == [*map(str, range(first, 22)), "21.end"]

    asyncio.run(follow())


def test_stream_of_a_deleted_job_ends(app: AsgiApp, sessions: Sessions) -> None:
    job_id = add_job(sessions)

    async def follow() -> None:
        client = Connection(app, events_of(job_id))
        await client.start()
        await client.until("event: progress")
        with sessions.begin() as session:
            jobs.delete_job(session, "public", job_id)
        assert (await client.until("event: end"))[-1] == (None, "end", {"status": "deleted"})

    asyncio.run(follow())


@pytest.mark.parametrize("by", ["key", "link"])
def test_stream_ends_soon_after_its_key_or_link_is_revoked(
    settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(streams, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("web.credentials.CACHE_SECONDS", -1.0)
    with key_service(settings, sessions) as service:
        app, lasting, key = AsgiApp(service.app, patience=5), service.key(), service.key()
        own, other = service.job(key), UUID(service.job(lasting))
        made = service.call(key, "POST", f"/v1/transcriptions/{own}/shares", json={}).json
        path, sent = events_of(UUID(own)), {"authorization": f"Bearer {key}"}
        if by == "link":
            path, sent = f"/v1/shared/{made['token']}/events", {}

        async def follow() -> None:
            client = Connection(app, path, sent)
            another = Connection(app, events_of(other), {"authorization": f"Bearer {lasting}"})
            for connection in (client, another):
                assert (await connection.start())[0] == 200
                await connection.until("event: progress")
            if by == "link":
                service.call(key, "DELETE", f"/v1/transcriptions/{own}/shares/{made['id']}")
            else:
                with sessions.begin() as session:
                    keys.revoke_key(session, service.ids[key])
            await asyncio.wait_for(client.task, 20)
            assert (await Connection(app, path, sent).start())[0] == (404 if by == "link" else 401)
            assert not another.task.done()
            another.left.set()

        asyncio.run(follow())
        app.close()


def test_news_of_many_jobs_cost_as_many_queries_as_of_one(sessions: Sessions, services: Services) -> None:
    ids = [add_job(sessions) for _ in range(6)]
    for number, job_id in enumerate(ids):
        claim = must_claim(sessions, job_id)
        for pitch in range(60, 61 + number):
            publish(sessions, claim, pitch)
    asked: list[str] = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    read_news(services, {ids[5]: 0})
    one = len(asked)
    after = {job_id: min(number, 1) for number, job_id in enumerate(ids)}
    news = read_news(services, after)
    assert len(asked) == 2 * one
    found = [[number for number, *_ in news[job_id].events] for job_id in ids]
    assert found == [[1], [2], [2, 3], [2, 3, 4], [2, 3, 4, 5], [2, 3, 4, 5]]


def test_other_requests_need_not_wait_for_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS_AT_ONCE", 4)
    served: list[int] = []
    between: list[int] = []

    async def read(after: Mapping[UUID, int]) -> Mapping[UUID, News]:
        asyncio.get_running_loop().call_soon(look)
        return {job_id: News({}, {}, [], 0, {}) for job_id in after}

    def look() -> None:
        between.append(len(served))
        if len(served) < 40:
            asyncio.get_running_loop().call_soon(look)

    async def follow() -> None:
        hub = Streams(read, limit=40, patience=5)

        async def send(message: dict[str, Any]) -> None:
            if b"event: end" in message.get("body", b""):
                served.append(1)

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        clients = [hub.serve(Watch(UUID(int=number), 0), [], receive, send) for number in range(40)]
        await asyncio.wait_for(asyncio.gather(*clients), 20)

    asyncio.run(follow())
    assert max(after - before for before, after in pairwise(between)) <= 8


def test_one_stream_too_many_is_told_what_to_poll(app: AsgiApp, sessions: Sessions) -> None:
    job_id = add_job(sessions)

    async def follow() -> None:
        clients = [Connection(app, events_of(job_id)) for _ in range(3)]
        for client in clients:
            assert (await client.start())[0] == 200
        refused = Connection(app, events_of(job_id))
        status, headers = await refused.start()
        assert (status, headers["content-type"]) == (503, "application/problem+json")
        body = json.loads((await refused.messages.get())["body"])
        assert (body["code"], body["polling"]) == ("too_many_streams", f"/v1/transcriptions/{job_id}/notes")
        clients[0].left.set()
        await asyncio.wait_for(clients[0].task, 20)
        assert (await Connection(app, events_of(job_id)).start())[0] == 200, "one has left"
        for client in clients[1:]:
            client.left.set()

    asyncio.run(follow())


def test_silent_streams_send_comments_and_end_when_the_process_does(
    app: AsgiApp, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streams.HEARTBEAT_SECONDS == 15
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.2)
    job_id = add_job(sessions)

    async def follow() -> None:
        client = Connection(app, events_of(job_id))
        await client.start()
        await client.until("event: progress")
        await client.until(":\n\n")
        await client.until(":\n\n")
        app._streams.close()
        await asyncio.wait_for(client.task, 20)
        assert client.messages.get_nowait()["body"] in (b"", b":\n\n")

    asyncio.run(follow())


def test_streams_wait_while_the_database_is_away(sessions: Sessions, services: Services) -> None:
    job_id = add_job(sessions)
    failures = 3

    async def read(after: Mapping[UUID, int]) -> Mapping[UUID, News]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("the database is unavailable")
        return read_news(services, after)

    async def follow() -> None:
        hub = Streams(read, limit=1, patience=5)

        async def app(_scope: Any, receive: Any, send: Any) -> None:
            await hub.serve(Watch(job_id, 0), [], receive, send)

        client = Connection(app, "/")
        await client.start()
        assert (await client.until("event: progress"))[0][1] == "status"
        client.left.set()

    asyncio.run(follow())


def test_a_client_that_does_not_read_is_given_no_more(sessions: Sessions) -> None:
    stream = Stream(Watch(UUID(int=1), 0), 0)
    status = {"status": "processing"}
    for number in range(1, 10):
        stream.take(News(status, {}, [(number, "notes", "{}")], number, None))
    assert stream.cursor == 1
    stream.pending.clear()
    stream.take(News(status, {}, [(n, "notes", "{}") for n in range(1, 5)], 9, None))
    assert (stream.cursor, len(stream.pending)) == (4, 3)


def test_an_estimate_that_changes_with_the_clock_is_no_news() -> None:
    stream = Stream(Watch(UUID(int=1), 0), 0)
    stream.take(News({}, {"fraction": 0.5, "eta_seconds": 9.0}, [], 0, None))
    stream.pending.clear()
    stream.take(News({}, {"fraction": 0.5, "eta_seconds": 8.5}, [], 0, None))
    assert not stream.pending
    stream.take(News({}, {"fraction": 0.6, "eta_seconds": 8.0}, [], 0, None))
    assert len(stream.pending) == 1


def test_news_of_jobs_that_cannot_be_read_do_not_stop_the_others(sessions: Sessions, services: Services) -> None:
    good, bad = add_job(sessions), add_job(sessions)
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == bad).values(status="succeeded"))
        session.connection().exec_driver_sql(f"UPDATE jobs SET status = 'new' WHERE id = '{bad.hex}'")
    assert list(read_news(services, {good: 0, bad: 0})) == [good]
