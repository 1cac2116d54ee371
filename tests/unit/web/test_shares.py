"""Share links: one job, read-only, without a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from shared import shares
from shared.config import Settings
from shared.db import Sessions
from shared.tables import Share
from tests.access import KeyService, assert_problem, key_service


@pytest.fixture
def service(settings: Settings, sessions: Sessions) -> Iterator[KeyService]:
    with key_service(settings, sessions) as running:
        yield running


def share(service: KeyService, key: str, job_id: str, **body: Any) -> dict[str, Any]:
    answer = service.call(key, "POST", f"/v1/transcriptions/{job_id}/shares", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return dict(answer.json or {})


def test_link_shows_one_job_with_all_its_files(service: KeyService) -> None:
    key = service.key()
    answer = service.submit(key, b"RIFF sound", form={"metadata": '{"client": "secret"}'})
    job_id = answer.json["id"]
    service.finish(job_id)
    made = share(service, key, job_id)
    token, path = made["token"], made["api_url"]
    assert made["url"] == f"/s/{token}"
    assert path == f"/v1/shared/{token}"
    job = service.call(None, "GET", path).json
    assert (job["id"], job["status"], job["filename"], job["metadata"]) == (job_id, "succeeded", "song.wav", {})
    assert job["links"] == {
        "self": path,
        "artifacts": f"{path}/artifacts",
        "events": f"{path}/events",
        "cancel": None,
        "retry": None,
    }
    assert service.call(None, "GET", job["links"]["artifacts"]).json == {"items": job["artifacts"]}
    contents = {}
    for artifact in job["artifacts"]:
        assert artifact["href"].startswith(f"{path}/artifacts/")
        contents[artifact["name"]] = service.call(None, "GET", artifact["href"]).data
    assert contents == {"transcription.mid": b"MThd", "notes.json": b"{}"}
    assert service.call(None, "GET", f"{path}/audio").data == b"RIFF sound"
    part = service.call(None, "GET", f"{path}/audio", headers={"Range": "bytes=5-"})
    assert (part.status_code, part.data) == (206, b"sound")
    again = service.call(
        None, "GET", path, headers={"If-None-Match": service.call(None, "GET", path).headers["ETag"]}
    )
    assert again.status_code == 304


def test_link_follows_a_job_that_runs(service: KeyService) -> None:
    key = service.key()
    path = share(service, key, service.job(key))["api_url"]
    notes = service.call(None, "GET", f"{path}/notes")
    assert (notes.json["status"], notes.json["notes"], notes.json["complete"]) == ("queued", [], False)
    assert service.call(None, "GET", f"{path}/events").content_type == "text/event-stream"


def test_link_lists_exports_that_were_made_and_makes_none(service: KeyService) -> None:
    key = service.key()
    job_id = service.finished_job(key)
    export = service.call(key, "POST", f"/v1/transcriptions/{job_id}/exports", json={"format": "midi"}).json
    path = share(service, key, job_id)["api_url"]
    assert [each["id"] for each in service.call(None, "GET", f"{path}/exports").json["items"]] == [export["id"]]
    assert service.call(None, "GET", f"{path}/exports/{export['id']}").json["format"] == "midi"
    assert service.call(None, "POST", f"{path}/exports", json={"format": "midi"}).status_code == 405


def test_link_changes_nothing_and_shows_nothing_else(service: KeyService) -> None:
    key = service.key()
    job_id, other = service.finished_job(key), service.finished_job(key)
    made = share(service, key, job_id)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for suffix in ("", "/artifacts/notes.json", "/audio", "/exports", "/cancel", "/retry", "/shares"):
            assert service.call(None, method, made["api_url"] + suffix).status_code in (404, 405)
    assert service.call(None, "GET", f"{made['api_url']}/shares").status_code == 404
    for path in (
        f"/v1/transcriptions/{job_id}",
        f"/v1/transcriptions/{other}",
        "/v1/transcriptions",
        "/v1/models",
    ):
        assert_problem(service.call(made["token"], "GET", path), 401, "unauthorized")  # a token is no key
    rules = [rule for rule in service.app.url_map.iter_rules() if rule.rule.startswith("/v1/shared/")]
    assert len(rules) >= 5
    assert all((rule.methods or set()) <= {"GET", "HEAD", "OPTIONS"} for rule in rules)
    assert service.call(key, "GET", f"/v1/transcriptions/{job_id}").json["status"] == "succeeded"


def test_every_address_of_a_link_that_is_not_valid_is_the_same_404(service: KeyService) -> None:
    key = service.key()
    deleted, revoked, expired = (service.finished_job(key) for _ in range(3))
    tokens = ["mt3s_unknown", "x", key]
    tokens.append(share(service, key, deleted)["token"])
    assert service.call(key, "DELETE", f"/v1/transcriptions/{deleted}").status_code == 204
    tokens.append(share(service, key, revoked)["token"])
    assert service.call(key, "DELETE", f"/v1/transcriptions/{revoked}/shares/{tokens[-1]}").status_code == 204
    with service.sessions.begin() as session:
        owner = service.owners[key]
        _, token = shares.create_share(session, owner, UUID(expired), expires_in=-1)
    tokens.append(token)
    texts = set()
    for rule in service.app.url_map.iter_rules():
        if not rule.rule.startswith("/v1/shared/"):
            continue
        for token in tokens:
            path = rule.rule.replace("<token>", token).replace("<name>", "notes.json")
            answer = service.call(None, "GET", path.replace("<uuid:export_id>", str(uuid4())))
            assert_problem(answer, 404, "share_not_found", "It may have expired or been revoked.")
            texts.add(answer.text)
    assert len(texts) == 1


def test_revoked_link_ends_at_once_in_this_process(service: KeyService) -> None:
    key = service.key()
    job_id = service.finished_job(key)
    first, second = share(service, key, job_id), share(service, key, job_id)
    assert service.call(None, "GET", first["api_url"]).status_code == 200
    assert service.call(key, "DELETE", f"/v1/transcriptions/{job_id}/shares/{first['token']}").status_code == 204
    assert service.call(None, "GET", first["api_url"]).status_code == 404
    assert service.call(None, "GET", second["api_url"]).status_code == 200
    assert service.call(key, "DELETE", f"/v1/transcriptions/{job_id}/shares/{second['id']}").status_code == 204
    assert service.call(key, "GET", f"/v1/transcriptions/{job_id}/shares").json["items"] == []
    missing = service.call(key, "DELETE", f"/v1/transcriptions/{job_id}/shares/{first['token']}")
    assert_problem(missing, 404, "share_not_found")


def test_deleted_job_takes_its_links_along(service: KeyService) -> None:
    key = service.key()
    job_id = service.finished_job(key)
    made = share(service, key, job_id)
    assert service.call(None, "GET", made["api_url"]).status_code == 200  # it is remembered now
    assert service.call(key, "DELETE", f"/v1/transcriptions/{job_id}").status_code == 204
    assert service.call(None, "GET", made["api_url"]).status_code == 404
    with service.sessions() as session:
        assert session.scalars(select(Share)).all() == []


def test_list_of_links_has_no_tokens(service: KeyService) -> None:
    key = service.key()
    job_id = service.job(key)
    made = [share(service, key, job_id, expires_in=expires_in) for expires_in in (60, None)]
    answer = service.call(key, "GET", f"/v1/transcriptions/{job_id}/shares")
    assert [each["id"] for each in answer.json["items"]] == [each["id"] for each in made]
    assert all(each["token"] not in answer.text for each in made)
    assert made[0]["expires_at"] > made[0]["created_at"]
    assert made[1]["expires_at"] is None
    with service.sessions() as session:
        stored = [(row.hash, str(row.id)) for row in session.scalars(select(Share))]
    assert not any(each["token"] in row for each in made for row in stored)


@pytest.mark.parametrize("body", [{"expires_in": 0}, {"expires_in": -1}, {"expires_in": 10**10}, {"expiry": 5}])
def test_invalid_expiry_is_refused(service: KeyService, body: dict[str, int]) -> None:
    key = service.key()
    job_id = service.job(key)
    answer = service.call(key, "POST", f"/v1/transcriptions/{job_id}/shares", json=body)
    assert_problem(answer, 422, "invalid_request", next(iter(body)))


def test_only_the_owner_revokes_a_link(service: KeyService) -> None:
    mine, theirs = service.key(), service.key()
    job_id = service.finished_job(mine)
    own_job = service.finished_job(theirs)
    made = share(service, mine, job_id)
    for path in (job_id, own_job):
        for which in (made["token"], made["id"]):
            assert service.call(theirs, "DELETE", f"/v1/transcriptions/{path}/shares/{which}").status_code == 404
    assert service.call(None, "GET", made["api_url"]).status_code == 200


def test_links_work_without_keys_too(settings: Settings, any_sessions: Sessions) -> None:
    with key_service(settings, any_sessions, auth="none") as service:
        job_id = service.finished_job("")
        made = share(service, "", job_id)
        assert service.call(None, "GET", made["api_url"]).json["id"] == job_id


def test_page_of_a_link_keeps_the_address_to_itself(service: KeyService) -> None:
    answer = service.call(None, "GET", "/s/mt3s_anything")
    assert answer.status_code == 200
    assert "<title>" in answer.text
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Robots-Tag"] == "noindex"
