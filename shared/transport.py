"""Celery's Redis transport, hardened: what others put on our list is dropped instead of ending the worker.

Celery trusts the messages of its queue. Text that is no JSON, a missing header or one of the wrong type raises in
the worker's event loop, and the process ends; the next one takes the next message. So each message is built anew
from the few fields that we use, before Celery sees it.
"""

from __future__ import annotations

import base64
import json
from queue import Empty
from typing import Any

from kombu.transport import redis
from redis.exceptions import RedisError

from shared.logs import get_logger
from shared.queue import OLD_TASK, WAKE_TASK

NO_ARGUMENTS = base64.b64encode(json.dumps([[], {}, {}]).encode()).decode()

log = get_logger(__name__)


def rebuild(message: Any) -> dict[str, Any] | None:
    """Return a wake with the message's ids and nothing else; None for a foreign message."""
    try:
        headers, properties = message["headers"], message["properties"]
        task, task_id, tag = headers["task"], headers["id"], properties["delivery_tag"]
    except (LookupError, TypeError):
        return None
    if not all(isinstance(text, str) for text in (task, task_id, tag)) or task not in (WAKE_TASK, OLD_TASK):
        return None
    return {
        "body": NO_ARGUMENTS,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": WAKE_TASK, "id": task_id, "root_id": task_id, "lang": "py"},
        "properties": {
            "correlation_id": task_id,
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": ""},
            "body_encoding": "base64",
        },
    }


class Channel(redis.Channel):
    """Reads the list."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, RedisError, *self.connection_errors):
            raise  # nothing that a message did
        except Exception as error:
            log.warning("foreign_message_dropped", error=repr(error)[:200])
            raise Empty from None


class Transport(redis.Transport):
    """Hands messages to Celery."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if (ours := rebuild(message)) is None:
            log.warning("foreign_message_dropped", message=repr(message)[:200])
        else:
            ours["properties"]["delivery_info"]["routing_key"] = queue
            super()._deliver(ours, queue)  # type: ignore[no-untyped-call]
