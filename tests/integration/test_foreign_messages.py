"""Foreign messages in the queue do not keep the worker from its own."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from uuid6 import uuid7

from migrations import upgrade
from shared import jobs
from shared.config import Settings
from shared.db import make_engine, make_sessions
from shared.queue import QUEUE_NAME, WAKE_TASK, CeleryQueue, make_celery
from shared.storage import make_storage, upload_prefix
from tests import servers

ROOT = Path(__file__).parents[2]
WRONG: list[Any] = [None, 0, -1.5, True, "", "x", "\x00", [], ["x"], {}, {"x": []}, 10**400, "2999-01-01T00:00:00"]

pytestmark = pytest.mark.integration


def mutations(value: Any) -> Iterator[Any]:
    """Yield variants of a value with each part, at any depth, removed or replaced by another type."""
    yield from WRONG
    if isinstance(value, dict):
        for key in value:
            yield {name: part for name, part in value.items() if name != key}
            for part in mutations(value[key]):
                yield {**value, key: part}
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value[:index] + value[index + 1 :]
            for part in mutations(value[index]):
                yield [*value[:index], part, *value[index + 1 :]]


def garbage(real: bytes) -> Iterator[bytes]:
    yield from (b"", b"\xff\xfe", b"hello", b"{", b"[" * 100_000, b"1" * 10_000, b"NaN", real[:-10], real + b"x")
    yield b'{"__type__": "uuid", "__value__": "x"}'
    message = json.loads(real)
    for mutated in mutations(message):
        yield json.dumps(mutated).encode()
    for content_type in ("application/x-python-serialize", "application/x-yaml", "text/plain", "x" * 5000):
        yield json.dumps({**message, "content-type": content_type}).encode()
    for task in ("celery.backend_cleanup", "celery.chain", "os.system", "mt3", WAKE_TASK.upper()):
        yield json.dumps({**message, "headers": {**message["headers"], "task": task}}).encode()
    for body in mutations(json.loads(base64.b64decode(message["body"]))):
        yield json.dumps({**message, "body": base64.b64encode(json.dumps(body).encode()).decode()}).encode()


def test_worker_survives_any_foreign_message(settings: Settings, tmp_path: Path) -> None:
    upgrade(settings)
    sessions, storage = make_sessions(make_engine(settings)), make_storage(settings)
    job_id = UUID(str(uuid7()))
    stored = storage.put(upload_prefix(job_id) + "audio", io.BytesIO(b"no audio"), content_type="audio/wav")
    new = jobs.NewJob(job_id, "public", "basic_pitch", {}, {}, None, stored.key, stored.size)
    with servers.redis_server() as redis_url, Redis.from_url(redis_url) as redis:
        queue = CeleryQueue(make_celery(settings.model_copy(update={"redis_url": redis_url})))
        queue.notify()
        real: Any = redis.rpop(QUEUE_NAME)
        sent = list(garbage(real))
        assert len(sent) > 300
        redis.lpush(QUEUE_NAME, *sent)

        environment = {
            "MT3_DATABASE_URL": settings.database_url,
            "MT3_STORAGE_URL": settings.storage_url,
            "MT3_REDIS_URL": redis_url,
            "MT3_LIVENESS_FILE": str(tmp_path / "alive"),
            "PYTHONPATH": str(ROOT),
        }
        celery = [sys.executable, "-m", "celery", "--quiet", "--app", "worker.app", "worker", "--without-gossip"]
        log = tmp_path / "worker.log"
        with servers.running(celery, environment=environment, log=log, cwd=tmp_path) as worker:
            servers.wait_until(
                lambda: worker.poll() is not None or redis.llen(QUEUE_NAME) == 0, seconds=120, what="an empty list"
            )
            assert worker.poll() is None, log.read_text()[-3000:]
            jobs.create_job(sessions, new)
            queue.notify()

            def has_ended() -> bool:
                with sessions() as session:
                    return jobs.get_job(session, "public", job_id).status.is_final

            servers.wait_until(lambda: worker.poll() is not None or has_ended(), seconds=60, what="the job's end")
            assert worker.poll() is None, log.read_text()[-3000:]
            assert redis.hlen("unacked") == 0, "nothing comes back after the visibility timeout"
    assert "foreign_message_dropped" in log.read_text()
