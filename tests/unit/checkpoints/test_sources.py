"""Git LFS, the Hugging Face Hub and T5X buckets, each against a server that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import Patience
from checkpoints.sources import Source
from checkpoints.sources.git_lfs import GitLfsSource
from checkpoints.sources.huggingface import HuggingFaceSource
from checkpoints.sources.t5x import T5xSource
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS
from tests.web_server import Reply, Request, Route, Site, as_json, in_turn, redirect, static, status

FILE = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, ())
UNKNOWN = replace(FILE, sha256=None)
HASTE = Patience(tries=2, timeout=2, backoff=0.01)


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token of the developer's own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.touch()
    return path


def reason_of(source: Source, part: Path, file: CheckpointFile = FILE) -> str:
    with pytest.raises(SourceError) as caught:
        source.fetch(file, part, lambda _: None)
    return str(caught.value)


# Git LFS


def pointer(sha256: str = SHA256, size: int = len(WEIGHTS)) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def batch(site: Site, **answer: Any) -> Route:
    """The batch API, as its specification has it."""

    def route(request: Request) -> Reply:
        assert request.method == "POST"
        assert request.headers["content-type"] == "application/vnd.git-lfs+json"
        wanted = json.loads(request.body)
        assert (wanted["operation"], wanted["transfers"], wanted["hash_algo"]) == ("download", ["basic"], "sha256")
        (item,) = wanted["objects"]
        link = {"href": f"{site.url}/objects/{item['oid']}", "header": {"Authorization": "RemoteAuth x"}}
        return as_json({"transfer": "basic", "objects": [{**item, "actions": {"download": link}, **answer}]})

    return route


def linking(href: object) -> Route:
    return lambda _: as_json({"objects": [{"actions": {"download": {"href": href}}}]})


@pytest.fixture
def lfs(site: Site) -> GitLfsSource:
    site.routes["/owner/repository/raw/main/folder/weights.pth"] = static(pointer())
    site.routes["/owner/repository.git/info/lfs/objects/batch"] = batch(site)
    site.routes[f"/objects/{SHA256}"] = static(WEIGHTS)
    return GitLfsSource(f"{site.url}/owner/repository", "main", "folder/weights.pth", patience=HASTE)


def test_lfs_goes_from_the_pointer_over_the_batch_api_to_the_object(
    site: Site, lfs: GitLfsSource, part: Path
) -> None:
    assert lfs.fetch(FILE, part, lambda _: None) == SHA256
    assert part.read_bytes() == WEIGHTS
    assert site.requests[-1].headers["authorization"] == "RemoteAuth x"
    assert lfs.label == f"Git LFS at {site.url.removeprefix('http://')}/owner/repository"


def test_lfs_asks_for_a_fresh_link_when_it_goes_on(site: Site, lfs: GitLfsSource, part: Path) -> None:
    site.routes[f"/objects/{SHA256}"] = in_turn(static(WEIGHTS, drop_after=3_000), static(WEIGHTS))
    assert lfs.fetch(FILE, part, lambda _: None) == SHA256
    assert len(site.asked("POST")) == 2
    assert site.requests[-1].headers["range"] == "bytes=3000-"


def test_lfs_teaches_the_sum_of_a_file_that_is_not_known(lfs: GitLfsSource, part: Path) -> None:
    assert lfs.fetch(UNKNOWN, part, lambda _: None) == SHA256


def test_an_lfs_object_that_is_not_what_the_pointer_names_is_dropped(
    site: Site, lfs: GitLfsSource, part: Path
) -> None:
    site.routes[f"/objects/{SHA256}"] = static(WEIGHTS[::-1])
    found = hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    assert reason_of(lfs, part, UNKNOWN) == f"what it sends (sha256 {found}) is not what it announces ({SHA256})"
    assert part.read_bytes() == b""


def test_lfs_errors_are_reported(site: Site, lfs: GitLfsSource, part: Path) -> None:
    where = "/owner/repository/raw/main/folder/weights.pth"
    at_batch = "/owner/repository.git/info/lfs/objects/batch"
    gone = {"error": {"code": 404, "message": "Object does not exist"}}
    cases: list[tuple[str, Route, str]] = [
        (f"/objects/{SHA256}", status(403), "403 Forbidden"),
        (at_batch, batch(site, **gone), "the LFS server refuses it (404: Object does not exist)"),
        (at_batch, lambda _: as_json({"objects": []}), "the LFS server gives no link to the file"),
        (at_batch, lambda _: Reply(200, b"<html>"), "the LFS server gives no link to the file"),
        (at_batch, linking("http://[nowhere"), "the request failed (Invalid IPv6 URL)"),
        (at_batch, linking(7), "7 is not an http address"),
        (at_batch, linking("ftp://127.0.0.1/w"), "ftp://127.0.0.1/w is not an http address"),
        (where, static(b"weights"), "folder/weights.pth is no Git LFS pointer there"),
        (where, static(pointer("1" * 64)), f"folder/weights.pth is another file there now (sha256 {'1' * 64})"),
        (where, status(404), "404 Not Found"),
    ]
    for path, route, reason in cases:
        site.routes[path] = route
        assert reason_of(lfs, part) == reason


def test_pointers_on_github_are_read_from_its_raw_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read(address: Any, *_: Any, **__: Any) -> bytes:
        asked.append(address.url)
        return pointer()

    monkeypatch.setattr("checkpoints.sources.git_lfs.read", read)
    GitLfsSource("https://github.com/owner/name", "master", "a b.pth")._read_pointer(FILE)
    GitLfsSource("https://huggingface.co/spaces/o/n", "main", "a.ckpt")._read_pointer(FILE)
    assert asked == [
        "https://raw.githubusercontent.com/owner/name/master/a%20b.pth",
        "https://huggingface.co/spaces/o/n/raw/main/a.ckpt",
    ]


# Hugging Face


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HuggingFaceSource:
    """A Hub with one file, kept on another host as the Hub keeps large ones."""
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    site.routes["/owner/name/resolve/main/folder/weights.pth"] = resolve(
        f"{site.url.replace('127.0.0.1', 'localhost')}/storage"
    )
    site.routes["/storage"] = static(WEIGHTS)
    return HuggingFaceSource("owner/name", "folder/weights.pth", patience=HASTE)


def resolve(location: str, etag: str = SHA256, size: int = len(WEIGHTS)) -> Route:
    headers = {"X-Repo-Commit": "c0ffee", "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
    return lambda _: Reply(302, b"", {"Location": location, **headers})


def test_the_hub_is_asked_and_the_file_comes_from_its_storage(
    site: Site, hub: HuggingFaceSource, part: Path
) -> None:
    assert hub.fetch(FILE, part, lambda _: None) == SHA256
    assert part.read_bytes() == WEIGHTS
    tokens = [(request.path, request.headers.get("authorization")) for request in site.requests]
    assert tokens[-2:] == [
        ("/owner/name/resolve/main/folder/weights.pth", "Bearer hf_secret"),
        ("/storage", None),
    ]
    assert hub.label == "Hugging Face (owner/name)"


def test_a_download_from_the_hub_is_continued(site: Site, hub: HuggingFaceSource, part: Path) -> None:
    site.routes["/storage"] = in_turn(static(WEIGHTS, drop_after=3_000), static(WEIGHTS))
    assert hub.fetch(UNKNOWN, part, lambda _: None) == SHA256
    assert site.requests[-1].headers["range"] == "bytes=3000-"


def test_a_small_file_of_the_hub_is_not_redirected(site: Site, hub: HuggingFaceSource, part: Path) -> None:
    site.routes["/spaces/owner/name/resolve/main/config.json"] = static(WEIGHTS, etag='"a-git-id"')
    source = HuggingFaceSource("owner/name", "config.json", type="space", patience=HASTE)
    assert source.fetch(UNKNOWN, part, lambda _: None) == SHA256


def test_hub_refusals_are_reported(site: Site, hub: HuggingFaceSource, part: Path) -> None:
    where = "/owner/name/resolve/main/folder/weights.pth"
    cases: list[tuple[Route, str]] = [
        (
            status(403, X_Error_Code="GatedRepo"),
            f"it is gated: accept its terms at {site.url}/owner/name, make a token "
            f"at {site.url}/settings/tokens and set HF_TOKEN to it",
        ),
        (
            status(401, X_Error_Code="RepoNotFound"),
            "there is no repository owner/name, or it is private "
            f"(a token from {site.url}/settings/tokens in HF_TOKEN opens it)",
        ),
        (status(404, X_Error_Code="RevisionNotFound"), "the repository has no revision main"),
        (status(404, X_Error_Code="EntryNotFound"), "the repository holds no folder/weights.pth"),
        (status(418), "the Hub answers 418"),
        (
            resolve("http://localhost/", etag="1" * 64),
            f"folder/weights.pth is another file there now (sha256 {'1' * 64})",
        ),
    ]
    for route, reason in cases:
        site.routes[where] = route
        assert reason_of(hub, part) == reason


def test_unreachable_hub_is_reported(hub: HuggingFaceSource, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert reason_of(hub, part).startswith("the Hub at http://127.0.0.1:9 did not answer (")


# T5X


OBJECTS = {
    "checkpoint": b"msgpack",
    "target.a/.zarray": b"{}",
    "target.a/0.0": bytes(range(256)) * 5,
    "target.b/0.0": b"x" * 512,
}


@pytest.fixture
def bucket(site: Site) -> T5xSource:
    """A bucket that lists two objects a page."""
    items = [
        {
            "name": f"checkpoints/mt3/{name}",
            "size": str(len(content)),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        }
        for name, content in OBJECTS.items()
    ]

    def listing(request: Request) -> Reply:
        assert request.query["prefix"] == "checkpoints/mt3/"
        start = int(request.query.get("pageToken", 0))
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(items) else {}
        return as_json({"items": items[start : start + 2], **more})

    site.routes["/storage/v1/b/mt3/o"] = listing
    for name, content in OBJECTS.items():
        site.routes[f"/mt3/checkpoints/mt3/{name}"] = static(content)
    return T5xSource("mt3", "checkpoints/mt3", endpoint=site.url, patience=HASTE)


def test_a_t5x_folder_becomes_one_archive(bucket: T5xSource, part: Path) -> None:
    bucket.fetch(UNKNOWN, part, lambda _: None)
    with tarfile.open(part) as archive:
        held = {member.name: archive.extractfile(member).read() for member in archive}
    assert held == OBJECTS
    assert bucket.label == "the bucket gs://mt3/checkpoints/mt3"


@pytest.mark.parametrize("cut", [0, 100, 512, 1_024, 1_100, 2_600, 5_000])
def test_a_t5x_archive_is_continued_and_is_the_same_to_the_byte(
    site: Site, bucket: T5xSource, part: Path, cut: int
) -> None:
    bucket.fetch(UNKNOWN, part, lambda _: None)
    whole = part.read_bytes()
    asked = len(site.requests)
    part.write_bytes(whole[:cut])
    bucket.fetch(UNKNOWN, part, lambda _: None)
    assert part.read_bytes() == whole
    if cut == 1_100:
        objects = [path for path in site.asked()[asked:] if path.startswith("/mt3/")]
        assert objects == [f"/mt3/checkpoints/mt3/{name}" for name in list(OBJECTS)[1:]]


def test_bucket_errors_are_reported(site: Site, bucket: T5xSource, part: Path) -> None:
    listing: Callable[[Request], Reply] = site.routes["/storage/v1/b/mt3/o"]
    cases: list[tuple[str, Route, str]] = [
        ("/storage/v1/b/mt3/o", lambda _: as_json({}), "the folder is empty"),
        ("/storage/v1/b/mt3/o", lambda _: as_json([]), "the bucket's listing cannot be understood"),
        ("/storage/v1/b/mt3/o", redirect("/storage/v1/b/mt3/o"), "it redirects without end"),
        ("/storage/v1/b/mt3/o", listing, ""),
        (
            "/mt3/checkpoints/mt3/target.b/0.0",
            static(b"y" * 512),
            "target.b/0.0 is damaged on the way (its MD5 is not the listed one)",
        ),
    ]
    for path, route, reason in cases:
        site.routes[path] = route
        if reason:
            assert reason_of(bucket, part, UNKNOWN) == reason
