"""Checkpoints with real services: pip's registry, and a Redis that stops and restarts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from checkpoints.locks import ClusterLocks
from checkpoints.store import CheckpointStore
from tests import servers

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("light", ["nmp.onnx"]),
        pytest.param("piano", ["2.0.conf", "2.0.pt"], marks=pytest.mark.soak, id="transkun, 50 MB"),
    ],
)
def test_checkpoint_is_extracted_from_its_wheel(tmp_path: Path, name: str, files: list[str]) -> None:
    store = CheckpointStore(tmp_path)
    directory = store.fetch(name)
    assert sorted(path.name for path in directory.iterdir() if path.name[0] != ".") == files
    store.verify(name)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        client.delete("mt3:checkpoint-lock:tiny")
        yield client


def locks(client: Redis, ttl: float = 30.0) -> ClusterLocks:
    return ClusterLocks(client, ttl)


def on_host(tmp_path: Path, name: str) -> Path:
    """Return the lock file of one of several machines."""
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name / "tiny.lock"


def test_one_of_two_machines_holds_the_lock(client: Redis, tmp_path: Path) -> None:
    first = locks(client)("tiny", on_host(tmp_path, "a"))
    second = locks(client)("tiny", on_host(tmp_path, "b"))
    assert first.acquire(0.1)
    assert not second.acquire(0.1)
    first.release()
    assert second.acquire(0.5)
    second.release()
    assert client.get("mt3:checkpoint-lock:tiny") is None


def test_a_lock_is_renewed_while_it_is_held(client: Redis, tmp_path: Path) -> None:
    held = locks(client, ttl=0.6)("tiny", on_host(tmp_path, "a"))
    assert held.acquire(0.1)
    time.sleep(1.2)
    assert not locks(client, ttl=0.6)("tiny", on_host(tmp_path, "b")).acquire(0.1)
    held.release()


def test_lock_of_a_dead_holder_expires(client: Redis, tmp_path: Path) -> None:
    client.set("mt3:checkpoint-lock:tiny", "a dead holder's token", px=300)
    heir = locks(client)("tiny", on_host(tmp_path, "a"))
    assert heir.acquire(2)
    heir.release()


def test_a_lost_lock_is_not_released_for_its_new_holder(
    client: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loser = locks(client)("tiny", on_host(tmp_path, "a"))
    assert loser.acquire(0.1)
    client.set("mt3:checkpoint-lock:tiny", "another's token")
    loser.release()
    assert client.get("mt3:checkpoint-lock:tiny") == b"another's token"
    assert "ran out before its holder was done" in caplog.text


def test_lock_file_suffices_without_redis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = servers.free_port()
    away = ClusterLocks.from_url(f"redis://127.0.0.1:{port}/0")
    path = on_host(tmp_path, "a")
    begun = time.monotonic()
    lock = away("tiny", path)
    assert lock.acquire(0.1)
    assert time.monotonic() - begun < 3
    assert "going on with the lock file alone" in caplog.text
    lock.release()
    away.client.close()


def test_redis_dying_under_a_held_lock_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with servers.redis_server() as url:
        cluster = ClusterLocks.from_url(url, ttl=0.3)
        lock = cluster("tiny", on_host(tmp_path, "a"))
        assert lock.acquire(1)
    time.sleep(0.3)
    with caplog.at_level(logging.WARNING):
        lock.release()
    assert "is not renewed" in caplog.text
    assert lock.acquire(0.1), "the lock file was not given back"
    lock.release()
    cluster.client.close()
