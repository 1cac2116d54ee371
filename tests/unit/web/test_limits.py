"""Rates of requests and quotas: what is refused, with which status and headers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import update

from shared.config import Settings
from shared.db import Sessions
from shared.errors import StorageFull
from shared.jobs import delete_job
from shared.quotas import Quotas, count_stored_bytes
from shared.stored import StoredTotal
from shared.tables import Job
from tests import servers
from tests.access import KeyService, assert_problem, key_service
from tests.work import add_job
from web.bridge import AsgiApp
from web.limits import REDIS_SECONDS


@pytest.fixture
def limited(settings: Settings, sessions: Sessions, redis_url: str) -> Iterator[KeyService]:
    changed = {"redis_url": redis_url, "rate_limit_read": "3/hour", "rate_limit_write": "1 / minute;100/day"}
    with key_service(settings, sessions, **changed) as running:
        yield running


def test_requests_over_the_rate_are_refused_per_key(limited: KeyService) -> None:
    key, other = limited.key(), limited.key()
    for left in (2, 1, 0):
        answer = limited.call(key, "GET", "/v1/transcriptions")
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"read-hour";q=3;w=3600'
        state, seconds = answer.headers["RateLimit"].split(";t=")
        assert state == f'"read-hour";r={left}'
        assert 0 < int(seconds) <= 3600
    refused = limited.call(key, "GET", "/v1/models")
    assert_problem(refused, 429, "rate_limited", "Too many requests: 3 per 1 hour are allowed. Try again in ")
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    assert refused.headers["RateLimit"].startswith('"read-hour";r=0;t=')
    assert limited.call(other, "GET", "/v1/models").status_code == 200
    accepted = limited.submit(key)  # writes are counted apart
    assert accepted.status_code == 202
    assert accepted.headers["RateLimit-Policy"] == '"write-minute";q=1;w=60, "write-day";q=100;w=86400'
    assert [each.split(";t=")[0] for each in accepted.headers["RateLimit"].split(", ")] == [
        '"write-minute";r=0',
        '"write-day";r=99',
    ]
    refused = limited.submit(key)
    assert_problem(refused, 429, "rate_limited", "1 per 1 minute")
    assert refused.headers["RateLimit-Policy"] == '"write-minute";q=1;w=60'
    assert int(refused.headers["Retry-After"]) <= 60


def test_cookie_counts_for_its_key_and_a_share_link_for_itself(limited: KeyService) -> None:
    key = limited.key()
    browser = limited.browser()
    browser.post("/v1/session", json={"key": key}, headers={"Sec-Fetch-Site": "same-origin"})
    for _ in range(3):
        assert browser.get("/v1/models").status_code == 200
    assert limited.call(key, "GET", "/v1/models").status_code == 429
    maker = limited.key()
    job_id = limited.finished_job(maker)
    again = limited.key(owner=limited.owners[maker])
    path = limited.call(again, "POST", f"/v1/transcriptions/{job_id}/shares", json={}).json["api_url"]
    assert [limited.call(None, "GET", path).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_what_is_open_is_not_counted(limited: KeyService) -> None:
    for _ in range(10):
        for path in ("/", "/livez", "/openapi.json", "/static/page.css"):
            answer = limited.call(None, "GET", path)
            assert answer.status_code == 200
            assert "RateLimit" not in answer.headers
        assert limited.call("mt3_wrong", "GET", "/v1/models").status_code == 401


def test_request_that_waits_counts_once(limited: KeyService) -> None:
    import asyncio

    key = limited.key()
    job_id = limited.job(key)
    app = AsgiApp(limited.app, patience=5)
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode()), (b"prefer", b"wait=2")]
        path = f"/v1/transcriptions/{job_id}"
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
        await app(scope | {"http_version": "1.1", "scheme": "http"}, receive, send)

    asyncio.run(ask())
    app.close()
    assert sent[0]["status"] == 200  # asked more often than the rate allows
    assert limited.call(key, "GET", "/v1/models").headers["RateLimit"].startswith('"read-hour";r=1;')


@contextmanager
def hanging_redis() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@contextmanager
def no_redis() -> Iterator[str]:
    yield f"redis://127.0.0.1:{servers.free_port()}/0"


@pytest.mark.parametrize("redis", [hanging_redis, no_redis])
def test_redis_that_is_away_limits_and_delays_nothing(
    settings: Settings, sessions: Sessions, caplog: pytest.LogCaptureFixture, redis: Any
) -> None:
    with redis() as url, key_service(settings, sessions, redis_url=url, rate_limit_read="1/hour") as service:
        key = service.key()
        began = time.monotonic()
        for _ in range(20):
            answer = service.call(key, "GET", "/v1/models")
            assert answer.status_code == 200
            assert "RateLimit" not in answer.headers
        assert time.monotonic() - began < 20 * REDIS_SECONDS
        assert [each.message for each in caplog.records if each.name == "flask-limiter"] == [
            "Rate limit storage unreachable - falling back to in-memory storage"
        ]


def test_redis_that_comes_back_limits_again(settings: Settings, sessions: Sessions, redis_url: str) -> None:
    changed = {"redis_url": redis_url, "rate_limit_read": "1/hour"}
    with key_service(settings, sessions, **changed) as service:
        key = service.key()
        (limiter,) = service.app.extensions["limiter"]
        limiter._storage_dead = True
        assert service.call(key, "GET", "/v1/models").status_code == 200
        servers.wait_until(lambda: service.call(key, "GET", "/v1/models").status_code == 429, what="the limit")


@pytest.mark.parametrize("rate", ["10", "ten/minute", "0/second", "10/fortnight", "10/minute,5/second", "-1/day"])
def test_wrong_rates_stop_the_start(rate: str) -> None:
    with pytest.raises(ValidationError, match="is not a rate: write 10/second"):
        Settings(rate_limit_read=rate)


def test_uploads_at_once_do_not_exceed_the_number_of_jobs(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_jobs=3) as service:
        key, other = service.key(), service.key()
        barrier = threading.Barrier(8)

        def submit(number: int) -> int:
            barrier.wait()
            return service.submit(key, f"RIFF {number}".encode()).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = sorted(pool.map(submit, range(8)))
        assert statuses == [202] * 3 + [429] * 5
        refused = service.submit(key)
        assert_problem(refused, 429, "quota_exceeded", "has 3 transcriptions waiting or running, and may have 3.")
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["RateLimit-Policy"] == '"jobs";q=3'
        assert refused.headers["RateLimit"] == '"jobs";r=0'
        assert service.submit(other).status_code == 202
        jobs = service.call(key, "GET", "/v1/transcriptions").json["items"]
        assert len(jobs) == 3
        service.finish(jobs[-1]["id"])
        assert service.submit(key).status_code == 202


def test_quotas_of_a_key_replace_those_of_the_settings(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_jobs=1, quota_stored_bytes=1000) as service:
        more = service.key(quotas=Quotas(jobs=2))
        owner = service.owners[more]
        less = service.key(owner=owner, quotas=Quotas(jobs=0, audio_seconds=1.0, stored_bytes=2))
        assert [service.submit(more).status_code for _ in range(3)] == [202, 202, 429]
        assert_problem(service.submit(more, bytes(1001)), 429, "quota_exceeded", "may have 2.")
        assert_problem(service.submit(less), 403, "quota_exceeded", "may have 0.")
        upload = service.call(less, "POST", "/v1/uploads", json={"name": "a.wav", "size": 3})
        assert_problem(upload, 403, "quota_exceeded", "may have 0.0 MB.")
        assert service.call(more, "POST", "/v1/uploads", json={"name": "a.wav", "size": 3}).status_code == 201
        assert [service.submit(key).status_code for key in [service.key()] * 2] == [202, 429]


def test_key_may_have_a_quota_where_the_service_has_none(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions) as service:
        key = service.key(quotas=Quotas(audio_seconds=10.0))
        assert service.submit(key, bytes(8 * 176_400)).status_code == 202
        assert_problem(service.submit(key, bytes(8 * 176_400)), 429, "quota_exceeded", "may have 10 s")


def test_repeated_upload_is_no_further_job(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_jobs=1) as service:
        key, header = service.key(), {"Idempotency-Key": "one"}
        first = service.submit(key, headers=header).json["id"]
        again = service.submit(key, headers=header)
        assert (again.status_code, again.json["id"]) == (202, first)
        assert service.submit(key).status_code == 429


def test_retry_counts_as_well(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_jobs=1) as service:
        key = service.key()
        canceled = service.job(key)
        service.call(key, "POST", f"/v1/transcriptions/{canceled}/cancel")
        running = service.job(key)
        assert_problem(
            service.call(key, "POST", f"/v1/transcriptions/{canceled}/retry"), 429, "quota_exceeded", "may have 1."
        )
        assert service.call(key, "GET", f"/v1/transcriptions/{canceled}").json["status"] == "canceled"
        service.finish(running)
        assert service.call(key, "POST", f"/v1/transcriptions/{canceled}/retry").status_code == 202


def test_seconds_of_audio_that_wait_are_bounded(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_audio_seconds=10) as service:
        key = service.key()
        six_seconds = bytes(6 * 176_400)  # of WAV, typically
        first = service.submit(key, six_seconds).json["id"]
        refused = service.submit(key, six_seconds)
        assert_problem(refused, 429, "quota_exceeded", "about 6 s of audio waiting, and may have 10 s")
        assert refused.headers["RateLimit-Policy"] == '"audio";q=10'
        with any_sessions.begin() as session:  # a worker has opened it
            session.execute(update(Job).where(Job.id == UUID(first)).values(audio_seconds_total=3.0))
        assert service.submit(key, six_seconds).status_code == 202


def test_recording_that_never_fits_is_a_403(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_audio_seconds=10) as service:
        key = service.key()
        answer = service.submit(key, bytes(11 * 600_000))  # even at the highest rate
        assert_problem(answer, 403, "quota_exceeded", "longer than the 10 s")
        assert "Retry-After" not in answer.headers
        # It may be short: it is admitted as long as nothing else waits.
        assert service.submit(key, bytes(9 * 600_000)).status_code == 202


def test_stored_bytes_are_bounded(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_stored_bytes=1000) as service:
        key = service.key()
        job_id = service.job(key)  # 4 bytes
        service.finish(job_id)  # and 6 of results
        with any_sessions() as session:
            assert count_stored_bytes(session, service.owners[key]) == 10
        assert service.submit(key, bytes(990)).status_code == 202
        refused = service.submit(key, b"R")
        assert_problem(refused, 403, "quota_exceeded", "Delete transcriptions that are no longer needed.")
        assert "Retry-After" not in refused.headers
        assert refused.headers["RateLimit-Policy"] == '"stored";q=1000'
        assert service.submit(service.key(), bytes(999)).status_code == 202
        assert service.call(key, "DELETE", f"/v1/transcriptions/{job_id}").status_code == 204
        assert service.submit(key, b"R").status_code == 202


def test_no_exports_while_too_much_is_stored(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_stored_bytes=5) as service:
        key = service.key()
        job_id = service.finished_job(key)
        answer = service.call(key, "POST", f"/v1/transcriptions/{job_id}/exports", json={"format": "midi"})
        assert_problem(answer, 403, "quota_exceeded")


def test_bytes_of_all_owners_together_are_bounded(
    settings: Settings, any_sessions: Sessions, tmp_path: Any
) -> None:
    with key_service(settings, any_sessions, max_stored_bytes=1000) as service:
        key, other = service.key(), service.key()
        accepted = service.submit(key, bytes(900), headers={"Idempotency-Key": "once"})
        assert accepted.status_code == 202
        files = sorted((tmp_path / "storage").rglob("*"))
        for answer in (
            service.submit(other, bytes(101)),
            service.call(other, "POST", "/v1/uploads", json={"name": "a.wav", "size": 101}),
        ):
            assert_problem(answer, 507, "storage_full", "Delete transcriptions that are no longer needed, or ask")
        assert sorted((tmp_path / "storage").rglob("*")) == files, "nothing was stored for them"
        assert service.call(other, "POST", "/v1/uploads", json={"name": "a.wav", "size": 99}).status_code == 201
        assert service.submit(other, bytes(2)).status_code == 507
        again = service.submit(key, bytes(900), headers={"Idempotency-Key": "once"})
        assert (again.status_code, again.json["id"]) == (202, accepted.json["id"]), "it is stored already"


def test_recording_from_a_url_is_refused_only_if_nothing_is_left(settings: Settings, sessions: Sessions) -> None:
    source = {"source_url": "https://example.org/a.wav"}
    with key_service(settings, sessions, max_stored_bytes=5) as service:
        key = service.key()
        assert service.call(key, "POST", "/v1/transcriptions", json=source).status_code == 202
        assert service.submit(key, b"12345").status_code == 202
        assert_problem(service.call(key, "POST", "/v1/transcriptions", json=source), 507, "storage_full")


def test_total_is_measured_anew_after_a_while(sessions: Sessions) -> None:
    stored = StoredTotal(sessions, limit=100, seconds=0.0)
    job_id = add_job(sessions, upload_bytes=100)
    with pytest.raises(StorageFull):
        stored.admit(1)
    with sessions.begin() as session:
        delete_job(session, "public", job_id)
    stored.admit(100)
    StoredTotal(sessions, limit=None).admit(10**18)


def test_damaged_list_of_results_does_not_break_uploads(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, quota_stored_bytes=1000) as service:
        key = service.key()
        for artifacts in (3, {"a": 1}, [{"name": "x"}]):
            job_id = service.job(key)
            with any_sessions.begin() as session:
                session.execute(update(Job).where(Job.id == UUID(job_id)).values(artifacts=artifacts))
        assert service.submit(key).status_code == 202


def test_refused_upload_leaves_no_file(settings: Settings, sessions: Sessions, tmp_path: Any) -> None:
    with key_service(settings, sessions, quota_jobs=0) as service:
        answer = service.submit(service.key())
        assert_problem(answer, 403, "quota_exceeded")
        assert [path for path in (tmp_path / "storage").rglob("*") if path.is_file()] == []
