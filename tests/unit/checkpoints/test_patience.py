"""A server that is busy is asked again, whichever source it belongs to and whichever request it is."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path

import pytest

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import Address, Patience, open_address, read
from checkpoints.mirror import HttpMirror, S3Mirror
from checkpoints.sources import Source
from checkpoints.sources.git_lfs import GitLfsSource
from checkpoints.sources.huggingface import HuggingFaceSource
from checkpoints.sources.t5x import T5xSource
from checkpoints.sources.url import UrlSource
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS
from tests.web_server import Reply, Request, Route, Site, as_json, in_turn, static, status

FILE = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, ())
HASTE = Patience(tries=4, timeout=2, backoff=0.01)
BUSY = (status(429, Retry_After="0"), status(503), status(504))


@dataclass(frozen=True)
class Place:
    """A source, the paths that it asks for in order, and the answers there."""

    source: Source
    routes: dict[str, Route]


def lfs(site: Site) -> Place:
    link = {"href": f"{site.url}/objects/1"}
    return Place(
        GitLfsSource(f"{site.url}/o/r", "main", "w.pth", patience=HASTE),
        {
            "/o/r/raw/main/w.pth": static(
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(WEIGHTS)}\n".encode()
            ),
            "/o/r.git/info/lfs/objects/batch": lambda _: as_json({"objects": [{"actions": {"download": link}}]}),
            "/objects/1": static(WEIGHTS),
        },
    )


def hub(site: Site) -> Place:
    headers = {"Location": f"{site.url.replace('127.0.0.1', 'localhost')}/storage", "X-Linked-Etag": f'"{SHA256}"'}
    return Place(
        HuggingFaceSource("o/r", "w.pth", patience=HASTE),
        {"/o/r/resolve/main/w.pth": lambda _: Reply(302, b"", headers), "/storage": static(WEIGHTS)},
    )


def url(site: Site) -> Place:
    return Place(UrlSource(f"{site.url}/w", patience=HASTE), {"/w": static(WEIGHTS)})


def mirror(site: Site) -> Place:
    return Place(HttpMirror(f"{site.url}/m", HASTE).source("tiny", "w"), {"/m/tiny/w": static(WEIGHTS)})


def s3_mirror(site: Site) -> Place:
    environ = {
        "MT3_S3_ENDPOINT_URL": site.url,
        "MT3_S3_ACCESS_KEY_ID": "key",
        "MT3_S3_SECRET_ACCESS_KEY": "secret",
    }
    opened = S3Mirror("bucket", "m", environ, patience=HASTE)
    return Place(opened.source("tiny", "w"), {"/bucket/m/tiny/w": static(WEIGHTS)})


def t5x(site: Site) -> Place:
    md5 = base64.b64encode(hashlib.md5(WEIGHTS).digest()).decode()
    listing = {"items": [{"name": "c/mt3/w", "size": str(len(WEIGHTS)), "md5Hash": md5}]}
    return Place(
        T5xSource("mt3", "c/mt3", endpoint=site.url, patience=HASTE),
        {"/storage/v1/b/mt3/o": lambda _: as_json(listing), "/mt3/c/mt3/w": static(WEIGHTS)},
    )


PLACES: list[tuple[Callable[[Site], Place], str]] = [
    (lfs, "/o/r/raw/main/w.pth"),
    (lfs, "/o/r.git/info/lfs/objects/batch"),
    (lfs, "/objects/1"),
    (hub, "/o/r/resolve/main/w.pth"),
    (hub, "/storage"),
    (url, "/w"),
    (mirror, "/m/tiny/w"),
    (s3_mirror, "/bucket/m/tiny/w"),
    (t5x, "/storage/v1/b/mt3/o"),
    (t5x, "/mt3/c/mt3/w"),
]


@pytest.fixture(autouse=True)
def _one_hub(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.touch()
    return path


@pytest.mark.parametrize(("make", "path"), PLACES, ids=[f"{make.__name__} {path}" for make, path in PLACES])
def test_any_request_of_any_source_is_made_again_while_the_server_is_busy(
    site: Site, part: Path, make: Callable[[Site], Place], path: str
) -> None:
    place = make(site)
    site.routes |= {**place.routes, path: in_turn(*BUSY, place.routes[path])}
    place.source.fetch(FILE, part, lambda _: None)
    assert WEIGHTS in part.read_bytes()
    assert [request.path for request in site.requests].count(path) >= len(BUSY) + 1


@pytest.mark.parametrize(("make", "path"), PLACES, ids=[f"{make.__name__} {path}" for make, path in PLACES])
def test_any_request_that_waits_can_be_canceled(
    site: Site, part: Path, make: Callable[[Site], Place], path: str
) -> None:
    place = make(site)
    site.routes |= {**place.routes, path: status(503, Retry_After="30")}

    def cancel(_: int) -> None:
        if any(request.path == path for request in site.requests):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.source.fetch(FILE, part, cancel)


def test_a_mirror_that_is_busy_is_filled_when_it_is_free(site: Site, part: Path) -> None:
    part.write_bytes(WEIGHTS)
    site.routes["/m/tiny/w"] = in_turn(*BUSY, lambda _: Reply(201))
    HttpMirror(f"{site.url}/m", HASTE).put("tiny", "w", part)
    assert [request.body for request in site.requests] == [WEIGHTS] * 4


def test_a_bucket_that_is_busy_is_filled_when_it_is_free(site: Site, part: Path) -> None:
    part.write_bytes(WEIGHTS)
    site.routes["/bucket/tiny/w"] = in_turn(status(503), status(429), lambda _: Reply(200))
    environ = {
        "MT3_S3_ENDPOINT_URL": site.url,
        "MT3_S3_ACCESS_KEY_ID": "key",
        "MT3_S3_SECRET_ACCESS_KEY": "secret",
    }
    S3Mirror("bucket", "", environ, patience=HASTE).put("tiny", "w", part)
    assert len(site.requests) == 3


@pytest.mark.parametrize("word", ["soon", "-1", "1e3", "9" * 400, "Sat, 99 Nov 2026 99:99:99 GMT"])
def test_a_wait_that_cannot_be_understood_is_the_usual_one(site: Site, part: Path, word: str) -> None:
    site.routes["/w"] = in_turn(status(503, Retry_After=word), static(WEIGHTS))
    source = UrlSource(f"{site.url}/w", patience=replace(HASTE, longest=0.1))
    assert source.fetch(FILE, part, lambda _: None) == SHA256


def test_a_wait_until_a_date_is_kept_within_bounds(site: Site, part: Path) -> None:
    site.routes["/w"] = in_turn(
        status(503, Retry_After=formatdate(time.time() + 3600, usegmt=True)), static(WEIGHTS)
    )
    source = UrlSource(f"{site.url}/w", patience=replace(HASTE, longest=0.4))
    begun = time.monotonic()
    assert source.fetch(FILE, part, lambda _: None) == SHA256
    assert 0.4 <= time.monotonic() - begun < 60


def test_pauses_grow_within_bounds_and_differ() -> None:
    patience = Patience(backoff=1, longest=9)
    pauses = [patience.pause(failures) for failures in range(1, 6)]
    bounds = [(1, 2), (2, 3), (4, 5), (8, 9), (9, 9)]
    assert [low <= pause <= high for pause, (low, high) in zip(pauses, bounds, strict=True)] == [True] * 5
    assert len({patience.pause(1) for _ in range(20)}) > 1
    assert 3 <= patience.pause(4, asked=3) <= 4
    assert patience.pause(1, asked=1e9) == 9


def test_a_server_that_stays_busy_is_given_up(site: Site, part: Path) -> None:
    site.routes["/w"] = status(429)
    with pytest.raises(SourceError, match=r"429 Too Many Requests \(4 times in a row\)"):
        UrlSource(f"{site.url}/w", patience=HASTE).fetch(FILE, part, lambda _: None)
    assert len(site.requests) == 4


def test_a_refusal_is_final(site: Site, part: Path) -> None:
    site.routes["/w"] = status(403, Retry_After="0")
    with pytest.raises(SourceError, match="403 Forbidden"):
        UrlSource(f"{site.url}/w", patience=HASTE).fetch(FILE, part, lambda _: None)
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            as_json({"message": "Over its data quota.\nBuy more."}, 403),
            "403 Forbidden: Over its data quota. Buy more",
        ),
        (as_json({"message": "Quota exceeded"}, 429), "429 Too Many Requests: Quota exceeded (4 times in a row)"),
        (as_json({"message": "Bandwidth limit exceeded"}, 509), "status 509: Bandwidth limit exceeded"),
        (as_json({"error": {"code": 403, "message": "Billing disabled"}}, 403), "403 Forbidden: Billing disabled"),
        (as_json({"error": "No such thing"}, 404), "404 Not Found: No such thing"),
        (as_json({"errors": [{"message": "Account suspended"}]}, 402), "402 Payment Required: Account suspended"),
        (
            Reply(403, b"<?xml?><Error><Code>X</Code><Message>Clock &amp; key differ</Message></Error>"),
            "403 Forbidden: Clock & key differ",
        ),
        (as_json({"message": {"no": "text"}}, 403), "403 Forbidden"),
        (as_json({"message": "x" * 10_000}, 403), f"403 Forbidden: {'x' * 300}"),
        (Reply(403, b"[" * 9_000), "403 Forbidden"),  # nested too deeply for a parser
        (Reply(403, b"\xff\xfe"), "403 Forbidden"),
    ],
)
@pytest.mark.parametrize("path", ["/o/r/raw/main/w.pth", "/o/r.git/info/lfs/objects/batch", "/objects/1"])
def test_the_reason_that_a_server_gives_is_passed_on(
    site: Site, part: Path, path: str, answer: Reply, reason: str
) -> None:
    place = lfs(site)
    site.routes |= {**place.routes, path: lambda _: answer}
    with pytest.raises(SourceError) as caught:
        place.source.fetch(FILE, part, lambda _: None)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"objects": [{"error": {"code": 507, "message": "This repository\nis over its quota."}}]},
            "the LFS server refuses it (507: This repository is over its quota)",
        ),
        ({"message": "Over quota"}, "the LFS server gives no link to the file (Over quota)"),
        ({"objects": [{"error": {}}]}, "the LFS server gives no link to the file"),
    ],
)
def test_the_reason_in_an_answer_of_the_batch_api_is_passed_on(
    site: Site, part: Path, content: object, reason: str
) -> None:
    place = lfs(site)
    site.routes |= {**place.routes, "/o/r.git/info/lfs/objects/batch": lambda _: as_json(content)}
    with pytest.raises(SourceError) as caught:
        place.source.fetch(FILE, part, lambda _: None)
    assert str(caught.value) == reason


def test_the_reason_that_the_hub_gives_is_passed_on(site: Site, part: Path) -> None:
    place = hub(site)
    site.routes["/o/r/resolve/main/w.pth"] = status(401, X_Error_Message="Invalid credentials in header.")
    with pytest.raises(SourceError) as caught:
        place.source.fetch(FILE, part, lambda _: None)
    assert str(caught.value) == "the Hub answers 401 (Invalid credentials in header)"


def test_a_repository_of_the_hub_that_was_renamed_is_found(site: Site, part: Path) -> None:
    place = hub(site)
    there = place.routes.pop("/o/r/resolve/main/w.pth")
    moved = {"Location": "/new/r/resolve/main/w.pth"}
    site.routes |= {**place.routes, moved["Location"]: there}
    site.routes["/o/r/resolve/main/w.pth"] = lambda _: Reply(307, b"", moved)
    assert place.source.fetch(FILE, part, lambda _: None) == SHA256


def test_a_proxy_of_the_environment_is_used_and_no_proxy_honored(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Request) -> Reply:
        return as_json(request.headers.get("host"))

    site.routes["/w"] = answer
    proxy = site.url.replace("http://", "http://user:password@")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert json.loads(read(Address("http://example.invalid/w"), HASTE)) == "example.invalid"
    assert site.requests[-1].headers["proxy-authorization"] == "Basic dXNlcjpwYXNzd29yZA=="
    open_address(Address(f"{site.url}/w"), HASTE).close()
    assert "proxy-authorization" not in site.requests[-1].headers
