"""The supervisor of `mt3-infer serve`: what it starts again, and what it does not."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner, Result

from launcher.serve import serve
from launcher.supervisor import Child, Supervisor
from shared.config import REFUSED
from web.__main__ import main as web


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr("launcher.supervisor.signal.signal", lambda *_: None)  # the handlers of this process stay
    return Supervisor(lambda _: None)


def ending(status: int) -> Child:
    return Child("child", [sys.executable, "-S", "-c", f"raise SystemExit({status})"], {})


def test_child_that_a_setting_keeps_from_starting_ends_the_service(supervisor: Supervisor) -> None:
    other = Child("other", ["sleep", "600"], {})
    supervisor.start(other)
    supervisor.start(ending(REFUSED))
    supervisor.watch()
    assert supervisor.has_refused
    supervisor.stop()
    assert not other.is_running()


def test_child_that_crashes_is_started_again(supervisor: Supervisor) -> None:
    child = ending(1)
    supervisor.start(child)
    assert supervisor.wait_until(lambda: child.failures >= 2, seconds=60)
    assert not supervisor.has_refused
    supervisor.stop()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MT3_DEFAULT_MODEL", "nonesuch", "Unknown model 'nonesuch'"),
        ("MT3_CHECKPOINT_CATALOG", "/nonesuch.toml", "nonesuch.toml"),
    ],
)
def test_web_refuses_to_start_with_a_wrong_setting(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("web.__main__.configure_logs", lambda _: None)
    result = CliRunner().invoke(web, [])
    assert (result.exit_code, result.output.count("\n")) == (REFUSED, 1)
    assert words in result.output


def test_folder_that_cannot_be_written_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.serve.configure_logs", lambda _: None)
    result: Result = CliRunner().invoke(serve, ["--var", "/proc/nonesuch"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "cannot write to /proc/nonesuch" in result.output
