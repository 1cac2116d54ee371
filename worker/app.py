"""The worker process: `celery --app worker.app worker`. The environment is read here, once."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from functools import cache
from typing import Any

from celery.apps import worker as celery_worker
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down

from checkpoints.catalog import BUILT_IN, load_catalog
from checkpoints.errors import CheckpointError
from checkpoints.locks import ClusterLocks
from checkpoints.mirror import open_mirror
from checkpoints.own import own_weights, variable_of
from checkpoints.store import CheckpointStore
from mt3_infer.audio import DecodeLimits
from shared import startup
from shared.config import read_settings, refuse_start
from shared.db import make_engine, make_sessions
from shared.default_model import AUTO, PREFERENCE
from shared.logs import configure_logs, get_logger
from shared.metrics import serve_metrics
from shared.model_reports import report_installed
from shared.queue import WAKE_TASK, BackgroundQueue, CeleryQueue, make_celery
from shared.startup import missing_file
from shared.storage import make_storage
from shared.tracing import configure_tracing, flush
from worker.background_fetch import BackgroundFetch
from worker.context import Services
from worker.deliveries import Deliveries
from worker.engine import TranscriptionEngine
from worker.liveness import Liveness, Registration, Watchdog, loop_step
from worker.liveness_file import liveness_file
from worker.metrics import EngineCollector
from worker.runner import Runner

# Emitted whenever Redis disconnects, about a setting that `make_celery` sets explicitly.
warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)

log = get_logger(__name__)
settings = read_settings()
try:
    catalog = load_catalog(settings.checkpoint_catalog or BUILT_IN)
    own = own_weights(catalog)
except CheckpointError as error:
    refuse_start(str(error))
if missing := missing_file({variable_of(name): path for name, path in own.items()}, settings.sound_font):
    refuse_start(missing)
app = make_celery(settings)
stopping = threading.Event()
draining = threading.Event()
liveness = Liveness(
    stall_seconds=settings.stall_seconds,
    loop_seconds=settings.liveness_seconds,
    check_redis=lambda: startup.check_redis(settings),
)
app.steps["consumer"].add(loop_step(liveness))


@cache
def services() -> Services:
    """Return what all attempts of this process share, created on first use."""
    return Services(
        settings=settings,
        sessions=make_sessions(make_engine(settings)),
        storage=make_storage(settings),
        engine=TranscriptionEngine(
            CheckpointStore(
                settings.checkpoint_dir,
                offline=settings.offline,
                licenses=settings.licenses,
                catalog=catalog,
                own=own,
                locks=ClusterLocks.from_url(settings.redis_url),
                mirror=open_mirror(settings.checkpoint_mirror) if settings.checkpoint_mirror else None,
            ),
            device=settings.device,
            max_audio_seconds=settings.max_audio_seconds,
            estimates=settings.estimates,
            limits=DecodeLimits(settings.probe_seconds, settings.probe_memory_bytes),
            sound_font=settings.sound_font,
        ),
        queue=BackgroundQueue(CeleryQueue(app)),
        worker=f"{socket.gethostname()}:{os.getpid()}",
        stopping=stopping,
        draining=draining,
        liveness=liveness,
    )


@cache
def registration() -> Registration:
    """Return this worker's entry in the registry, created on first use."""
    threads = settings.worker_concurrency
    return Registration(services().sessions, services().worker, threads=threads, draining=draining)


@app.task(name=WAKE_TASK)  # type: ignore[untyped-decorator]
def wake() -> None:
    """Run items until nothing is due."""
    Runner(services()).drain()


@setup_logging.connect  # type: ignore[untyped-decorator]
def _setup_logging(**_: Any) -> None:
    configure_logs(settings)
    configure_tracing("mt3-worker")
    celery_worker.safe_say = lambda *_: None  # it writes lines of its own to stderr, which are not in our format


@worker_init.connect  # type: ignore[untyped-decorator]
def _wait_for_dependencies(**_: Any) -> None:
    """Wait before the first message is read: without these dependencies an attempt could only fail."""
    configure_logs(settings)  # Celery sends this signal before `setup_logging`
    Watchdog(liveness, liveness_file(settings)).start()
    startup.wait_for("database", lambda: startup.check_database(services().sessions))
    startup.wait_for("storage", lambda: startup.check_storage(services().storage))
    startup.wait_for("redis", lambda: startup.check_redis(settings))


@worker_ready.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    try:
        with services().sessions.begin() as session:
            report_installed(session, services().engine.installed())
    except Exception as error:
        log.warning("model_report_failed", error=str(error))
    registration().start()
    log.info("worker_started", worker=services().worker)
    deliveries().start()
    engine = services().engine
    serve_metrics(settings, EngineCollector(engine, engine.checkpoint_dir))
    if settings.default_model == AUTO:
        BackgroundFetch(
            services().engine,
            services().sessions,
            models=PREFERENCE[::-1],
            in_use=PREFERENCE[-1],
            stopping=stopping,
        ).start()


@cache
def deliveries() -> Deliveries:
    """Return the threads that send webhooks, created on first use."""
    return Deliveries(services())


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_attempts(**_: Any) -> None:
    liveness.ending()
    stopping.set()  # running attempts are released at their next sign of progress


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    deliveries().join()
    registration().end()
    flush()
