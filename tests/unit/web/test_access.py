"""Keys: what needs one, which scope, and that a key sees the jobs of its owner only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import event, select, update

from shared import keys
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.fairness import claim_next
from shared.tables import ApiKey, Job, Scope
from tests.access import KeyService, assert_problem, key_service
from web.credentials import CACHE_SECONDS, Credentials

OPEN = {
    ("GET", "/"),
    ("GET", "/static/<path:filename>"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/assets/<path:name>"),
    ("GET", "/llms.txt"),
    ("GET", "/problems/"),
    ("GET", "/problems/<code>"),
    ("GET", "/s/<token>"),  # the page; what it shows needs the token
    ("POST", "/v1/session"),  # checks the key in its body
    ("DELETE", "/v1/session"),  # ends the log-in of its cookie
}
"""Everything that needs no key. A new route must not get here by accident."""

NEEDS_ADMIN = {("GET", "/metrics")}
BY_LINK = "/v1/shared/<token>"

BODIES: dict[str, dict[str, Any]] = {
    "exports.create": {"json": {"format": "midi"}},
    "corrections.put": {"json": {"format": "mt3-infer/notes", "version": 2, "notes": []}},
    "session.log_in": {"json": {"key": "mt3_wrong"}},
    "transcriptions.change": {"json": {"name": "b.wav"}},
}
"""Valid bodies of requests, so that a foreign job is all that is wrong with them."""


@pytest.fixture
def service(settings: Settings, sessions: Sessions) -> Iterator[KeyService]:
    with key_service(settings, sessions) as running:
        yield running


def routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Yield the method, rule and endpoint of every route."""
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            yield method, rule.rule, rule.endpoint


def address(app: Flask, endpoint: str, job_id: str) -> str:
    """Return the path of a route for a job; its other parameters have values of their kind."""
    values: dict[str, Any] = {"job_id": UUID(job_id)}
    rule = next(rule for rule in app.url_map.iter_rules() if rule.endpoint == endpoint)
    for name in rule.arguments - {"job_id"}:
        values[name] = uuid4() if name.endswith("_id") else {"number": 1}.get(name, "transcription.mid")
    with app.test_request_context():
        return str(app.url_for(endpoint, **values))


def test_every_route_but_the_open_ones_needs_a_key(service: KeyService) -> None:
    refused: set[tuple[str, str]] = set()
    answered: set[tuple[str, str]] = set()
    for method, rule, endpoint in routes(service.app):
        if rule.startswith(BY_LINK):
            continue
        path = address(service.app, endpoint, str(uuid4()))
        for key in (None, "mt3_" + "x" * 43, "nonsense"):
            answer = service.call(key, method, path, **BODIES.get(endpoint, {}))
            is_refused = answer.status_code == 401 and endpoint != "session.log_in"
            (refused if is_refused else answered).add((method, rule))
            if is_refused:
                assert_problem(answer, 401, "unauthorized", "Send a valid one as Authorization: Bearer mt3_")
                challenge = answer.headers["WWW-Authenticate"]
                assert challenge.startswith('Bearer realm="mt3-infer"')
                assert ("invalid_token" in challenge) == (key is not None)
    assert answered == OPEN
    assert not refused & answered
    assert len(refused) > 10


def test_foreign_job_is_like_one_that_does_not_exist_on_every_route(service: KeyService) -> None:
    mine, theirs = service.key(), service.key(scope=Scope.ADMIN)
    job_id, missing = service.finished_job(mine), str(uuid4())
    tried = set()
    for method, rule, endpoint in routes(service.app):
        if "job_id" not in rule:
            continue
        answers = [
            service.call(theirs, method, address(service.app, endpoint, which), **BODIES.get(endpoint, {}))
            for which in (job_id, missing)
        ]
        for answer, which in zip(answers, (job_id, missing), strict=True):
            assert_problem(answer, 404, "not_found", f"Transcription {which} ")
        assert answers[0].text.replace(job_id, missing) == answers[1].text or "export_id" in rule
        tried.add((method, rule))
    assert len(tried) >= 10
    job = service.call(mine, "GET", f"/v1/transcriptions/{job_id}").json
    assert (job["status"], job["filename"]) == ("succeeded", "song.wav")
    assert service.call(theirs, "GET", "/v1/transcriptions").json["items"] == []
    assert service.call(theirs, "GET", f"/v1/transcriptions?q=song&cursor={missing}").json["items"] == []


def test_foreign_upload_is_like_one_that_does_not_exist_on_every_route(service: KeyService) -> None:
    mine, theirs, missing = service.key(), service.key(), str(uuid4())
    body = {"name": "a.wav", "size": 4}
    upload = service.call(mine, "POST", "/v1/uploads", json=body).json
    tried = 0
    for method, rule, _ in routes(service.app):
        if "upload_id" not in rule:
            continue
        for which in (upload["id"], missing):
            path = rule.replace("<uuid:upload_id>", which).replace("<int:number>", "1")
            answer = service.call(theirs, method, path, data=b"RIFF" if method == "PUT" else None)
            assert answer.status_code == 404, (method, rule, answer.text)
        tried += 1
    assert tried >= 4
    assert service.call(mine, "GET", f"/v1/uploads/{upload['id']}").json["status"] == "uploading"


