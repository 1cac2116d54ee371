"""Browsers log in with a key, and their cookie cannot be used from pages of other sites."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from shared import keys
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.tables import ApiKey, Login, Scope
from tests.access import KeyService, assert_problem, key_service
from web.access import COOKIE

OWN_PAGE = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
FORGED = [
    {},  # nothing says where it comes from
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://evil.localhost"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:8080"},
]


@pytest.fixture
def service(settings: Settings, sessions: Sessions) -> Iterator[KeyService]:
    with key_service(settings, sessions) as running:
        yield running


def log_in(browser: FlaskClient, key: str, **headers: str) -> TestResponse:
    return browser.post("/v1/session", json={"key": key}, headers={**OWN_PAGE, **headers})


def cookie_of(response: TestResponse) -> dict[str, str]:
    """Return the attributes of the cookie that a response sets, and its value."""
    morsel = SimpleCookie(response.headers["Set-Cookie"])[COOKIE]
    return {name: str(value) for name, value in morsel.items() if value} | {"value": morsel.value}


def test_logged_in_browser_needs_no_key(service: KeyService) -> None:
    key = service.key("Ada", scope=Scope.WRITE)
    job_id = service.job(key)
    browser = service.browser()
    assert browser.get("/v1/transcriptions").status_code == 401
    answer = log_in(browser, f" {key}\n")
    assert (answer.status_code, answer.json["name"], answer.json["scope"]) == (200, "Ada", "write")
    assert [job["id"] for job in browser.get("/v1/transcriptions").json["items"]] == [job_id]
    assert browser.get("/v1/session").json == answer.json
    assert browser.post(f"/v1/transcriptions/{job_id}/cancel", headers=OWN_PAGE).status_code == 202


def test_cookie_is_out_of_reach_for_scripts_and_is_not_the_key(service: KeyService) -> None:
    key = service.key()
    answer = log_in(service.browser(), key)
    cookie = cookie_of(answer)
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == ("True", "Lax", "/")
    assert "secure" not in cookie
    assert "domain" not in cookie
    assert cookie["value"] != key
    assert answer.headers["Cache-Control"] == "no-store"
    with service.sessions() as session:
        assert session.scalar(select(Login.hash)) == keys.hash_secret(cookie["value"])


@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-Proto": "https"}, {"Origin": "https://localhost"}, {"X-Forwarded-Proto": "https, http"}],
)
def test_cookie_is_secure_over_tls(service: KeyService, headers: dict[str, str]) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", **headers}
    assert cookie_of(log_in(service.browser(), service.key(), **headers))["secure"] == "True"


def test_wrong_expired_and_revoked_keys_do_not_log_in(service: KeyService) -> None:
    revoked = service.key()
    with service.sessions.begin() as session:
        keys.revoke_key(session, service.ids[revoked])
    login = cookie_of(log_in(service.browser(), service.key()))["value"]
    for key in ("", "mt3_wrong", service.key(expires_in=-1), revoked, login):
        answer = log_in(service.browser(), key)
        assert_problem(answer, 401, "unauthorized", "The key is invalid, expired or revoked.")
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("headers", FORGED)
def test_cookie_changes_nothing_for_pages_of_other_sites(service: KeyService, headers: dict[str, str]) -> None:
    key = service.key()
    job_id = service.job(key)
    browser = service.browser()
    log_in(browser, key)
    upload = {"file": (io.BytesIO(b"RIFF"), "a.wav")}
    assert_problem(browser.post("/v1/transcriptions", data=upload, headers=headers), 403, "cross_site")
    for method, path in (
        ("DELETE", ""),
        ("PATCH", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/shares"),
        ("POST", "/exports"),
    ):
        answer = browser.open(f"/v1/transcriptions/{job_id}{path}", method=method, headers=headers, json={})
        assert_problem(answer, 403, "cross_site")
    assert len(browser.get("/v1/transcriptions").json["items"]) == 1
    assert browser.get(f"/v1/transcriptions/{job_id}").json["status"] == "queued"


@pytest.mark.parametrize("headers", [OWN_PAGE, {"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}])
def test_own_page_may_change_things(service: KeyService, headers: dict[str, str]) -> None:
    key = service.key()
    browser = service.browser()
    log_in(browser, key)
    upload = {"file": (io.BytesIO(b"RIFF"), "a.wav")}
    assert browser.post("/v1/transcriptions", data=upload, headers=headers).status_code == 202


def test_key_in_the_header_needs_no_origin_and_wins_over_the_cookie(service: KeyService) -> None:
    ada, bob = service.key("Ada"), service.key("Bob")
    browser = service.browser()
    log_in(browser, ada)
    headers = {"Authorization": f"Bearer {bob}"}
    job_id = browser.post("/v1/transcriptions", data={"file": (io.BytesIO(b"R"), "b.wav")}, headers=headers).json[
        "id"
    ]
    assert browser.get(f"/v1/transcriptions/{job_id}").status_code == 404
    wrong = browser.get("/v1/transcriptions", headers={"Authorization": "Bearer mt3_wrong"})
    assert_problem(wrong, 401, "unauthorized")


def test_logging_out_ends_the_login_and_no_other(service: KeyService) -> None:
    key = service.key()
    first, second = service.browser(), service.browser()
    stolen = cookie_of(log_in(first, key))["value"]
    log_in(second, key)
    assert first.get("/v1/models").status_code == 200
    answer = first.delete("/v1/session", headers=OWN_PAGE)
    assert answer.status_code == 204
    assert first.get("/v1/models").status_code == 401
    assert second.get("/v1/models").status_code == 200
    first.set_cookie(COOKIE, stolen)
    assert first.get("/v1/models").status_code == 401
    assert first.delete("/v1/session", headers=OWN_PAGE).status_code == 204
    assert service.browser().delete("/v1/session").status_code == 204


def test_login_ends_with_its_key_and_by_itself(service: KeyService) -> None:
    revoked, expiring, old = service.key(), service.key(expires_in=60), service.key()
    browsers = [service.browser() for _ in range(3)]
    for browser, key in zip(browsers, (revoked, expiring, old), strict=True):
        log_in(browser, key)
    with service.sessions.begin() as session:
        keys.revoke_key(session, service.ids[revoked])
        session.execute(update(ApiKey).where(ApiKey.id == service.ids[expiring]).values(expires_at=now_plus(-1)))
        session.execute(update(Login).where(Login.key_id == service.ids[old]).values(expires_at=now_plus(-1)))
    for browser in browsers:
        assert browser.get("/v1/transcriptions").status_code == 401
    log_in(service.browser(), service.key())
    with service.sessions() as session:  # those that have expired are removed
        assert len(session.scalars(select(Login)).all()) == 2


def test_without_keys_there_is_nothing_to_log_in_to(settings: Settings, sessions: Sessions) -> None:
    with key_service(settings, sessions, auth="none") as service:
        answer = log_in(service.browser(), "anything")
        assert answer.json["auth"] == "none"
        assert "Set-Cookie" not in answer.headers
        assert service.browser().get("/v1/session").json["auth"] == "none"


def test_login_with_another_type_of_body_is_refused(service: KeyService) -> None:
    answer = service.browser().post("/v1/session", data={"key": service.key()})
    assert answer.status_code in (400, 415, 422)
    assert "Set-Cookie" not in answer.headers
