"""Host names that the service accepts, and pages that may send unsafe requests."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from pydantic import ValidationError
from werkzeug.test import TestResponse

from shared.config import Settings
from shared.db import Sessions
from shared.queue import InMemoryQueue
from web import create_app
from web.browsers import is_same_host, is_served

Ask = Callable[..., TestResponse]


@pytest.fixture
def client(settings: Settings, sessions: Sessions) -> FlaskClient:
    return create_app(settings, sessions=sessions, queue=InMemoryQueue()).test_client()


def refusal(response: TestResponse) -> tuple[int, str] | None:
    """Return status and code of a problem of `web.browsers`; None for any other response."""
    problem = response.get_json(force=True, silent=True) or {}
    code = problem.get("code")
    return (response.status_code, code) if code in ("host_not_allowed", "cross_site") else None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "127.0.0.1:8000",
        "127.8.9.1",
        "[::1]:8",
    ],
)
def test_loopback_names_are_always_accepted(host: str) -> None:
    for listens_on in ("127.0.0.1", "::1", "0.0.0.0", "localhost"):
        assert is_served(host, frozenset(), listens_on)
        assert is_served(host, frozenset({"music.example.org"}), listens_on)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "10.0.0.5",
        "web",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evillocalhost",
    ],
)
def test_service_on_loopback_accepts_no_other_name(host: str) -> None:
    for listens_on in ("127.0.0.1", "::1", "localhost"):
        assert not is_served(host, frozenset(), listens_on)


@pytest.mark.parametrize(
    "host", ["", ":80", "a,b", "a b", "evil.example@127.0.0.1", "[::1", "127.0.0.1:port", "ä"]
)
def test_malformed_host_is_rejected_even_if_any_host_is_allowed(host: str) -> None:
    assert not is_served(host, frozenset({"*"}), "0.0.0.0")


def test_service_on_a_network_accepts_only_names_that_nobody_can_register() -> None:
    for host in ("192.168.1.7:8000", "[fd00::1]:8000", "web:8000", socket.gethostname()):
        assert is_served(host, frozenset(), "0.0.0.0"), host
    for host in ("evil.example", "a.evil.example:8000", "192.168.1.7.evil.example"):
        assert not is_served(host, frozenset(), "0.0.0.0"), host


def test_allowed_hosts_and_loopback_are_accepted_and_no_others() -> None:
    allowed = Settings(allowed_hosts="Music.example.org, .example.net,[fd00::1]").allowed_hosts  # type: ignore[arg-type]
    for host in ("music.example.org", "MUSIC.EXAMPLE.ORG:8000", "a.b.example.net", "[fd00::1]:80"):
        assert is_served(host, allowed, "127.0.0.1"), host
        assert is_served(host, allowed, "0.0.0.0"), host
    for host in ("example.org", "example.net.evil.example", "evilexample.net", "10.0.0.1", "web"):
        assert not is_served(host, allowed, "0.0.0.0"), host
    assert is_served("anything.example", frozenset({"*"}), "127.0.0.1")


def test_allowed_hosts_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_ALLOWED_HOSTS", "a.example, b.example")
    assert Settings().allowed_hosts == {"a.example", "b.example"}
    monkeypatch.setenv("MT3_ALLOWED_HOSTS", "https://a.example/")
    with pytest.raises(ValidationError, match="write names without scheme and port"):
        Settings()


def test_foreign_host_name_gets_a_421(client: FlaskClient) -> None:
    for method, path in (
        ("GET", "/v1/transcriptions"),
        ("DELETE", "/v1/transcriptions/x"),
        ("GET", "/"),
        ("GET", "/docs"),
    ):
        response = client.open(path, method=method, headers={"Host": "evil.example:8000"})
        assert refusal(response) == (421, "host_not_allowed"), path
        assert response.content_type == "application/problem+json"
        assert "MT3_ALLOWED_HOSTS" in response.text


def test_probes_accept_any_host_name(client: FlaskClient) -> None:
    for host in ("10.1.2.3:8000", "evil.example", ""):
        assert client.get("/livez", headers={"Host": host}).status_code == 200
        assert refusal(client.get("/readyz", headers={"Host": host})) is None


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({}, False),  # not a browser
        ({"Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "Cross-Site"}, True),
        ({"Sec-Fetch-Site": "something-new"}, True),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "https://localhost", "Host": "localhost"}, False),  # a proxy terminates TLS
        ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, False),
        ({"Origin": "http://localhost:3000", "Host": "localhost:8000"}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
        ({"Origin": "http://[::1"}, True),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, False),  # pages cannot set the latter
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_cross_site_requests_with_unsafe_methods_are_rejected(
    client: FlaskClient, method: str, headers: dict[str, str], is_refused: bool
) -> None:
    response = client.open("/v1/transcriptions", method=method, headers=headers)
    assert refusal(response) == ((403, "cross_site") if is_refused else None)
    assert refusal(client.get("/v1/transcriptions", headers=headers)) is None


def test_origin_and_host_are_compared_with_default_ports() -> None:
    assert is_same_host("https://music.example.org", "music.example.org:443")
    assert is_same_host("http://music.example.org:80", "Music.example.org")
    assert not is_same_host("http://music.example.org", "music.example.org:443")
    assert not is_same_host("file://music.example.org", "music.example.org")
