"""Webhooks over HTTP: the fields of a request, the log of deliveries, and the secrets of owners."""

from __future__ import annotations

import base64
import io
import json
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import ValidationError
from sqlalchemy import select
from werkzeug.test import TestResponse

from shared import keys
from shared.config import Settings
from shared.db import Sessions
from shared.kinds import WEBHOOK
from shared.queue import InMemoryQueue
from shared.tables import Job, Scope, Status, WorkItem
from tests.work import complete, fail, get, must_claim
from web import create_app

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
URL = "https://hooks.example.com/mt3?x=1"


def make(settings: Settings, sessions: Sessions, **changes: Any) -> FlaskClient:
    settings = Settings(**(settings.model_dump() | changes))
    return create_app(settings, sessions=sessions, queue=InMemoryQueue()).test_client()


@pytest.fixture
def client(settings: Settings, sessions: Sessions) -> FlaskClient:
    return make(settings, sessions, webhook_secret=SECRET)


def post(
    client: FlaskClient, *, key: str | None = None, idempotent: str | None = None, **form: Any
) -> TestResponse:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Idempotency-Key": idempotent} if idempotent else {}
    data = {"file": (io.BytesIO(b"RIFF"), "song.wav"), **form}
    return client.post("/v1/transcriptions", data=data, headers=headers)


def code(response: TestResponse) -> tuple[int, str]:
    return response.status_code, json.loads(response.text)["code"]


def test_job_keeps_url_and_events(client: FlaskClient, sessions: Sessions) -> None:
    assert post(client, webhook_url=URL).status_code == 202
    answer = post(client, webhook_url=URL, webhook_events="transcription.failed, transcription.canceled")
    assert answer.status_code == 202
    raw = client.post(
        "/v1/transcriptions",
        query_string={"webhook_url": URL, "webhook_events": "transcription.failed"},
        data=b"RIFF",
        content_type="audio/wav",
    )
    assert raw.status_code == 202
    again = {"transcription_id": raw.json["id"], "webhook_url": URL, "webhook_events": ["transcription.canceled"]}
    assert client.post("/v1/transcriptions", json=again).status_code == 202
    wrong = client.post("/v1/transcriptions", json={**again, "webhook_url": "http://10.0.0.1/"})
    assert code(wrong) == (422, "address_refused")
    with sessions() as session:
        found = session.scalars(select(Job).order_by(Job.id)).all()
    assert [job.webhook_url for job in found] == [URL] * 4
    assert [[name.removeprefix("transcription.") for name in job.webhook_events] for job in found] == [
        ["succeeded", "failed", "canceled"],
        ["failed", "canceled"],
        ["failed"],
        ["canceled"],
    ]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"webhook_url": "http://127.0.0.1/x"}, "address_refused"),
        ({"webhook_url": "http://2130706433/x"}, "address_refused"),
        ({"webhook_url": "http://[::ffff:10.0.0.1]/"}, "address_refused"),
        ({"webhook_url": "ftp://hooks.example.com/"}, "address_refused"),
        ({"webhook_url": "https://user:pw@hooks.example.com/"}, "address_refused"),
        ({"webhook_url": "https://hooks.example.com:22/"}, "address_refused"),
        ({"webhook_url": "x" * 2001}, "invalid_request"),
        ({"webhook_url": URL, "webhook_events": "transcription.began"}, "invalid_request"),
        ({"webhook_events": "transcription.failed"}, "invalid_request"),
    ],
)
def test_wrong_fields_are_refused_before_anything_is_stored(
    client: FlaskClient, sessions: Sessions, form: dict[str, str], expected: str
) -> None:
    assert code(post(client, **form)) == (422, expected)
    with sessions() as session:
        assert session.scalars(select(Job)).all() == []


def test_service_without_a_secret_takes_no_webhooks(settings: Settings, sessions: Sessions) -> None:
    answer = post(make(settings, sessions), webhook_url=URL)
    assert code(answer) == (422, "invalid_request")
    assert "MT3_WEBHOOK_SECRET" in answer.text


