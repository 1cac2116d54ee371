"""A partial file never counts as complete, whether catalog, server, pointer or wheel states its size."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.catalog import Catalog, Entry, load_catalog
from checkpoints.errors import CheckpointError, ChecksumError, DownloadError, SourceError
from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.http import Address, Patience, read
from checkpoints.sources.git_lfs import GitLfsSource
from checkpoints.sources.huggingface import HuggingFaceSource
from checkpoints.sources.url import UrlSource
from checkpoints.sources.wheel import WheelSource
from checkpoints.store import CheckpointStore
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS, FakeSource, delivers
from tests.web_server import Reply, Request, Route, Site, as_json, in_turn, static

HASTE = Patience(tries=2, timeout=2, backoff=0.01)
UNKNOWN = CheckpointFile("weights.bin", 0, None, ())
HALF = WEIGHTS[: len(WEIGHTS) // 2]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.touch()
    return path


def fetch(root: Path, file: CheckpointFile, source: object) -> bytes:
    """Have a store install a file from one source."""
    file = replace(file, sources=(SourceSpec("only", {}),))
    store = CheckpointStore(
        root,
        catalog=Catalog({"tiny": Entry("tiny", (), "", "", "", (file,))}),
        open_source=lambda spec: source,  # type: ignore[arg-type, return-value]
    )
    return (store.fetch("tiny") / file.name).read_bytes()


def endless(content: bytes) -> Route:
    """Send a body whose end is the end of the connection."""
    return lambda _: Reply(200, content, {"Content-Length": "", "Connection": "close"})


@pytest.mark.parametrize("served", [static(HALF), static(WEIGHTS[:-1]), static(WEIGHTS + b"?"), endless(HALF)])
def test_a_file_of_another_size_than_the_row_states_is_refused(site: Site, tmp_path: Path, served: Route) -> None:
    site.routes["/w"] = served
    row = CheckpointFile("weights.bin", len(WEIGHTS), None, (), estimated=False)
    with pytest.raises(ChecksumError, match="bytes, not 10,240"):
        fetch(tmp_path, row, UrlSource(f"{site.url}/w", HASTE))
    assert list((tmp_path / "tiny").iterdir()) == []
    site.routes["/w"] = static(WEIGHTS)
    assert fetch(tmp_path, row, UrlSource(f"{site.url}/w", HASTE)) == WEIGHTS


@pytest.mark.parametrize("size", [20_000, 5_000])
def test_a_file_that_is_far_from_an_estimate_is_refused(tmp_path: Path, size: int) -> None:
    row = CheckpointFile("weights.bin", size, None, ())
    with pytest.raises(ChecksumError, match=f"it has 10,240 bytes, not about {size:,}"):
        fetch(tmp_path, row, FakeSource("s", delivers(WEIGHTS)))


def test_row_states_if_its_size_is_an_estimate(tmp_path: Path) -> None:
    row = """
        [tiny]
        aliases = []
        license = ""
        license_url = ""
        attribution = ""
        files = [{name = "w", size = 9, sources = [{kind = "url", url = "http://x"}]%s}]
        """
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for path, extra in zip(paths, ["", ", estimated = true", ", estimated = 1"], strict=True):
        path.write_text(row % extra)
    assert [load_catalog(path).entries["tiny"].files[0].exact_size for path in paths[:2]] == [9, None]
    with pytest.raises(CheckpointError, match="estimated must be true or false"):
        load_catalog(paths[2])


def zipped(content: bytes, coding: str) -> Route:
    return lambda _: Reply(200, gzip.compress(content), {"Content-Encoding": coding, "ETag": '"v1"'})


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "br", "deflate, gzip"])
def test_a_body_that_was_coded_unasked_is_refused(site: Site, part: Path, coding: str) -> None:
    site.routes["/w"] = zipped(WEIGHTS, coding)
    with pytest.raises(SourceError) as caught:
        UrlSource(f"{site.url}/w", HASTE).fetch(UNKNOWN, part, lambda _: None)
    assert str(caught.value) == f"it sends the file {coding}-coded, which was not asked for"
    assert part.read_bytes() == b""
    assert site.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "aws-chunked", ""])
def test_a_body_that_is_coded_in_name_only_is_taken(site: Site, part: Path, coding: str) -> None:
    site.routes["/w"] = lambda _: Reply(200, WEIGHTS, {"Content-Encoding": coding})
    assert UrlSource(f"{site.url}/w", HASTE).fetch(UNKNOWN, part, lambda _: None) == SHA256


def test_a_small_answer_may_be_compressed(site: Site) -> None:
    site.routes["/w"] = zipped(b"{}" * 99, "gzip")
    assert read(Address(f"{site.url}/w"), HASTE) == b"{}" * 99
    with pytest.raises(SourceError, match="more than 10 bytes"):
        read(Address(f"{site.url}/w"), HASTE, limit=10)
    whole = gzip.compress(b"{}" * 99)
    site.routes["/w"] = lambda _: Reply(200, whole, {"Content-Encoding": "gzip"}, drop_after=len(whole) - 9)
    with pytest.raises(SourceError, match="broke off"):
        read(Address(f"{site.url}/w"), HASTE)


def test_a_range_that_ends_before_the_file_does_is_continued(site: Site, part: Path) -> None:
    def piecewise(request: Request) -> Reply:
        start = int(request.headers["range"].removeprefix("bytes=").rstrip("-"))
        end = min(start + 3_000, len(WEIGHTS))
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(WEIGHTS)}", "ETag": '"v1"'}
        return Reply(206, WEIGHTS[start:end], headers)

    site.routes["/w"] = in_turn(static(WEIGHTS, drop_after=3_000), piecewise)
    source = UrlSource(f"{site.url}/w", replace(HASTE, tries=5))
    assert source.fetch(UNKNOWN, part, lambda _: None) == SHA256


def test_a_connection_that_ends_before_the_stated_length_is_no_end(site: Site, part: Path) -> None:
    site.routes["/w"] = static(WEIGHTS, drop_after=5_120, etag=None)
    with pytest.raises(SourceError, match="broke off after 5,120 of 10,240 bytes"):
        UrlSource(f"{site.url}/w", HASTE).fetch(UNKNOWN, part, lambda _: None)


@pytest.mark.parametrize("served", [static(HALF), endless(HALF), zipped(WEIGHTS, "gzip")])
def test_half_of_what_a_pointer_announces_is_refused(site: Site, tmp_path: Path, served: Route) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(WEIGHTS)}\n"
    link = {"href": f"{site.url}/objects/1"}
    site.routes |= {
        "/o/r/raw/main/w": static(pointer.encode()),
        "/o/r.git/info/lfs/objects/batch": lambda _: as_json({"objects": [{"actions": {"download": link}}]}),
        "/objects/1": served,
    }
    with pytest.raises(DownloadError):
        fetch(tmp_path, UNKNOWN, GitLfsSource(f"{site.url}/o/r", "main", "w", HASTE))
    assert not (tmp_path / "tiny" / "weights.bin").exists()


@pytest.mark.parametrize("etag", [SHA256, "a-git-id"])
@pytest.mark.parametrize("served", [static(HALF), endless(HALF), zipped(WEIGHTS, "gzip")])
def test_half_of_what_the_hub_announces_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Route, etag: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def resolve(request: Request) -> Reply:
        headers = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(WEIGHTS))}
        return Reply(200, WEIGHTS, headers) if request.method == "HEAD" else served(request)

    site.routes["/o/r/resolve/main/w"] = resolve
    with pytest.raises(DownloadError):
        fetch(tmp_path, UNKNOWN, HuggingFaceSource("o/r", "w", patience=HASTE))
    assert not (tmp_path / "tiny" / "weights.bin").exists()


def test_a_member_of_a_wheel_that_is_longer_than_the_estimate_comes_whole(tmp_path: Path, part: Path) -> None:
    content = bytes(3_000_000)
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("w", content)
    extract: Callable[..., None] = WheelSource("tiny", "1", "w")._extract
    extract(wheel, CheckpointFile("w", 10, None, ()), part, lambda _: None)
    assert part.read_bytes() == content
