"""Fetching the model `auto` in the background: what is reported, and what happens if it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from structlog.testing import CapturingLogger

from checkpoints.errors import DownloadError
from checkpoints.progress import FetchProgress, ProgressCallback
from shared.db import Sessions
from shared.default_model import choose
from shared.model_reports import report_installed, report_model
from shared.tables import ModelReport
from shared.worker_registry import register
from worker.background_fetch import BackgroundFetch
from worker.engine import TranscriptionEngine

BOTH = ("basic_pitch", "mt3_pytorch")


@dataclass
class Store:
    """Stands in for the engine: installs what it fetches; `on_fetch` is called halfway and may raise."""

    on_fetch: Callable[[str], None] = lambda name: None
    has: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)

    def installed(self) -> dict[str, bool]:
        return {name: name in self.has for name in BOTH}

    def fetch(self, name: str, progress: ProgressCallback) -> None:
        self.fetched.append(name)
        if name in self.has:
            return
        progress(FetchProgress(name, "weights.bin", 50, 200, 10.0, waiting=False))
        self.on_fetch(name)
        self.has.add(name)


def fetcher(store: Store, sessions: Sessions, stopping: threading.Event | None = None) -> BackgroundFetch:
    return BackgroundFetch(
        cast(TranscriptionEngine, store),
        sessions,
        models=BOTH,
        in_use="basic_pitch",
        stopping=stopping or threading.Event(),
        retry_seconds=0.01,
    )


def report_of(sessions: Sessions, name: str) -> dict[str, Any]:
    with sessions() as session:
        report = session.get_one(ModelReport, name)
        return {"installed": report.installed, "download": report.download, "error": report.error}


def chosen(sessions: Sessions) -> str:
    with sessions() as session:
        return choose(session, BOTH)


def test_models_are_fetched_small_one_first_and_progress_is_reported(sessions: Sessions) -> None:
    seen: list[Any] = []

    def look(name: str) -> None:
        if name == "mt3_pytorch":
            seen.append((report_of(sessions, "basic_pitch"), chosen(sessions)))

    store = Store(look)
    fetcher(store, sessions).run()
    assert store.fetched == ["basic_pitch", "mt3_pytorch"]
    assert seen == [({"installed": True, "download": None, "error": None}, "basic_pitch")]
    assert report_of(sessions, "mt3_pytorch") == {"installed": True, "download": None, "error": None}
    assert chosen(sessions) == "mt3_pytorch"


def test_progress_of_a_download_is_in_the_report(sessions: Sessions) -> None:
    seen: list[Any] = []
    store = Store(lambda name: seen.append(report_of(sessions, name)), has={"basic_pitch"})
    fetcher(store, sessions).run()
    download = {"bytes_done": 50, "bytes_total": 200, "bytes_per_second": 10, "waiting": False}
    assert seen == [{"installed": False, "download": download, "error": None}]


def test_a_failure_is_reported_in_one_sentence_and_tried_again(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr("worker.background_fetch.log", log)
    failures: list[Any] = []

    def fail_twice(name: str) -> None:
        if name == "mt3_pytorch" and len(failures) < 2:
            failures.append(None)
            raise DownloadError("mt3_pytorch could not be fetched.", [])
        failures.append((report_of(sessions, "mt3_pytorch"), chosen(sessions)) if failures else None)

    store = Store(fail_twice, has={"basic_pitch"})
    fetcher(store, sessions).run()
    report, model = failures[-1]
    assert report["installed"] is False
    assert model == "basic_pitch", "in place as long as the other cannot be fetched"
    assert report_of(sessions, "mt3_pytorch") == {"installed": True, "download": None, "error": None}
    assert [call.args[0] for call in log.calls].count("background_fetch_failed") == 2


def test_a_failure_stays_in_the_report_until_the_next_try(sessions: Sessions) -> None:
    stopping = threading.Event()

    def fail(name: str) -> None:
        stopping.set()
        raise DownloadError("https://host/with/a/path: refused", [])

    fetcher(Store(fail, has={"basic_pitch"}), sessions, stopping).run()
    report = report_of(sessions, "mt3_pytorch")
    assert report["error"] == DownloadError.user_message
    assert "host" not in report["error"]


def test_a_process_that_stops_ends_the_download(sessions: Sessions) -> None:
    stopping = threading.Event()
    store = Store(has={"basic_pitch"})
    stopping.set()
    fetcher(store, sessions, stopping).run()
    assert store.fetched == []
    stopping.clear()
    original = store.fetch

    def stop_first(name: str, progress: ProgressCallback) -> None:
        stopping.set()
        original(name, progress)

    store.fetch = stop_first  # type: ignore[method-assign]
    store.has = set()
    fetcher(store, sessions, stopping).run()
    assert store.has == set()


def test_a_new_worker_does_not_revoke_what_others_have(sessions: Sessions) -> None:
    with sessions.begin() as session:
        report_model(session, "mt3_pytorch", installed=True)
        register(session, "other")
        report_installed(session, {"mt3_pytorch": False, "basic_pitch": False})
    assert chosen(sessions) == "mt3_pytorch"


def test_the_only_worker_reports_removed_weights(sessions: Sessions) -> None:
    with sessions.begin() as session:
        report_model(session, "mt3_pytorch", installed=True)
        report_installed(session, {"mt3_pytorch": False, "basic_pitch": True})
    assert chosen(sessions) == "basic_pitch"
