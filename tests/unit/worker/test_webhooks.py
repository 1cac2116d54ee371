"""Webhooks, sent to real receivers on loopback: signed, repeated, in order, and in nobody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook, WebhookVerificationError

from shared import deliveries, jobs, work
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.fairness import claim_next
from shared.kinds import ASSEMBLE, SHARD, WEBHOOK
from shared.queue import InMemoryQueue
from shared.storage import make_storage
from shared.tables import Status, WebhookSecret, WorkItem
from shared.webhook_events import EVENTS
from tests.fakes import FakeEngine
from tests.servers import wait_until
from tests.web_server import Reply, Request, Site, in_turn, status, web_server
from tests.work import add_job, complete, fail, get, items, must_claim, split
from worker.context import Services
from worker.deliveries import Deliveries
from worker.handlers import webhook
from worker.runner import Outcome, Runner

SECRET = "whsec_" + "c2VjcmV0" * 5 + "c2VjcmV0"


@pytest.fixture
def site() -> Iterator[Site]:
    with web_server() as site:
        site.routes["/hook"] = status(204)
        yield site


@pytest.fixture
def services(settings: Settings, any_sessions: Sessions) -> Services:
    changes = {"webhook_secret": SECRET, "allowed_networks": frozenset({"127.0.0.0/8"})}
    settings = Settings(**(settings.model_dump() | changes))
    return Services(
        settings=settings,
        sessions=any_sessions,
        storage=make_storage(settings),
        engine=FakeEngine().as_engine(),
        queue=InMemoryQueue(),
        worker="host:1",
        stopping=threading.Event(),
    )


def subscribe(services: Services, site: Site, path: str = "/hook", **changes: Any) -> UUID:
    defaults: dict[str, Any] = {"webhook_url": site.url + path, "webhook_events": EVENTS}
    return add_job(services.sessions, **(defaults | changes))


def end(services: Services, job_id: UUID, outcome: str) -> None:
    if outcome == "canceled":
        with services.sessions.begin() as session:
            jobs.cancel_job(session, "public", job_id)
    elif outcome == "succeeded":
        assert complete(services.sessions, must_claim(services.sessions, job_id))
    else:
        assert fail(services.sessions, must_claim(services.sessions, job_id), retry_after=None)


def retry(services: Services, job_id: UUID) -> None:
    with services.sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)


def deliver(services: Services) -> list[str]:
    """Send what is due; return the outcomes."""
    outcomes: list[str] = []
    while True:
        claim = deliveries.claim_next(
            services.sessions, worker="w", lease_seconds=60, max_attempts=3, except_for=()
        )
        if claim is None:
            return outcomes
        outcomes.append(Runner(services).run(claim))


def make_due(services: Services) -> None:
    """Let the pauses pass."""
    with services.sessions.begin() as session:
        session.execute(update(WorkItem).where(WorkItem.kind == WEBHOOK).values(run_after=now_plus(-1)))


def now(services: Services) -> datetime:
    with services.sessions() as session:
        return session.scalars(select(now_plus())).one()


def opened(request: Request, secret: str = SECRET) -> dict[str, Any]:
    """Return the content of a webhook whose signature is right."""
    return cast("dict[str, Any]", Webhook(secret).verify(request.body, request.headers))


def types(site: Site) -> list[str]:
    return [opened(request)["type"].removeprefix("transcription.") for request in site.requests]


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "canceled"])
def test_receiver_gets_a_signed_event_when_the_job_ends(services: Services, site: Site, outcome: str) -> None:
    job_id = subscribe(services, site, client_metadata={"album": "Démo"})
    assert deliver(services) == []
    end(services, job_id, outcome)
    assert deliver(services) == [Outcome.SUCCEEDED]
    (request,) = site.requests
    assert (request.method, request.path, request.headers["content-type"]) == ("POST", "/hook", "application/json")
    (item,) = items(services.sessions, job_id, WEBHOOK)
    assert request.headers["webhook-id"] == f"msg_{item.id}"
    event = opened(request)
    assert event["type"] == f"transcription.{outcome}"
    assert event["data"] == {
        "id": str(job_id),
        "status": outcome,
        "model": "basic_pitch",
        "filename": "song.wav",
        "metadata": {"album": "Démo"},
        "note_count": 3 if outcome == "succeeded" else None,
        "error": {"code": "broken", "detail": "It broke."} if outcome == "failed" else None,
        "href": f"/v1/transcriptions/{job_id}",
    }
    with pytest.raises(WebhookVerificationError):
        opened(request, "whsec_" + "b3RoZXI=")
    assert get(services.sessions, job_id).status == outcome
    assert deliver(services) == []


def test_only_the_events_that_were_asked_for_are_sent(services: Services, site: Site) -> None:
    end(services, add_job(services.sessions), "succeeded")
    end(services, subscribe(services, site, webhook_events=("transcription.failed",)), "succeeded")
    end(services, subscribe(services, site, webhook_events=("transcription.failed",)), "failed")
    assert deliver(services) == [Outcome.SUCCEEDED]
    assert types(site) == ["failed"]


def test_event_is_sent_until_it_is_accepted_and_every_attempt_is_logged(services: Services, site: Site) -> None:
    site.routes["/hook"] = in_turn(status(500), status(302, Location="/other"), status(200))
    job_id = subscribe(services, site)
    end(services, job_id, "succeeded")
    for _ in range(3):
        assert len(deliver(services)) == 1
        make_due(services)
    assert len({request.headers["webhook-id"] for request in site.requests}) == 1
    assert site.asked("POST") == ["/hook"] * 3, "redirects are not followed"
    with services.sessions() as session:
        (delivery,) = deliveries.list_deliveries(session, "public", job_id)
    assert [(attempt.outcome, attempt.error_detail) for attempt in delivery.attempts] == [
        ("failed", "The receiver answered with status 500."),
        ("failed", "The receiver answered with status 302."),
        ("succeeded", None),
    ]
    assert get(services.sessions, job_id).status is Status.SUCCEEDED


def test_pauses_grow_over_three_days_and_then_end(services: Services, site: Site) -> None:
    site.routes["/hook"] = status(503)
    job_id = subscribe(services, site)
    end(services, job_id, "succeeded")
    pauses = []
    for _ in range(20):
        if not deliver(services):
            break
        (item,) = items(services.sessions, job_id, WEBHOOK)
        if item.status == "queued":
            pauses.append((item.run_after - now(services)).total_seconds())
        make_due(services)
    assert len(site.requests) == 10
    for pause, planned in zip(pauses, deliveries.PAUSES, strict=True):
        assert 0.89 * planned - 2 < pause < 1.11 * planned
    assert 2.9 * 86400 < sum(deliveries.PAUSES) < 3.3 * 86400
    assert (item.status, item.error_code) == ("failed", "webhook_not_delivered")
    assert get(services.sessions, job_id).status is Status.SUCCEEDED


def test_receiver_decides_when_to_be_asked_again(services: Services, site: Site) -> None:
    site.routes["/hook"] = status(429, Retry_After="900")
    job_id = subscribe(services, site)
    end(services, job_id, "succeeded")
    deliver(services)
    (item,) = items(services.sessions, job_id, WEBHOOK)
    assert 800 < (item.run_after - now(services)).total_seconds() < 1000
    site.routes["/hook"] = status(410)
    make_due(services)
    assert deliver(services) == [Outcome.FAILED]
    assert items(services.sessions, job_id, WEBHOOK)[0].status == "failed", "gone means never again"


def test_events_of_a_job_arrive_in_order_though_the_receiver_fails(services: Services, site: Site) -> None:
    refuse = threading.Event()
    refuse.set()
    site.routes["/hook"] = lambda _: Reply(500 if refuse.is_set() else 200)
    job_id = subscribe(services, site)
    end(services, job_id, "failed")
    deliver(services)
    retry(services, job_id)
    end(services, job_id, "canceled")
    retry(services, job_id)
    end(services, job_id, "succeeded")
    assert deliver(services) == [Outcome.DEFERRED] * 2, "they wait for the first one"
    assert types(site) == ["failed"]
    refuse.clear()
    for _ in range(3):
        make_due(services)
        deliver(services)
    assert types(site) == ["failed", "failed", "canceled", "succeeded"]
    with services.sessions() as session:
        found = deliveries.list_deliveries(session, "public", job_id)
    assert [len(delivery.attempts) for delivery in found] == [2, 1, 1], "waiting is no attempt"


def test_private_addresses_are_refused_for_good(services: Services, site: Site) -> None:
    closed = Services(
        **{**vars(services), "settings": services.settings.model_copy(update={"allowed_networks": ()})}
    )
    job_id = subscribe(closed, site)
    end(closed, job_id, "succeeded")
    assert deliver(closed) == [Outcome.FAILED]
    (item,) = items(services.sessions, job_id, WEBHOOK)
    assert item.status == "failed"
    assert "public address" in (item.error_detail or "")
    assert site.requests == []


def test_replaced_secret_signs_for_another_day(services: Services, site: Site) -> None:
    keys = Services(**{**vars(services), "settings": services.settings.model_copy(update={"auth": "keys"})})
    old = deliveries.make_secret(services.sessions, "ada")
    assert deliveries.make_secret(services.sessions, "ada") == old
    new = deliveries.rotate_secret(services.sessions, "ada")
    for is_recent in (True, False):
        end(keys, subscribe(keys, site, owner="ada"), "succeeded")
        assert deliver(keys) == [Outcome.SUCCEEDED]
        assert opened(site.requests[-1], new)
        if is_recent:
            assert opened(site.requests[-1], old)
        else:
            with pytest.raises(WebhookVerificationError):
                opened(site.requests[-1], old)
        with services.sessions.begin() as session:
            session.execute(update(WebhookSecret).values(rotated_at=now_plus(-90_000)))


def test_webhook_that_waits_does_not_touch_the_job_that_is_retried(services: Services, site: Site) -> None:
    sessions = services.sessions
    site.routes["/hook"] = status(500)
    job_id = subscribe(services, site)
    end(services, job_id, "failed")
    retry(services, job_id)
    assert deliver(services) == [Outcome.FAILED]
    assert get(sessions, job_id).status is Status.QUEUED, "sending does not start it"
    claim = must_claim(sessions, job_id)
    assert split(sessions, claim, count=2)
    make_due(services)
    assert deliver(services) == [Outcome.FAILED]
    assert get(sessions, job_id).status is Status.PROCESSING
    for number in range(2):
        assert complete(sessions, must_claim(sessions, job_id, SHARD, number))
    assert complete(sessions, must_claim(sessions, job_id, ASSEMBLE)), "it is not blocked by the webhook"
    assert get(sessions, job_id).status is Status.SUCCEEDED


@pytest.mark.parametrize("how", ["failed for good", "canceled"])
def test_webhook_and_job_end_apart(services: Services, site: Site, how: str) -> None:
    sessions = services.sessions
    site.routes["/hook"] = status(410 if how == "failed for good" else 500)
    job_id = subscribe(services, site)
    end(services, job_id, "failed")
    retry(services, job_id)
    claim = must_claim(sessions, job_id)
    assert deliver(services) == [Outcome.FAILED]
    assert get(sessions, job_id).status is Status.PROCESSING
    if how == "canceled":
        end(services, job_id, "canceled")
        assert [item.status for item in items(sessions, job_id, WEBHOOK)] == ["queued", "queued"], "not dropped"
    else:
        assert complete(sessions, claim)
        assert [item.status for item in items(sessions, job_id, WEBHOOK)] == ["failed", "queued"]


def test_threads_that_transcribe_send_no_webhooks(services: Services, site: Site) -> None:
    end(services, subscribe(services, site), "succeeded")
    assert claim_next(services.sessions, worker="w", lease_seconds=60, max_attempts=3) is None
    with services.sessions() as session:
        assert work.count_due(session) == 0, "no worker is woken for it"


def test_dead_receiver_delays_nobody(services: Services, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "SILENCE_SECONDS", 3.0)
    with web_server() as dead:
        dead.routes["/hook"] = lambda _: Reply(200, b"x" * 100, stall_after=0)
        for _ in range(20):
            end(services, subscribe(services, dead), "succeeded")
        threads = Deliveries(services)
        threads.start()
        try:
            wait_until(lambda: dead.requests, what="the dead receiver to be asked")
            began = time.monotonic()
            for _ in range(10):
                end(services, subscribe(services, site), "succeeded")
            wait_until(lambda: len(site.requests) == 10, seconds=30, what="the other receiver's events")
            taken = time.monotonic() - began
            assert len(dead.requests) <= 6, "all events of a receiver that is gone rest together"
            assert taken < 20
        finally:
            services.stopping.set()
            threads.join()


def test_repeated_delivery_has_the_same_id_and_three_days_again(services: Services, site: Site) -> None:
    job_id = subscribe(services, site)
    end(services, job_id, "succeeded")
    deliver(services)
    (item,) = items(services.sessions, job_id, WEBHOOK)
    with services.sessions.begin() as session:
        again = deliveries.redeliver(session, "public", job_id, item.id)
    assert (again.item.status, again.item.payload["since"] > item.payload["since"]) == ("queued", True)
    assert deliver(services) == [Outcome.SUCCEEDED]
    first, second = site.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