def test_recordings_of_others_are_no_source_of_a_job(service: KeyService) -> None:
    mine, theirs = service.key(), service.key()
    upload = service.call(mine, "POST", "/v1/uploads", json={"name": "a.wav", "size": 4}).json
    for name, own in (("upload_id", upload["id"]), ("transcription_id", service.finished_job(mine))):
        answers = [
            service.call(theirs, "POST", "/v1/transcriptions", json={name: which}) for which in (own, str(uuid4()))
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json["code"] == answers[1].json["code"]


def test_every_kind_of_id_is_tried_above(service: KeyService) -> None:
    others = [rule for rule in service.app.url_map.iter_rules() if "job_id" not in rule.arguments]
    others = [rule for rule in others if not rule.rule.startswith(BY_LINK)]
    assert {name for rule in others for name in rule.arguments if name.endswith("_id")} == {"upload_id"}


@pytest.mark.parametrize("scope", list(Scope))
def test_every_route_needs_its_scope(service: KeyService, scope: Scope) -> None:
    key = service.key(scope=scope)
    for method, rule, endpoint in routes(service.app):
        if (method, rule) in OPEN or rule.startswith(BY_LINK):
            continue
        answer = service.call(
            key, method, address(service.app, endpoint, str(uuid4())), **BODIES.get(endpoint, {})
        )
        assert answer.status_code != 401
        is_secret = rule == "/v1/webhook-secret"  # with it, anybody could sign as the service does
        needed = Scope.READ if method == "GET" and not is_secret else Scope.WRITE
        if (method, rule) in NEEDS_ADMIN:
            needed = Scope.ADMIN
        if not scope.includes(needed):
            assert_problem(answer, 403, "insufficient_scope", f"needs a key with the scope {needed}")
            assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]
        else:
            assert answer.status_code != 403, (method, rule)


def test_key_with_read_scope_creates_and_deletes_nothing(service: KeyService) -> None:
    writer = service.key()
    with service.sessions() as session:
        owner = session.scalar(select(ApiKey.owner).where(ApiKey.id == service.ids[writer]))
    reader = service.key(scope=Scope.READ, owner=owner)
    job_id = service.job(writer)
    assert_problem(service.submit(reader), 403, "insufficient_scope")
    for method, path in (("DELETE", ""), ("POST", "/cancel"), ("PATCH", "")):
        assert_problem(
            service.call(reader, method, f"/v1/transcriptions/{job_id}{path}"), 403, "insufficient_scope"
        )
    found = service.call(reader, "GET", "/v1/transcriptions").json["items"]
    assert [(job["id"], job["status"]) for job in found] == [(job_id, "queued")]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic bXQzOg==",
        "mt3_x",
        "Bearer mt3_ü",
        "Bearer a b",
        "Bearer mt3_\x80",
        "Token x",
    ],
)
def test_malformed_authorization_is_refused(service: KeyService, header: str) -> None:
    answer = service.call(None, "GET", "/v1/transcriptions", headers={"Authorization": header})
    assert_problem(answer, 401, "unauthorized")


def test_key_is_accepted_whatever_the_case_of_the_scheme(service: KeyService) -> None:
    header = {"Authorization": f"bearer  {service.key()} "}
    assert service.call(None, "GET", "/v1/models", headers=header).status_code == 200


def test_only_the_hash_of_a_key_is_stored(service: KeyService) -> None:
    secret = service.key("laptop")
    with service.sessions() as session:
        row = session.scalars(select(ApiKey)).one()
    stored = " ".join(str(getattr(row, column.name)) for column in ApiKey.__table__.columns)
    assert secret.startswith("mt3_")
    assert len(secret) >= 47  # 256 bits
    assert secret not in stored
    assert secret.removeprefix("mt3_") not in stored
    assert row.hash == keys.hash_secret(secret)
    assert service.key() != secret


def test_expired_and_revoked_keys_are_refused(service: KeyService) -> None:
    expired, revoked, valid = service.key(expires_in=-1), service.key(), service.key(expires_in=60)
    with service.sessions.begin() as session:
        keys.revoke_key(session, service.ids[revoked])
    for key in (expired, revoked):
        assert_problem(
            service.call(key, "GET", "/v1/transcriptions"), 401, "unauthorized", "invalid, expired or revoked"
        )
    assert service.call(valid, "GET", "/v1/transcriptions").status_code == 200


