"""Pages of other origins: allowed by a list, with keys and without cookies."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from shared.config import Settings
from shared.db import Sessions
from tests.access import KeyService, assert_problem, key_service

APP = "https://app.example.org"
CROSS = {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {**CROSS, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
HEADERS = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Access-Control-Allow-Methods")


@pytest.fixture
def service(settings: Settings, sessions: Sessions) -> Iterator[KeyService]:
    with key_service(settings, sessions, cors_origins=frozenset({APP})) as running:
        yield running


def test_page_of_an_allowed_origin_uses_the_api_with_a_key(service: KeyService) -> None:
    preflight = service.call(None, "OPTIONS", "/v1/transcriptions", headers=PREFLIGHT)
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == APP
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    key = service.key()
    answer = service.submit(key, headers=CROSS)
    assert answer.status_code == 202
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    exposed = answer.headers["Access-Control-Expose-Headers"]
    for name in ("Location", "ETag", "Link", "Retry-After", "RateLimit", "RateLimit-Policy"):
        assert name in exposed.split(", ")
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    refused = service.call(None, "GET", "/v1/transcriptions", headers=CROSS)  # errors can be read as well
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, APP)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://app.example.org", f"{APP}:8443", f"{APP}.evil.example", "null", "", "*"],
)
def test_other_origins_are_refused(service: KeyService, origin: str) -> None:
    headers = {**PREFLIGHT, "Origin": origin}
    preflight = service.call(None, "OPTIONS", "/v1/transcriptions", headers=headers)
    assert not any(name in preflight.headers for name in HEADERS)
    answer = service.submit(service.key(), headers=headers)
    assert_problem(answer, 403, "cross_site")
    assert not any(name in answer.headers for name in HEADERS)


def test_cookie_does_nothing_for_an_allowed_origin(service: KeyService) -> None:
    key = service.key()
    browser = service.browser()
    browser.post("/v1/session", json={"key": key}, headers={"Sec-Fetch-Site": "same-origin"})
    upload = {"file": (io.BytesIO(b"RIFF"), "a.wav")}
    assert_problem(browser.post("/v1/transcriptions", data=upload, headers=CROSS), 403, "cross_site")


def test_off_by_default(settings: Settings, sessions: Sessions) -> None:
    with key_service(settings, sessions) as service:
        preflight = service.call(None, "OPTIONS", "/v1/transcriptions", headers=PREFLIGHT)
        answer = service.call(service.key(), "GET", "/v1/transcriptions", headers=CROSS)
        for response in (preflight, answer):
            assert not any(name in response.headers for name in HEADERS)
            assert "Origin" not in response.headers.get("Vary", "")


def test_any_origin_needs_keys(settings: Settings, sessions: Sessions) -> None:
    with pytest.raises(ValidationError, match="needs MT3_AUTH=keys"):
        Settings(cors_origins="*")  # type: ignore[arg-type]
    every = Settings(auth="keys", cors_origins="*").cors_origins  # type: ignore[arg-type]
    with key_service(settings, sessions, cors_origins=every) as service:
        answer = service.submit(service.key(), headers={"Origin": "https://any.example"})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (202, "https://any.example")


@pytest.mark.parametrize(
    "origins", ["app.example.org", "https://a/b", "https://a/", "ftp://a", "https://a b", "https://*.a"]
)
def test_what_is_no_origin_stops_the_start(origins: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(cors_origins=origins)  # type: ignore[arg-type]
    assert Settings(cors_origins=" HTTPS://A.example:8443 , http://[::1]:3000 ").cors_origins == {  # type: ignore[arg-type]
        "https://a.example:8443",
        "http://[::1]:3000",
    }
