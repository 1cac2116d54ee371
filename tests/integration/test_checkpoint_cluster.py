"""Many processes on several machines, some of which die: one download, and never a wrong file.

The machines are simulated: each has its own lock files; they share one Redis, one directory and one web server.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from checkpoints.catalog import load_catalog
from checkpoints.files import sha256_of
from checkpoints.http import Patience
from checkpoints.locks import ClusterLocks
from checkpoints.mirror import open_mirror
from checkpoints.sources.url import UrlSource
from checkpoints.store import CheckpointStore, FetchProgress
from tests import servers
from tests.integration import checkpoint_fetcher
from tests.web_server import Site, static, web_server

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
KEY = "mt3:checkpoint-lock:big"
TTL = 1.0


class Cluster:
    """A publisher, a Redis, and machines that share a directory."""

    def __init__(self, folder: Path, site: Site, redis_url: str, size: int) -> None:
        self.folder, self.site, self.redis_url, self.size = folder, site, redis_url, size
        self.content = random.Random(size).randbytes(size)
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.root = folder / "root"
        self.final = self.root / "big" / "weights.bin"
        self.catalog = folder / "catalog.toml"
        self.catalog.write_text(
            '[big]\naliases = []\nlicense = "MIT"\nlicense_url = ""\nattribution = ""\n'
            f'[[big.files]]\nname = "weights.bin"\nsize = {size}\nsha256 = "{self.sha256}"\n'
            f'sources = [{{kind = "url", url = "{site.url}/weights.bin"}}]\n'
        )

    def serve(self, seconds: float) -> None:
        """Serve the file slowly, so that a download takes this long."""
        self.site.routes["/weights.bin"] = static(self.content, rate=self.size / seconds)

    def start(self, host: str = "a") -> subprocess.Popen[bytes]:
        arguments = [self.catalog, self.root, self.folder / host, self.redis_url, TTL]
        command = [sys.executable, checkpoint_fetcher.__file__, *map(str, arguments)]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})

    def received(self) -> int:
        """Return the size of the longest partial file in bytes."""
        sizes = [0]
        for part in (self.root / "big").glob(".*.part"):
            try:
                sizes.append(part.stat().st_size)
            except FileNotFoundError:
                continue
        return max(sizes)

    def wait_for(self, share: float, process: subprocess.Popen[bytes]) -> None:
        """Wait until this many bytes have been downloaded."""

        def there() -> bool:
            assert process.poll() is None or self.final.exists()
            return self.final.exists() or self.received() >= share * self.size

        servers.wait_until(there, seconds=60, what=f"{share:.0%} of the file")

    def assert_right(self) -> None:
        """Require that the final file has the right bytes and nothing else is left."""
        assert sha256_of(self.final) == self.sha256
        assert sorted(path.name for path in self.final.parent.iterdir()) == [".verified.json", "weights.bin"]


@pytest.fixture
def make_cluster(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Cluster]]:
    with web_server() as site:

        def make(megabytes: int, redis: str = redis_url) -> Cluster:
            with Redis.from_url(redis_url) as client:
                client.delete(KEY, f"{KEY}:note")
            return Cluster(tmp_path, site, redis, megabytes * 1_000_000)

        yield make


def ended_well(processes: list[subprocess.Popen[bytes]]) -> bool:
    return [process.wait(120) for process in processes] == [0] * len(processes)


@pytest.mark.parametrize("megabytes", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_sixteen_processes_on_four_machines_cost_the_publisher_one_download(
    make_cluster: Callable[..., Cluster], megabytes: int
) -> None:
    cluster = make_cluster(megabytes)
    cluster.serve(seconds=2)
    assert ended_well([cluster.start(f"host{number % 4}") for number in range(16)])
    assert cluster.site.served == cluster.size
    assert len(cluster.site.requests) == 1
    cluster.assert_right()


@pytest.mark.parametrize(
    ("megabytes", "rounds", "kills"), [(10, 1, 4), pytest.param(20, 50, 10, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(3600)
def test_killed_downloads_are_continued(
    make_cluster: Callable[..., Cluster], megabytes: int, rounds: int, kills: int
) -> None:
    cluster = make_cluster(megabytes)
    cluster.serve(seconds=2)
    for number in range(rounds):
        chance = random.Random(number)
        cluster.final.unlink(missing_ok=True)
        cluster.site.served = 0
        for share in sorted(chance.uniform(0.02, 0.95) for _ in range(kills)):
            process = cluster.start(f"host{chance.randrange(4)}")
            cluster.wait_for(share, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not cluster.final.exists()
            _assert_lease_ends(cluster)
        assert ended_well([cluster.start()])
        cluster.assert_right()
        assert cluster.site.served <= 1.15 * cluster.size


def _assert_lease_ends(cluster: Cluster) -> None:
    with Redis.from_url(cluster.redis_url) as client:
        assert client.pttl(KEY) <= TTL * 1000
        servers.wait_until(lambda: not client.exists(KEY), seconds=TTL + 0.5, what="the end of the lease")


def test_redis_dying_during_a_download_does_no_harm(make_cluster: Callable[..., Cluster]) -> None:
    with servers.redis_server() as redis_url:
        cluster = make_cluster(5, redis_url)
        cluster.serve(seconds=2)
        first = cluster.start("host0")
        cluster.wait_for(0.2, first)
    second = cluster.start("host1")
    assert ended_well([first, second])
    cluster.assert_right()


def test_two_downloaders_after_a_lost_lease_both_succeed(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(5)
    cluster.serve(seconds=2)
    first = cluster.start("host0")
    cluster.wait_for(0.2, first)
    with Redis.from_url(cluster.redis_url) as client:
        assert client.delete(KEY) == 1
    second = cluster.start("host1")
    assert ended_well([first, second])
    assert len(cluster.site.requests) > 1, "the lease was not lost: this test shows nothing"
    assert sha256_of(cluster.final) == cluster.sha256


def test_waiters_on_another_machine_see_the_progress(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(5)
    cluster.serve(seconds=2)
    holder = cluster.start("host0")
    cluster.wait_for(0.1, holder)
    locks = ClusterLocks.from_url(cluster.redis_url, ttl=TTL)
    store = CheckpointStore(
        cluster.folder / "a directory of its own",
        catalog=load_catalog(cluster.catalog),
        locks=locks,
        mirror=open_mirror(f"{cluster.site.url}/mirror"),
    )
    seen: list[FetchProgress] = []

    def see(progress: FetchProgress) -> None:
        seen.append(progress)
        cluster.serve(seconds=0.1)  # the test's own download, later, need not be slow

    store.fetch("big", see)
    assert ended_well([holder])
    reports = [progress for progress in seen if progress.waiting and progress.bytes_done]
    assert reports
    assert all(progress.bytes_per_second > 0 and progress.seconds_left is not None for progress in reports)
    locks.client.close()


def test_machines_that_share_a_directory_read_the_mirror(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(5)
    cluster.site.routes["/mirror/big/weights.bin"] = static(cluster.content, rate=5e6)
    monkeypatch.setenv("MT3_CHECKPOINT_MIRROR", f"{cluster.site.url}/mirror")
    assert ended_well([cluster.start(f"host{number % 3}") for number in range(6)])
    assert set(cluster.site.asked()) == {"/mirror/big/weights.bin"}
    cluster.assert_right()


# S3


@pytest.fixture
def s3_mirror(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MT3_S3_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("MT3_S3_ACCESS_KEY_ID", servers.S3_KEY)
    monkeypatch.setenv("MT3_S3_SECRET_ACCESS_KEY", servers.S3_SECRET)
    return f"s3://{servers.S3_BUCKET}/{tmp_path.name}"


def test_a_mirror_on_s3_is_filled_read_and_resumed(make_cluster: Callable[..., Cluster], s3_mirror: str) -> None:
    cluster = make_cluster(12)  # more than one part of a multipart upload
    cluster.site.routes["/weights.bin"] = static(cluster.content)
    catalog = load_catalog(cluster.catalog)
    CheckpointStore(cluster.root, catalog=catalog, mirror=open_mirror(s3_mirror)).fetch("big")
    served = cluster.site.served
    part = cluster.folder / "b" / "big" / f".weights.bin.{'0' * 32}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(cluster.content[:7_000_000])
    second = CheckpointStore(cluster.folder / "b", catalog=catalog, mirror=open_mirror(s3_mirror))
    assert sha256_of(second.fetch("big", source="mirror") / "weights.bin") == cluster.sha256
    assert cluster.site.served == served == cluster.size


# Speed


@pytest.mark.soak
def test_a_download_is_nearly_as_fast_as_curl(tmp_path: Path) -> None:
    """Including the checksum, on the same file from the same server, alternating: the best of seven each."""
    (tmp_path / "www").mkdir()
    path = tmp_path / "www" / "weights.bin"
    path.write_bytes(random.randbytes(200_000_000))
    port = servers.free_port()
    command = [str(servers.BIN / "rclone"), "serve", "http", "--addr", f"127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}/weights.bin"
    entry = load_catalog().entries["basic_pitch"]
    file = replace(entry.files[0], size=path.stat().st_size, sha256=sha256_of(path))
    ours, curls = [], []
    with servers.running([*command, "--config", os.devnull, str(path.parent)]):
        servers.wait_until(lambda: servers.accepts(port), what="the server")
        for _ in range(7):
            part = tmp_path / "part"
            begun = time.monotonic()
            subprocess.run(["curl", "--silent", "--output", part, url], check=True)
            curls.append(time.monotonic() - begun)
            part.write_bytes(b"")
            begun = time.monotonic()
            assert UrlSource(url, Patience()).fetch(file, part, lambda _: None) == file.sha256
            ours.append(time.monotonic() - begun)
            part.unlink()
    ratio = min(curls) / min(ours)
    assert ratio >= 0.8, f"{ratio:.2f} of curl's speed"
