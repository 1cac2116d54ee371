"""Which source is asked, what a mirror saves, what a first download teaches, and bundles."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.bundle import pack, unpack
from checkpoints.catalog import Catalog
from checkpoints.errors import (
    BundleError,
    CheckpointError,
    CheckpointNotFoundError,
    ChecksumError,
    DownloadError,
    OfflineError,
    UnknownCheckpointError,
)
from checkpoints.http import Patience
from checkpoints.locks import Lock
from checkpoints.mirror import HttpMirror, S3Mirror, open_mirror
from checkpoints.store import CheckpointStore
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS, FakeSource, delivers, fails, make_store
from tests.web_server import Reply, Request, Site, static, status

HASTE = Patience(tries=2, timeout=2, backoff=0.01)
OTHER = WEIGHTS[::-1]


@pytest.fixture
def good() -> FakeSource:
    return FakeSource("the good source", delivers(WEIGHTS))


def unpinned(store: CheckpointStore) -> Catalog:
    """The same catalog, but nobody knows the sum."""
    entry = store.catalog.entries["tiny"]
    return Catalog({"tiny": replace(entry, files=(replace(entry.files[0], sha256=None, size=10_000),))})


# A choice of sources


def test_force_downloads_what_is_there(tmp_path: Path, good: FakeSource) -> None:
    store = make_store(tmp_path, {"good": good})
    store.fetch("tiny")
    store.fetch("tiny", force=True)
    assert good.calls == 2
    assert store.is_installed("tiny")


def test_only_the_chosen_kind_is_asked(tmp_path: Path, good: FakeSource) -> None:
    first = FakeSource("the first source", delivers(WEIGHTS))
    store = make_store(tmp_path, {"first": first, "good": good})
    store.fetch("tiny", source="good")
    assert (first.calls, good.calls) == (0, 1)


def test_a_kind_that_it_cannot_be_had_from_is_refused(tmp_path: Path, good: FakeSource) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_store(tmp_path, {"good": good, "also": good}).fetch("tiny", source="wheel")
    assert str(caught.value) == (
        "The checkpoint tiny is not available from 'wheel'; available sources: also, good."
    )


def test_a_part_that_spoils_the_download_is_dropped_and_the_source_asked_again(tmp_path: Path) -> None:
    def continues(part: Path, progress: Callable[[int], None]) -> None:
        with part.open("ab") as out:
            out.write(WEIGHTS[out.tell() :])

    source = FakeSource("s", continues)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / f".weights.bin.{'0' * 32}.part").write_bytes(b"spoilt")
    assert (make_store(tmp_path, {"s": source}).fetch("tiny") / "weights.bin").read_bytes() == WEIGHTS
    assert source.calls == 2


# Sums that are learnt


def test_a_first_download_pins_what_it_was(
    tmp_path: Path, good: FakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path, {"good": good})
    store = make_store(tmp_path, {"good": good}, catalog=unpinned(store))
    assert store.entry("tiny").files[0].sha256 is None
    with caplog.at_level(logging.WARNING):
        store.fetch("tiny")
    pins = tmp_path / ".pins" / "tiny.json"
    assert json.loads(pins.read_text()) == {"weights.bin": {"size": len(WEIGHTS), "sha256": SHA256}}
    assert caplog.messages == [
        "the catalog does not know the sum of weights.bin: the 10,240 bytes from the good source with the "
        f"sha256 {SHA256} are trusted, and pinned in {pins} from now on"
    ]
    assert store.entry("tiny").files[0].sha256 == SHA256
    assert store.is_installed("tiny")
    store.verify("tiny")


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, good: FakeSource) -> None:
    catalog = unpinned(make_store(tmp_path, {"good": good}))
    make_store(tmp_path, {"good": good}, catalog=catalog).fetch("tiny")
    changed = make_store(tmp_path, {"good": FakeSource("s", delivers(OTHER))}, catalog=catalog)
    changed.remove("tiny")
    with pytest.raises(ChecksumError) as caught:
        changed.fetch("tiny")
    found = hashlib.sha256(OTHER).hexdigest()
    assert str(caught.value) == (
        "The checkpoint tiny could not be downloaded: weights.bin from s: what came is not weights.bin: "
        f"its sha256 is {found}, not {SHA256}."
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the weights"),
        (b"<html>", "it is a web page, not the weights"),
        (b"", "it is empty"),
    ],
)
def test_what_cannot_be_weights_is_not_learnt(tmp_path: Path, good: FakeSource, body: bytes, why: str) -> None:
    catalog = unpinned(make_store(tmp_path, {"good": good}))
    with pytest.raises(ChecksumError, match=why):
        make_store(tmp_path, {"good": FakeSource("s", delivers(body))}, catalog=catalog).fetch("tiny")
    assert not (tmp_path / ".pins").exists()


def test_offline_a_file_of_unknown_sum_is_not_trusted(tmp_path: Path, good: FakeSource) -> None:
    catalog = unpinned(make_store(tmp_path, {"good": good}))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "weights.bin").write_bytes(WEIGHTS)
    with pytest.raises(OfflineError) as caught:
        make_store(tmp_path, {"good": good}, catalog=catalog, offline=True).fetch("tiny")
    assert "sha256 not known yet; now it is there, but its sha256 is not known yet) to" in str(caught.value)
    with pytest.raises(CheckpointNotFoundError) as unverified:
        make_store(tmp_path, {"good": good}, catalog=catalog).verify("tiny")
    assert str(unverified.value) == (
        f"The checkpoint tiny is not installed: the sha256 of {tmp_path / 'tiny' / 'weights.bin'} is unknown."
    )


# A mirror


@pytest.fixture
def mirror(site: Site) -> HttpMirror:
    """A web server that keeps what is PUT."""

    def keep(request: Request) -> Reply:
        if request.method == "PUT":
            site.routes[request.path] = static(request.body)
            return Reply(201)
        return Reply(404, b"none")

    site.missing = keep
    return HttpMirror(f"{site.url}/mirror", HASTE)


def test_the_first_to_fetch_fills_the_mirror_and_the_next_reads_it(
    site: Site, mirror: HttpMirror, tmp_path: Path, good: FakeSource
) -> None:
    make_store(tmp_path / "a", {"good": good}, mirror=mirror).fetch("tiny")
    make_store(tmp_path / "b", {"good": good}, mirror=mirror).fetch("tiny")
    assert good.calls == 1
    assert [(request.method, request.path) for request in site.requests] == [
        ("GET", "/mirror/tiny/weights.bin"),  # before the lock between machines is taken, and after
        ("GET", "/mirror/tiny/weights.bin"),
        ("PUT", "/mirror/tiny/weights.bin"),
        ("GET", "/mirror/tiny/weights.bin"),
    ]


def test_what_the_mirror_has_waits_for_no_other_machine(
    mirror: HttpMirror, tmp_path: Path, good: FakeSource
) -> None:
    mirror.put("tiny", "weights.bin", _file(tmp_path, WEIGHTS))

    def no_lock(key: str, path: Path) -> Lock:
        raise AssertionError("the lock between machines was asked for")

    assert make_store(tmp_path, {"good": good}, mirror=mirror, locks=no_lock).fetch("tiny")


def test_a_mirror_that_holds_other_bytes_is_mended(
    site: Site, mirror: HttpMirror, tmp_path: Path, good: FakeSource
) -> None:
    mirror.put("tiny", "weights.bin", _file(tmp_path, OTHER))
    assert make_store(tmp_path, {"good": good}, mirror=mirror).fetch("tiny")
    assert site.requests[-1].body == WEIGHTS


def test_a_mirror_that_takes_nothing_is_no_error(
    site: Site, tmp_path: Path, good: FakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    site.missing = status(405)
    make_store(tmp_path, {"good": good}, mirror=HttpMirror(site.url, HASTE)).fetch("tiny")
    assert "the mirror does not take tiny/weights.bin: 405 Method Not Allowed" in caplog.messages


def test_one_call_fills_the_mirror(site: Site, mirror: HttpMirror, tmp_path: Path, good: FakeSource) -> None:
    make_store(tmp_path, {"good": good}).fetch("tiny")
    store = make_store(tmp_path, {"good": good}, mirror=mirror)
    store.fill_mirror("small")
    assert "/mirror/tiny/weights.bin" in site.routes
    assert make_store(tmp_path / "b", {"good": good}, mirror=mirror).fetch("tiny", source="mirror")
    assert good.calls == 1


def test_filling_a_mirror_that_is_not_set_or_refuses_is_an_error(
    site: Site, tmp_path: Path, good: FakeSource
) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_store(tmp_path, {"good": good}).fill_mirror("tiny")
    assert str(caught.value) == "No mirror is set: MT3_CHECKPOINT_MIRROR names one."
    site.missing = status(403)
    with pytest.raises(CheckpointError) as caught:
        make_store(tmp_path, {"good": good}, mirror=HttpMirror(site.url, HASTE)).fill_mirror("tiny")
    assert str(caught.value) == "The mirror does not take tiny/weights.bin: 403 Forbidden."


def test_the_error_names_the_mirror_too(site: Site, tmp_path: Path) -> None:
    store = make_store(tmp_path, {"a": FakeSource("a", fails("b"))}, mirror=HttpMirror(site.url, HASTE))
    with pytest.raises(DownloadError) as caught:
        store.fetch("tiny")
    assert str(caught.value) == (
        "The checkpoint tiny could not be downloaded: weights.bin "
        f"from {site.url}/tiny/weights.bin: 404 Not Found; from a: b."
    )


def test_kind_of_mirror_follows_from_its_address() -> None:
    assert open_mirror("https://example.org/mt3/") == HttpMirror("https://example.org/mt3")
    opened = open_mirror("s3://bucket/a/b/", {"MT3_S3_REGION": "x"})
    assert opened == S3Mirror("bucket", "a/b", {"MT3_S3_REGION": "x"})
    assert "MT3_S3" not in repr(opened)
    with pytest.raises(CheckpointError) as caught:
        open_mirror("/srv/mirror")
    assert str(caught.value) == (
        "MT3_CHECKPOINT_MIRROR is '/srv/mirror'; it must be s3://bucket/prefix or an http address."
    )


# Bundles


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


@pytest.fixture
def archive(tmp_path: Path, good: FakeSource) -> Path:
    store = make_store(tmp_path / "online", {"good": good})
    store.fetch("tiny")
    assert pack(store, ["small"], tmp_path / "weights.tar") == ["tiny"]
    return tmp_path / "weights.tar"


@pytest.fixture
def offline(tmp_path: Path) -> CheckpointStore:
    return make_store(tmp_path / "offline", {"s": FakeSource("s", fails("no network"))}, offline=True)


def test_a_bundle_carries_checkpoints_to_a_machine_without_a_network(
    archive: Path, offline: CheckpointStore
) -> None:
    assert unpack(offline, archive) == ["tiny"]
    assert (offline.fetch("tiny") / "weights.bin").read_bytes() == WEIGHTS
    assert unpack(offline, archive) == ["tiny"]


def test_a_bundle_teaches_the_sums_that_were_learnt(archive: Path, offline: CheckpointStore) -> None:
    store = make_store(offline.root, {}, catalog=unpinned(offline), offline=True)
    unpack(store, archive)
    assert store.entry("tiny").files[0].sha256 == SHA256


def test_only_what_is_installed_and_whole_is_packed(tmp_path: Path, good: FakeSource) -> None:
    store = make_store(tmp_path, {"good": good})
    with pytest.raises(CheckpointNotFoundError):
        pack(store, ["tiny"], tmp_path / "a.tar")
    path = store.fetch("tiny") / "weights.bin"
    path.write_bytes(OTHER)
    with pytest.raises(CheckpointNotFoundError):
        pack(store, ["tiny"], tmp_path / "a.tar")
    assert not list(tmp_path.glob("*.tar*"))


def rewritten(archive: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The same archive with other contents; None leaves a member out."""
    with tarfile.open(archive) as old, tarfile.open(archive.with_name("other.tar"), "w") as new:
        for member in old:
            content = change(member.name, old.extractfile(member).read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return archive.with_name("other.tar")


def test_a_damaged_bundle_installs_nothing(archive: Path, offline: CheckpointStore) -> None:
    damaged = rewritten(archive, lambda name, content: OTHER if name.endswith(".bin") else content)
    with pytest.raises(ChecksumError) as caught:
        unpack(offline, damaged)
    assert str(caught.value).startswith(
        f"The checkpoint tiny could not be downloaded: weights.bin from the bundle {damaged}: "
        "what came is not weights.bin: its sha256 is "
    )
    assert not offline.is_installed("tiny")


def test_bundle_errors_are_reported(tmp_path: Path, archive: Path, offline: CheckpointStore) -> None:
    def error_of(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            unpack(offline, path)
        return str(caught.value)

    def manifest(old: bytes, new: bytes) -> Path:
        return rewritten(archive, lambda name, c: c.replace(old, new) if name == "bundle.json" else c)

    assert error_of(tmp_path / "none.tar") == f"There is no bundle {tmp_path / 'none.tar'}."
    page = _file(tmp_path, b"<html>")
    assert error_of(page) == f"{page} is no bundle of checkpoints."
    other = tmp_path / "other.tar"
    rewritten(archive, lambda name, content: None if name == "bundle.json" else content)
    assert error_of(other) == f"{other} is no bundle of checkpoints."
    manifest(b'"version": 1', b'"version": 2')
    assert error_of(other) == f"{other} is no bundle of checkpoints."
    manifest(b'"weights.bin"', b'"weights.bad"')
    assert error_of(other) == f"The bundle {other} lacks tiny/weights.bin."
    manifest(SHA256.encode(), b"1" * 64)
    assert error_of(other) == (
        f"The bundle {other} holds another tiny/weights.bin (sha256 {'1' * 64}) than this version uses ({SHA256})."
    )
    manifest(b'"tiny"', b'"huge"')
    with pytest.raises(UnknownCheckpointError):
        unpack(offline, other)
    rewritten(archive, lambda name, content: content if name == "bundle.json" else None)
    assert error_of(other) == (
        f"The checkpoint tiny could not be downloaded: weights.bin from the bundle {other}: "
        "it holds no tiny/weights.bin."
    )
    with pytest.raises(BundleError):
        unpack(offline, page)
