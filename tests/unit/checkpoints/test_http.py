"""A download goes on where it broke off, never joins two versions, and says what ails the server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile, resume_note
from checkpoints.http import Address, Patience, open_address
from checkpoints.sources.url import UrlSource
from tests import servers
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS
from tests.web_server import Reply, Request, Site, in_turn, redirect, static, status

FILE = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, ())
UNKNOWN = replace(FILE, sha256=None)
HASTE = Patience(tries=3, timeout=0.5, backoff=0.01)
OTHER = WEIGHTS[::-1]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.touch()
    return path


@pytest.fixture
def fetch(site: Site, part: Path) -> Callable[..., str | None]:
    def fetch(file: CheckpointFile = FILE, **options: object) -> str | None:
        source = UrlSource(f"{site.url}/w", patience=HASTE, **options)
        return source.fetch(file, part, lambda _: None)

    return fetch


def ranges(site: Site) -> list[str | None]:
    return [request.headers.get("range") for request in site.requests]


def interrupted(part: Path, url: str, content: bytes, etag: str | None = '"v1"') -> None:
    """Write the part file and note that an interrupted download of that address leaves."""
    part.write_bytes(content)
    resume_note(part).write_text(json.dumps({"resource": url, "etag": etag}))


def test_a_file_is_fetched_and_its_sum_taken(site: Site, part: Path, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = static(WEIGHTS)
    assert fetch() == SHA256
    assert part.read_bytes() == WEIGHTS


def test_progress_counts_the_bytes_in_the_part(site: Site, part: Path) -> None:
    site.routes["/w"] = static(WEIGHTS)
    seen: list[int] = []
    UrlSource(f"{site.url}/w").fetch(FILE, part, seen.append)
    assert (seen[0], seen[-1]) == (0, len(WEIGHTS))


def test_a_connection_that_breaks_off_is_continued(site: Site, part: Path, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = in_turn(
        static(WEIGHTS, drop_after=3_000), static(WEIGHTS, drop_after=4_000), static(WEIGHTS)
    )
    assert fetch() == SHA256
    assert part.read_bytes() == WEIGHTS
    assert ranges(site) == [None, "bytes=3000-", "bytes=7000-"]
    assert [request.headers.get("if-range") for request in site.requests] == [None, '"v1"', '"v1"']


def test_what_an_earlier_download_left_is_continued(site: Site, part: Path, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = static(WEIGHTS)
    interrupted(part, f"{site.url}/w", WEIGHTS[:6_000])
    assert fetch(UNKNOWN) == SHA256
    assert site.served == len(WEIGHTS) - 6_000


def test_a_part_that_is_whole_needs_no_connection(site: Site, part: Path, fetch: Callable[..., str]) -> None:
    part.write_bytes(WEIGHTS)
    assert fetch() == SHA256
    assert site.requests == []


def test_a_part_from_elsewhere_is_continued_where_the_sum_is_known(
    site: Site, part: Path, fetch: Callable[..., str]
) -> None:
    site.routes["/w"] = static(WEIGHTS, etag='"another"')
    interrupted(part, "http://elsewhere/w", WEIGHTS[:6_000])
    assert fetch() == SHA256
    assert ranges(site) == ["bytes=6000-"]
    assert "if-range" not in site.requests[0].headers


def test_a_part_from_elsewhere_is_dropped_where_the_sum_is_not_known(
    site: Site, part: Path, fetch: Callable[..., str]
) -> None:
    site.routes["/w"] = static(WEIGHTS)
    interrupted(part, "http://elsewhere/w", OTHER[:6_000])
    assert fetch(UNKNOWN) == SHA256
    assert ranges(site) == [None]


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_without_a_strong_etag_an_unknown_file_starts_over(
    site: Site, fetch: Callable[..., str], etag: str | None
) -> None:
    site.routes["/w"] = in_turn(static(WEIGHTS, etag=etag, drop_after=3_000), static(WEIGHTS, etag=etag))
    assert fetch(UNKNOWN) == SHA256
    assert ranges(site) == [None, None]


def test_a_file_that_changed_on_the_server_is_fetched_whole(
    site: Site, part: Path, fetch: Callable[..., str]
) -> None:
    site.routes["/w"] = in_turn(static(OTHER, etag='"old"', drop_after=3_000), static(WEIGHTS, etag='"new"'))
    assert fetch() == SHA256
    assert part.read_bytes() == WEIGHTS
    assert json.loads(resume_note(part).read_text())["etag"] == '"new"'


def test_a_server_that_ignores_range_is_not_appended(site: Site, part: Path, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = in_turn(static(WEIGHTS, drop_after=3_000), static(WEIGHTS, ranges=False))
    assert fetch() == SHA256
    assert part.read_bytes() == WEIGHTS


@pytest.mark.parametrize("content_range", ["bytes 0-9/10240", "bytes 3000-10239/99999", "nonsense", ""])
def test_another_range_than_was_asked_for_is_not_used(
    site: Site, part: Path, fetch: Callable[..., str], content_range: str
) -> None:
    def wrong(_: Request) -> Reply:
        return Reply(206, b"?" * 10, {"Content-Range": content_range})

    site.routes["/w"] = in_turn(static(WEIGHTS, drop_after=3_000), wrong, static(WEIGHTS))
    assert fetch() == SHA256
    assert part.read_bytes() == WEIGHTS
    assert ranges(site) == [None, "bytes=3000-", None]


@pytest.mark.parametrize(("etag", "asked"), [('"v1"', ["bytes=3000-"]), ('"v2"', ["bytes=3000-", None])])
def test_a_range_that_is_called_200_is_used_if_it_is_of_the_same_version(
    site: Site, part: Path, fetch: Callable[..., str], etag: str, asked: list[str | None]
) -> None:
    def odd(_: Request) -> Reply:
        return Reply(200, WEIGHTS[3_000:], {"Content-Range": "bytes 3000-10239/10240", "ETag": etag})

    site.routes["/w"] = in_turn(odd, static(WEIGHTS))
    interrupted(part, f"{site.url}/w", WEIGHTS[:3_000])
    assert fetch(UNKNOWN) == SHA256
    assert ranges(site) == asked


def test_a_part_that_is_too_long_starts_over(site: Site, part: Path, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = static(WEIGHTS)
    part.write_bytes(WEIGHTS + b"?")
    assert fetch() == SHA256


def test_a_range_that_the_server_refuses_starts_over(site: Site, fetch: Callable[..., str], part: Path) -> None:
    site.routes["/w"] = in_turn(status(416), static(WEIGHTS))
    part.write_bytes(WEIGHTS[:100])
    assert fetch() == SHA256


def test_a_server_that_is_busy_is_asked_again(site: Site, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = in_turn(status(503, Retry_After="0"), status(429), static(WEIGHTS))
    assert fetch() == SHA256


def test_the_wait_that_a_server_asks_for_is_kept(site: Site, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = in_turn(status(503, Retry_After="1"), static(WEIGHTS))
    begun = time.monotonic()
    assert fetch() == SHA256
    assert time.monotonic() - begun > 0.9


def test_connections_that_bring_something_do_not_use_up_the_tries(site: Site, tmp_path: Path) -> None:
    content = os.urandom(10 * 70_000)
    site.routes["/w"] = static(content, drop_after=70_000)
    part = tmp_path / "part"
    part.touch()
    UrlSource(f"{site.url}/w", patience=HASTE).fetch(
        CheckpointFile("w", len(content), "0" * 64, ()), part, lambda _: None
    )
    assert part.read_bytes() == content
    assert len(site.requests) == 10


def test_redirects_are_followed_and_resumed(site: Site, fetch: Callable[..., str]) -> None:
    site.routes["/w"] = redirect("/there")
    site.routes["/there"] = in_turn(static(WEIGHTS, drop_after=3_000), static(WEIGHTS))
    assert fetch() == SHA256
    assert site.requests[-1].headers["range"] == "bytes=3000-"


def test_credentials_stay_with_their_host(site: Site) -> None:
    other = site.url.replace("127.0.0.1", "localhost")
    site.routes |= {"/a": redirect("/b"), "/b": redirect(f"{other}/c"), "/c": static(b"")}
    open_address(Address(f"{site.url}/a", {"Authorization": "Bearer secret"}), HASTE).close()
    assert [request.headers.get("authorization") for request in site.requests] == ["Bearer secret"] * 2 + [None]


def test_a_cancel_ends_a_download_that_waits(site: Site, part: Path) -> None:
    site.routes["/w"] = status(503, Retry_After="30")

    def cancel(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        UrlSource(f"{site.url}/w").fetch(FILE, part, cancel)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (status(404), "404 Not Found"),
        (status(403), "403 Forbidden"),
        (status(451), "451 Unavailable For Legal Reasons"),
        (status(500), "500 Internal Server Error (3 times in a row)"),
        (redirect("/w"), "it redirects without end"),
        (redirect("ftp://127.0.0.1/w"), "it redirects from http to ftp"),
        (static(WEIGHTS, stall_after=100), "nothing came for 0.5 s (3 times in a row)"),
        (
            static(WEIGHTS, drop_after=0),
            "the connection broke off after 0 of 10,240 bytes (3 times in a row)",
        ),
        (static(bytes(100_000)), "it has 100,000 bytes, not 10,240"),
        (
            lambda _: Reply(206, WEIGHTS, {"Content-Range": "bytes 0-10239/10240"}),
            "it sends a part of the file without having been asked to",
        ),
    ],
    ids=["404", "403", "451", "500", "loop", "ftp", "stall", "drop", "other size", "206"],
)
def test_server_errors_are_reported(
    site: Site, part: Path, fetch: Callable[..., str], route: Callable[[Request], Reply], reason: str
) -> None:
    site.routes["/w"] = route
    with pytest.raises(SourceError) as caught:
        fetch()
    assert str(caught.value) == reason
    assert part.exists()


def test_unreachable_server_is_reported(part: Path) -> None:
    source = UrlSource(f"http://127.0.0.1:{servers.free_port()}/w", patience=HASTE)
    with pytest.raises(SourceError) as caught:
        source.fetch(FILE, part, lambda _: None)
    assert str(caught.value) == "connection refused (3 times in a row)"


def test_unknown_host_is_reported(part: Path) -> None:
    with pytest.raises(SourceError) as caught:
        UrlSource("http://no-such-host.invalid/w").fetch(FILE, part, lambda _: None)
    assert str(caught.value) == "its name cannot be resolved"


def test_the_label_holds_no_secrets() -> None:
    source = UrlSource("https://user:password@example.org:8443/w.bin?token=secret")
    assert source.label == "https://example.org:8443/w.bin"
