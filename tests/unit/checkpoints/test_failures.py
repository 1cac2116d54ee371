"""Failures between a web server and the disk raise one clear sentence and leave at most a part file."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints.catalog import Catalog, Entry
from checkpoints.errors import (
    CheckpointError,
    ChecksumError,
    DiskSpaceError,
    DownloadError,
    OfflineError,
    StoreNotWritableError,
)
from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.http import Patience
from checkpoints.sources.url import UrlSource
from checkpoints.store import CheckpointStore
from mt3_infer.utils import download as doors
from mt3_infer.utils.download import download_file, download_from_huggingface
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS
from tests.web_server import Reply, Request, Route, Site, in_turn, static, status

HASTE = Patience(tries=2, timeout=0.5, backoff=0.01)
FLIPPED = WEIGHTS[:-1] + b"?"
USAGE = namedtuple("USAGE", "total used free")


def store_at(root: Path, site: Site) -> CheckpointStore:
    """A store that knows one file, on that site, and has little patience with it."""
    file = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, (SourceSpec("url", {"url": f"{site.url}/w"}),))
    return CheckpointStore(
        root,
        catalog=Catalog({"tiny": Entry("tiny", (), "MIT", "", "", (file,))}),
        open_source=lambda spec: UrlSource(**spec.options, patience=HASTE),
    )


@pytest.mark.parametrize(
    ("route", "error", "reason", "left"),
    [
        (static(FLIPPED), ChecksumError, "what came is not weights.bin: its sha256 is {flipped}, not {sha256}", 0),
        (static(WEIGHTS[:-9]), ChecksumError, "what came is not weights.bin: it has 10,231 bytes, not 10,240", 0),
        (
            static(b"<!DOCTYPE html><title>Sign in</title>"),
            ChecksumError,
            "what came is not weights.bin: it is a web page, not the weights",
            0,
        ),
        (
            static(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
            ChecksumError,
            "what came is not weights.bin: it is a Git LFS pointer, not the weights",
            0,
        ),
        (status(404), DownloadError, "404 Not Found", 0),
        (status(403), DownloadError, "403 Forbidden", 0),
        (status(503), DownloadError, "503 Service Unavailable (2 times in a row)", 0),
        (
            static(WEIGHTS, drop_after=100, ranges=False),
            DownloadError,
            "the connection broke off after 100 of 10,240 bytes (2 times in a row)",
            100,
        ),
        (static(WEIGHTS, stall_after=100), DownloadError, "nothing came for 0.5 s (2 times in a row)", 200),
    ],
    ids=["flipped", "truncated", "html", "pointer", "404", "403", "503", "dropped", "stalled"],
)
def test_a_failed_download_is_one_sentence_and_at_most_a_part(
    site: Site, tmp_path: Path, route: Route, error: type[CheckpointError], reason: str, left: int
) -> None:
    site.routes["/w"] = route
    with pytest.raises(error) as caught:
        store_at(tmp_path, site).fetch("tiny")
    reason = reason.format(flipped=hashlib.sha256(FLIPPED).hexdigest(), sha256=SHA256)
    assert type(caught.value) is error
    assert str(caught.value) == (
        f"The checkpoint tiny could not be downloaded: weights.bin from {site.url}/w: {reason}."
    )
    parts = [path for path in (tmp_path / "tiny").iterdir() if path.suffix != ".json"]
    assert [(path.suffix, path.stat().st_size) for path in parts] == ([(".part", left)] if left else [])


def test_what_a_failed_download_left_is_continued(site: Site, tmp_path: Path) -> None:
    site.routes["/w"] = in_turn(static(WEIGHTS, drop_after=4_000), status(404), static(WEIGHTS))
    with pytest.raises(DownloadError):
        store_at(tmp_path, site).fetch("tiny")
    store_at(tmp_path, site).fetch("tiny")
    assert site.requests[-1].headers["range"] == "bytes=4000-"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_small_disk_is_reported_before_the_download(site: Site, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(56_000))
    site.routes["/w"] = static(WEIGHTS)
    with pytest.raises(DiskSpaceError) as caught:
        store_at(small_disk, site).fetch("tiny")
    assert str(caught.value).startswith(f"The checkpoint tiny needs 12,288 bytes in {small_disk}, where ")
    assert site.requests == []


def test_a_disk_that_fills_up_on_the_way_keeps_a_part_that_is_continued(
    site: Site, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "filler").write_bytes(bytes(50_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**6, 0, 10**6))
    site.routes["/w"] = static(WEIGHTS)
    with pytest.raises(DiskSpaceError) as caught:
        store_at(small_disk, site).fetch("tiny")
    assert str(caught.value) == (
        f"The disk of the checkpoint directory {small_disk} is full; what was downloaded is kept."
    )
    (small_disk / "filler").unlink()
    assert store_at(small_disk, site).fetch("tiny")


# Single files


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "UrlSource", lambda url: UrlSource(url, patience=HASTE))


@pytest.mark.usefixtures("impatient")
def test_a_file_is_downloaded_to_a_place_of_ones_own(site: Site, tmp_path: Path) -> None:
    site.routes["/w"] = static(WEIGHTS)
    path = tmp_path / "new" / "custom [1].pth"
    assert download_file(url=f"{site.url}/w", output_path=str(path), expected_sha256=SHA256.upper()) == path
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("custom [1].pth", WEIGHTS)]
    site.routes["/w"] = static(FLIPPED)
    download_file(f"{site.url}/w", path)
    assert path.read_bytes() == FLIPPED


@pytest.mark.usefixtures("impatient")
def test_a_download_of_ones_own_is_continued(site: Site, tmp_path: Path) -> None:
    site.routes["/w"] = in_turn(static(WEIGHTS, drop_after=4_000), status(404), static(WEIGHTS))
    with pytest.raises(DownloadError):
        download_file(f"{site.url}/w", tmp_path / "w.pth")
    download_file(f"{site.url}/w", tmp_path / "w.pth")
    assert site.requests[-1].headers["range"] == "bytes=4000-"
    assert (tmp_path / "w.pth").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("impatient")
def test_what_a_file_of_ones_own_must_not_be_is_refused(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    cases: list[tuple[Route, str | None, str]] = [
        (static(FLIPPED), SHA256, f"its sha256 is {hashlib.sha256(FLIPPED).hexdigest()}, not {SHA256}"),
        (static(b"<html>"), None, "it is a web page, not the weights"),
        (
            static(b"version https://git-lfs.github.com/spec/v1\n"),
            None,
            "it is a Git LFS pointer, not the weights",
        ),
        (static(b""), None, "it is empty"),
    ]
    for route, sha256, why in cases:
        site.routes["/w"] = route
        with pytest.raises(ChecksumError) as caught:
            download_file(f"{site.url}/w", path, sha256)
        assert str(caught.value) == (
            f"The file {path} could not be downloaded: w.pth from {site.url}/w: what came is not w.pth: {why}."
        )
    assert list(tmp_path.iterdir()) == []


def test_a_sum_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        download_file("http://127.0.0.1:9/w", tmp_path / "w", "abc123")
    assert str(caught.value) == "'abc123' is no SHA-256: that is 64 hexadecimal digits."


def test_offline_no_connection_is_tried(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    fetches: list[Callable[[], Any]] = [
        lambda: download_file(f"{site.url}/w", tmp_path / "w"),
        lambda: download_from_huggingface("owner/name", "w", tmp_path / "w"),
    ]
    for fetch in fetches:
        with pytest.raises(OfflineError) as caught:
            fetch()
        assert str(caught.value) == (
            "Offline mode (MT3_OFFLINE) forbids downloads: "
            f"copy the file to {tmp_path / 'w'} from another machine."
        )
    assert site.requests == []


def test_unwritable_place_is_reported(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritableError) as caught:
        download_file(f"{site.url}/w", tmp_path / "file" / "w.pth")
    assert str(caught.value) == (
        f"The folder {tmp_path / 'file'} cannot be written to ({os.strerror(errno.EEXIST)}); choose another place."
    )


def test_the_hub_is_a_door_of_its_own(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    site.routes["/owner/name/resolve/v1/folder/model.pth"] = static(WEIGHTS, etag=f'"{SHA256}"')
    path = tmp_path / "model.pth"
    assert download_from_huggingface("owner/name", "folder/model.pth", path, revision="v1") == path
    assert path.read_bytes() == WEIGHTS


def test_gated_repository_error_names_where_to_get_a_token(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def gated(_: Request) -> Reply:
        return Reply(403, b"", {"X-Error-Code": "GatedRepo"})

    site.missing = gated
    with pytest.raises(DownloadError) as caught:
        download_from_huggingface(repo_id="owner/name", filename="m.pth", output_path=tmp_path / "m.pth")
    assert str(caught.value) == (
        f"The file {tmp_path / 'm.pth'} could not be downloaded: m.pth from Hugging Face (owner/name): "
        f"it is gated: accept its terms at {site.url}/owner/name, make a token at {site.url}/settings/tokens "
        "and set HF_TOKEN to it."
    )
