"""A service without keys does not open itself to a network by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from structlog.testing import CapturingLogger

from launcher.serve import serve
from shared.config import REFUSED, Settings
from shared.db import Sessions
from shared.errors import Exposed
from shared.exposure import check_exposure
from tests.access import KeyService, key_service
from web.__main__ import main as web

OPEN_HOSTS = ["0.0.0.0", "::", "192.168.1.7", "music.example.org", "fd00::1", "127.0.0.1.evil.example", ""]
LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"]


@pytest.mark.parametrize("host", OPEN_HOSTS)
def test_open_address_without_keys_needs_consent(host: str) -> None:
    with pytest.raises(Exposed, match="Set MT3_AUTH=keys and make keys"):
        check_exposure(Settings(), host, is_accepted=False)
    warning = check_exposure(Settings(), host, is_accepted=True) or ""
    assert "NO KEYS ARE NEEDED" in warning
    assert len({len(line) for line in warning.strip().splitlines()}) == 1  # a box
    assert check_exposure(Settings(auth="keys"), host, is_accepted=False) is None


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_needs_nothing(host: str) -> None:
    assert check_exposure(Settings(), host, is_accepted=False) is None


@pytest.mark.parametrize(("command", "status"), [(serve, 1), (web, REFUSED)])
def test_start_on_an_open_address_is_refused(
    command: click.Command, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.serve._start_all", pytest.fail)
    monkeypatch.setattr("web.__main__.create_app", pytest.fail)
    result = CliRunner().invoke(command, ["--host", "0.0.0.0"])
    assert result.exit_code == status
    assert "Listening on 0.0.0.0 would let everybody" in result.stderr
    assert "pass --insecure" in result.stderr


@pytest.mark.parametrize(
    ("published", "starts"),
    [("127.0.0.1:8000", True), ("[::1]:80", True), ("0.0.0.0:8000", False), ("10.1.2.3:80", False)],
)
def test_a_mapped_port_is_judged_by_where_it_is_reached(
    published: str, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReachedError(Exception):
        pass

    def start(_: object) -> None:
        raise ReachedError

    monkeypatch.setattr("web.__main__.create_app", start)
    result = CliRunner().invoke(web, ["--host", "0.0.0.0", "--published-at", published])
    assert isinstance(result.exception, ReachedError) == starts
    assert ("would let everybody" in result.stderr) != starts


def test_insecure_start_warns_and_reaches_the_web_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = {}
    monkeypatch.setattr("launcher.serve._start_all", lambda *_, **more: started.update(more))
    monkeypatch.setattr("launcher.serve.Supervisor.watch", lambda _: None)
    arguments = ["--host", "0.0.0.0", "--port", "0", "--var", str(tmp_path), "--insecure"]
    monkeypatch.setattr("launcher.serve._check_port", lambda *_: None)
    result = CliRunner().invoke(serve, arguments[:2] + arguments[4:])
    assert result.exit_code == 0, result.output
    assert started == {"insecure": True}
    assert "NO KEYS ARE NEEDED" in result.stderr


@pytest.fixture
def open_service(settings: Settings, sessions: Sessions) -> Iterator[KeyService]:
    with key_service(settings, sessions, auth="none") as running:
        yield running


@pytest.mark.parametrize(("host", "count"), [("0.0.0.0", 1), ("127.0.0.1", 0), ("10.0.0.5", 1)])
def test_other_servers_log_it_once(
    open_service: KeyService, host: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr("web.access.log", log)
    for _ in range(3):
        environ = {"SERVER_NAME": host, "HTTP_HOST": "localhost"}
        answer = open_service.call(None, "GET", "/v1/transcriptions", environ_overrides=environ)
        assert answer.status_code == 200
    assert [call.args[0] for call in log.calls] == ["open_to_everybody"] * count
