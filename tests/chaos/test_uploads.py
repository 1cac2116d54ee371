"""A large upload through a connection that is cut again and again, by a client that is killed twice.

It arrives equal by sha256, and hardly anything is sent twice. The short run is in `make test`; in `make soak` the
file has MT3_TEST_SOAK_UPLOAD_BYTES (1 GB) and parts of the default size.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.chaos.cutting_proxy import CuttingProxy

CUTS, FEW_CUTS, KILLS = 20, 8, 2
MOST_SENT = 1.1  # times the file's size, headers included
SOAK_BYTES = int(os.environ.get("MT3_TEST_SOAK_UPLOAD_BYTES", 10**9))
# Sends the file, from where the process before it ended; prints the upload's id.
CLIENT = """
import sys
from pathlib import Path
from mt3_infer.client.transport import Transport
from mt3_infer.client.uploading import Journal, upload_in_parts
url, file, journal = sys.argv[1:]
transport = Transport(url, None, timeout=60, patience=120)
print(upload_in_parts(transport, Path(file), Journal(Path(journal)), lambda done, total: None))
"""


class Client:
    """The client as a process of its own."""

    def __init__(self, folder: Path, file: Path) -> None:
        self._arguments = [str(file), str(folder / "journal")]
        self._process: subprocess.Popen[str] | None = None
        self.kills = 0

    def run(self, url: str) -> str:
        """Start it, and again each time that it is killed; return the id of the upload."""
        command = [sys.executable, "-c", CLIENT, url, *self._arguments]
        while True:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            output, _ = self._process.communicate(timeout=1800)
            if self._process.returncode == 0:
                return output.strip()
            assert self._process.returncode == -9, self._process.returncode

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self.kills += 1


def make_file(path: Path, size: int) -> str:
    """Write a file of random bytes; return its sha256."""
    numbers, digest = random.Random(size), hashlib.sha256()
    with path.open("wb") as file:
        while (left := size - file.tell()) > 0:
            piece = numbers.randbytes(min(left, 1 << 20))
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@contextmanager
def service(
    folder: Path, kind: str, part_bytes: int, client: Client, size: int, cuts: int
) -> Iterator[tuple[str, CuttingProxy]]:
    """Run a web process; yield its address, and the proxy that the bytes of the file pass through."""
    numbers = random.Random(size)
    places = [numbers.uniform(0.02, 0.98) * size for _ in range(cuts)]
    events = [(round(place), lambda: None) for place in places]
    events += [(round(place * size), client.kill) for place in (0.35, 0.7)]
    settings = {"MT3_UPLOAD_PART_BYTES": str(part_bytes)}
    if kind == "local":
        with (
            servers.web_process(folder, workers=1, **settings) as url,
            CuttingProxy(int(url.rpartition(":")[2]), events) as proxy,
        ):
            yield f"http://127.0.0.1:{proxy.port}", proxy
        return
    with servers.s3_server(folder) as s3, CuttingProxy(int(s3.rpartition(":")[2]), events) as proxy:
        settings |= {
            "MT3_STORAGE_URL": f"s3://{servers.S3_BUCKET}/uploads-test",
            "MT3_S3_ENDPOINT_URL": s3,
            "MT3_S3_PUBLIC_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "MT3_S3_ACCESS_KEY_ID": servers.S3_KEY,
            "MT3_S3_SECRET_ACCESS_KEY": servers.S3_SECRET,
        }
        with servers.web_process(folder, workers=1, **settings) as url:
            yield url, proxy


def upload_through_cuts(folder: Path, kind: str, size: int, part_bytes: int, cuts: int) -> None:
    file = folder / "song.wav"
    sha256 = make_file(file, size)
    client = Client(folder, file)
    begun = time.monotonic()
    with service(folder, kind, part_bytes, client, size, cuts) as (url, proxy):
        upload_id = client.run(url)
        seconds = time.monotonic() - begun
        upload = httpx2.get(f"{url}/v1/uploads/{upload_id}").json()
    assert (upload["status"], upload["size"], upload["sha256"]) == ("completed", size, sha256)
    inside = "storage" if kind == "local" else f"s3/{servers.S3_BUCKET}/uploads-test"
    arrived = hashlib.sha256((folder / inside / "uploads" / upload_id / "audio").read_bytes()).hexdigest()
    assert arrived == sha256
    assert (proxy.cuts, client.kills) == (cuts + KILLS, KILLS)
    print(f"\n{kind}: {size / 1e6:,.0f} MB, {proxy.sent / size:.3f} times sent, {seconds:.0f} s")
    assert proxy.sent <= MOST_SENT * size


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_interrupted_upload_arrives(tmp_path: Path, kind: str) -> None:
    upload_through_cuts(tmp_path, kind, size=4_000_000, part_bytes=32 * 1024, cuts=FEW_CUTS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_large_interrupted_upload_arrives(tmp_path: Path, kind: str) -> None:
    upload_through_cuts(tmp_path, kind, size=SOAK_BYTES, part_bytes=5 * 1024**2, cuts=CUTS)