def test_revocation_takes_effect_within_seconds(any_sessions: Sessions) -> None:
    now = [0.0]
    credentials = Credentials(any_sessions, clock=lambda: now[0])
    with any_sessions.begin() as session:
        row, secret = keys.create_key(session, "a")
    found = credentials.identify(secret)
    assert found is not None
    assert (found.owner, found.scope) == (str(row.id), Scope.WRITE)
    with any_sessions.begin() as session:
        keys.revoke_key(session, row.id)
    assert credentials.identify(secret) is not None  # from memory
    now[0] += CACHE_SECONDS + 0.1
    assert credentials.identify(secret) is None
    credentials.close()
    assert CACHE_SECONDS <= 10


def test_polls_cost_no_query_for_the_key(service: KeyService) -> None:
    key = service.key()
    job_id = service.job(key)
    asked: list[str] = []
    engine = service.sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    for _ in range(5):
        assert service.call(key, "GET", f"/v1/transcriptions/{job_id}").status_code == 200
    assert not [statement for statement in asked if "api_keys" in statement]
    assert len(asked) >= 5


def test_memory_of_wrong_keys_is_bounded(service: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.credentials.CACHE_ENTRIES", 10)
    for number in range(30):
        assert service.services.credentials.identify(f"mt3_{number}") is None
    assert len(service.services.credentials._identities._entries) == 10


def test_use_of_a_key_is_recorded_once_a_minute(any_sessions: Sessions) -> None:
    with any_sessions.begin() as session:
        row, secret = keys.create_key(session, "a")

    def used_at() -> Any:
        credentials = Credentials(any_sessions)
        assert credentials.identify(secret) is not None
        credentials.close()
        with any_sessions() as session:
            return session.scalar(select(ApiKey.last_used_at).where(ApiKey.id == row.id))

    first = used_at()
    assert first is not None
    assert used_at() == first
    with any_sessions.begin() as session:
        session.execute(update(ApiKey).values(last_used_at=now_plus(-61)))
    assert used_at() > first


def test_database_that_is_away_is_no_reason_to_refuse_a_key(
    service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr(keys, "find_identity", fail)
    assert_problem(service.call(service.key(), "GET", "/v1/transcriptions"), 503, "unavailable")


def test_idempotency_keys_of_owners_are_apart(service: KeyService) -> None:
    a, b = service.key(), service.key()
    header = {"Idempotency-Key": "the same"}
    first = service.submit(a, headers=header).json["id"]
    second = service.submit(b, b"RIFF other", headers=header)
    assert second.status_code == 202
    assert second.json["id"] != first
    assert service.submit(a, headers=header).json["id"] == first


def test_keys_of_one_owner_see_the_same_jobs(service: KeyService) -> None:
    old = service.key()
    job_id = service.job(old)
    with service.sessions.begin() as session:
        keys.revoke_key(session, service.ids[old])
    new = service.key(owner=service.owners[old])
    assert service.call(new, "GET", f"/v1/transcriptions/{job_id}").status_code == 200


def test_without_keys_everything_is_open_and_keys_are_ignored(settings: Settings, sessions: Sessions) -> None:
    with key_service(settings, sessions, auth="none") as service:
        job_id = service.job("mt3_whatever")
        assert service.call(None, "GET", f"/v1/transcriptions/{job_id}").status_code == 200
        with service.sessions() as session:
            assert session.scalar(select(Job.owner)) == keys.PUBLIC
    with key_service(settings, sessions) as service:
        assert service.call(service.key(), "GET", f"/v1/transcriptions/{job_id}").status_code == 404
        key = service.key(owner=keys.PUBLIC)
        assert service.call(key, "GET", f"/v1/transcriptions/{job_id}").status_code == 200


def test_owners_take_turns_over_http(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions) as service:
        crowd, single = service.key(), service.key()
        many = [service.job(crowd) for _ in range(4)]
        one = service.job(single)
        claimed = [claim_next(any_sessions, worker="w", lease_seconds=60, max_attempts=3).job_id for _ in range(5)]
        order = [str(job_id) for job_id in claimed]
    assert order == [many[0], one, *many[1:]]


def test_foreign_and_missing_jobs_cost_the_same_statements(
    settings: Settings, any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the time of an answer does not tell whether a job exists."""
    monkeypatch.setattr("web.credentials.CACHE_SECONDS", 1e9)  # the key is looked up and recorded only once
    with key_service(settings, any_sessions) as service:
        mine, theirs = service.key(), service.key()
        job_id, missing = service.job(mine), str(uuid4())
        service.call(theirs, "GET", "/v1/transcriptions")
        service.services.credentials.close()  # once its use is recorded
        asked: list[str] = []
        engine = any_sessions.kw["bind"]

        def note(*arguments: Any) -> None:
            asked.append(arguments[2])

        event.listen(engine, "before_cursor_execute", note)
        found = []
        for method, rule, endpoint in routes(service.app):
            if "job_id" not in rule:
                continue
            for which in (job_id, missing):
                asked.clear()
                service.call(theirs, method, address(service.app, endpoint, which), **BODIES.get(endpoint, {}))
                found.append((endpoint, list(asked)))
        event.remove(engine, "before_cursor_execute", note)
        assert found
        for foreign, absent in zip(found[::2], found[1::2], strict=True):
            assert foreign == absent
