"""Messages of the commands `submit` and `jobs` when something is wrong or takes long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from mt3_infer.cli import main, serving
from mt3_infer.client import transport
from tests.servers import free_port
from tests.web_server import Reply, Site, as_json, in_turn, web_server

ID = "01a22766-1cf7-7bf0-b35c-36535fbe40d5"


@pytest.fixture
def site() -> Iterator[Site]:
    with web_server() as site:
        yield site


class Clock:
    """A clock that goes on only in pauses."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def monotonic(self) -> float:
        return sum(self.pauses)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(transport, "time", clock)
    return clock


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["jobs", *words], env={"MT3_API_KEY": "", "MT3_SERVER": ""})


def problem(status: int, detail: str, **headers: str) -> Reply:
    reply = as_json({"code": "some_code", "detail": detail}, status)
    reply.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return reply


@pytest.mark.parametrize(("key", "words"), [((), "needs a key."), (("--api-key", "x"), "refuses this key: it is")])
def test_missing_and_wrong_keys_are_explained_in_terms_of_the_command(
    site: Site, key: tuple[str, ...], words: str
) -> None:
    site.routes["/v1/transcriptions"] = lambda _: problem(401, "Send one as Authorization: Bearer.")
    result = run("list", "--server", site.url, *key)
    assert result.exit_code == 1
    assert words in result.output
    assert "--api-key or set MT3_API_KEY" in result.output
    assert "Bearer" not in result.output


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "delete", "download"])
def test_what_is_no_id_is_refused_without_a_request(site: Site, command: str) -> None:
    result = run(command, "song.wav", "--server", site.url)
    assert result.exit_code == 2
    assert "'song.wav' is not the id of a transcription: `mt3-infer jobs list` shows them." in result.output
    assert site.requests == []


def test_empty_list_says_so(site: Site) -> None:
    site.routes["/v1/transcriptions"] = lambda _: as_json({"items": [], "next_cursor": None})
    assert run("list", "--server", site.url).stderr == "No transcriptions.\n"
    assert run("list", "--server", site.url, "--status", "failed").stderr == "No transcriptions fit.\n"
    as_data = run("list", "--server", site.url, "--json")
    assert (as_data.stdout, as_data.stderr) == ("[]\n", "")


def test_long_pause_is_reported_with_its_reason(site: Site, clock: Clock) -> None:
    empty = as_json({"items": [], "next_cursor": None})
    site.routes["/v1/transcriptions"] = in_turn(
        lambda _: problem(503, "The database is unavailable.", Retry_After="1"),
        lambda _: problem(429, "Too many requests.", Retry_After="7"),
        lambda _: empty,
    )
    result = run("list", "--server", site.url)
    assert result.stderr == "Too many requests. Trying again in 7 s.\nNo transcriptions.\n"
    assert clock.pauses == [1.0, 7.0]


def test_service_that_does_not_run_is_named_after_a_few_attempts(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = run("list", "--server", url)
    assert result.exit_code == 1
    assert f"The service at {url} cannot be reached" in result.output
    assert "mt3-infer serve" not in result.output  # it is not the one of this machine
    assert len(clock.pauses) >= 2
    assert sum(clock.pauses) <= 10
    monkeypatch.setattr(serving, "DEFAULT_SERVER", url)
    assert "Start one with `mt3-infer serve`, or pass --server." in run("list", "--server", url).output