@pytest.mark.parametrize("secret", ["whsec_c2hvcnQ=", "not base64 at all, but long enough", "whsec_" + "A" * 100])
def test_secrets_that_are_no_secrets_stop_the_start(secret: str) -> None:
    with pytest.raises(ValidationError, match="base64"):
        Settings(webhook_secret=secret)  # type: ignore[arg-type]


def test_repeated_request_with_another_webhook_is_another_request(client: FlaskClient) -> None:
    first = post(client, idempotent="k", webhook_url=URL)
    assert post(client, idempotent="k", webhook_url=URL).json["id"] == first.json["id"]
    assert code(post(client, idempotent="k", webhook_url=URL + "2")) == (422, "idempotency_conflict")
    assert code(post(client, idempotent="k")) == (422, "idempotency_conflict")


def test_deliveries_are_listed_and_sent_again(client: FlaskClient, sessions: Sessions) -> None:
    job_id = post(client, webhook_url=URL).json["id"]
    address = f"/v1/transcriptions/{job_id}/deliveries"
    assert client.get(address).json == {"items": []}
    complete(sessions, must_claim(sessions, UUID(job_id)))
    (waiting,) = client.get(address).json["items"]
    assert (waiting["event"], waiting["url"], waiting["status"]) == ("transcription.succeeded", URL, "waiting")
    assert waiting["next_attempt_at"]
    claim = must_claim(sessions, UUID(job_id), WEBHOOK)
    assert client.get(address).json["items"][0]["status"] == "sending"
    fail(sessions, claim, retry_after=None)
    (failed,) = client.get(address).json["items"]
    assert (failed["status"], failed["next_attempt_at"]) == ("failed", None)
    assert failed["attempts"][0]["error"] == {"code": "broken", "detail": "It broke."}
    again = client.post(f"{address}/{failed['id']}/redeliver")
    assert (again.status_code, again.json["status"], len(again.json["attempts"])) == (202, "waiting", 1)
    assert code(client.post(f"{address}/{UUID(int=1)}/redeliver")) == (404, "not_found")
    assert code(client.get(f"/v1/transcriptions/{UUID(int=1)}/deliveries")) == (404, "not_found")
    assert get(sessions, UUID(job_id)).status is Status.SUCCEEDED


def test_without_keys_the_secret_is_the_operators(client: FlaskClient) -> None:
    assert code(client.get("/v1/webhook-secret")) == (404, "not_found")
    assert code(client.post("/v1/webhook-secret/rotate")) == (404, "not_found")


def test_every_owner_has_a_secret_of_its_own(settings: Settings, sessions: Sessions) -> None:
    client = make(settings, sessions, auth="keys")
    ada, bob, reader = (make_key(sessions, scope) for scope in (Scope.WRITE, Scope.WRITE, Scope.READ))

    def secret(key: str, *, rotate: bool = False) -> TestResponse:
        headers = {"Authorization": f"Bearer {key}"}
        if rotate:
            return client.post("/v1/webhook-secret/rotate", headers=headers)
        return client.get("/v1/webhook-secret", headers=headers)

    first = secret(ada).json["secret"]
    assert first == secret(ada).json["secret"]
    assert first != secret(bob).json["secret"]
    assert secret(reader).status_code == 403
    second = secret(ada, rotate=True).json["secret"]
    assert second == secret(ada).json["secret"] != first
    job_id = post(client, key=ada, webhook_url=URL).json["id"]
    answer = client.get(f"/v1/transcriptions/{job_id}/deliveries", headers={"Authorization": f"Bearer {bob}"})
    assert code(answer) == (404, "not_found")


def make_key(sessions: Sessions, scope: Scope) -> str:
    with sessions.begin() as session:
        _, key = keys.create_key(session, name="k", scope=scope)
    return key


def test_webhooks_are_deleted_with_their_job(client: FlaskClient, sessions: Sessions) -> None:
    job_id = post(client, webhook_url=URL).json["id"]
    complete(sessions, must_claim(sessions, UUID(job_id)))
    assert client.delete(f"/v1/transcriptions/{job_id}").status_code == 204
    with sessions() as session:
        assert session.scalars(select(WorkItem)).all() == []
