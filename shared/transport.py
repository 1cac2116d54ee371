"""Celery's Redis transport, hardened: a foreign message in the list is dropped instead of ending the worker.

Celery trusts the messages in its queue. Invalid JSON, or a header that is missing or of the wrong type, raises in
the worker's event loop and ends the process; its successor reads the next message. So each message is rebuilt from
the few fields in use, before Celery sees it.
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
    """Return a wake message with the original's ids and nothing else; None for a foreign message."""
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
    """Reads messages from the list."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, RedisError, *self.connection_errors):
            raise  # not caused by a message
        except Exception as error:
            log.warning("foreign_message_dropped", error=repr(error)[:200])
            raise Empty from None


class Transport(redis.Transport):
    """Delivers messages to Celery."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if (rebuilt := rebuild(message)) is None:
            log.warning("foreign_message_dropped", message=repr(message)[:200])
        else:
            rebuilt["properties"]["delivery_info"]["routing_key"] = queue
            super()._deliver(rebuilt, queue)  # type: ignore[no-untyped-call]
