"""Structured logs: events are names with fields, and every line of an attempt carries its job's id."""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any

import click
import structlog
from structlog.typing import FilteringBoundLogger

from shared.config import Settings
from shared.tracing import add_ids

# Libraries whose INFO lines duplicate those of the service.
CHATTY = (
    *("alembic", "boto3", "botocore", "s3transfer", "urllib3"),
    *("celery.app.trace", "celery.apps.worker", "celery.worker.consumer.connection", "celery.worker.strategy"),
)


def configure_logs(settings: Settings) -> None:
    """Send structlog and the standard library's loggers to stderr in one format.

    Events of our own are written at once: on their way through the standard library's loggers they would be copied
    several times, for every request that is logged.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*([] if settings.access_log else [_drop_access_log]), *shared, renderer],
        logger_factory=_Output,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel("WARNING")
    logging.captureWarnings(True)
    if settings.log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_of_thread


class _Output(structlog.WriteLogger):
    """Writes lines of the module `name` to stderr."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        self.name = name


def _drop_access_log(logger: _Output, method: str, fields: Any) -> Any:
    if logger.name == "web.request_log" and method == "info":
        raise structlog.DropEvent
    return fields


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an exception that ends a process or a thread, where a traceback would be many lines that are no JSON."""
    if not issubclass(kind, KeyboardInterrupt):
        log = get_logger(__name__)
        log.critical("uncaught_exception", exc_info=(kind, error, trace))


def _log_uncaught_of_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None:
        _log_uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a module."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def show_warning(text: str) -> None:
    """Show a warning to the person who starts a process; in a log that is JSON, as one of its lines."""
    if os.environ.get("MT3_LOG_FORMAT", "").lower() == "json":
        log = get_logger(__name__)
        log.warning("insecure", message=" ".join(text.split()))
    else:
        click.secho(text, err=True, fg="red", bold=True)
