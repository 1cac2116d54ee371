"""Exports in the database, on both of them: made once, again after a failure, and nothing of the job changes."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select
from uuid6 import uuid7

from shared import exports, fairness, garbage, jobs, work
from shared.db import Sessions
from shared.errors import JobNotFound, StateConflict
from shared.exports import ExportState, NewExport
from shared.kinds import EXPORT, TRANSCRIBE, Claim, Progress, Result
from shared.storage import export_prefix
from shared.tables import Export, Garbage, Job, Phase, Status, WorkItem, WorkStatus
from tests.work import (
    MAX_ATTEMPTS,
    add_job,
    claim,
    expire_lease,
    fail,
    get,
    item,
    must_claim,
    outcomes,
    release,
    renew,
    rescue,
)

CSV = NewExport("csv", {}, "1" * 64, "notes-111111111111.csv")
OPUS = NewExport("audio", {"encoding": "opus"}, "2" * 64, "preview-222222222222.opus")


def add_finished_job(sessions: Sessions) -> UUID:
    job_id = add_job(sessions)
    claimed = must_claim(sessions, job_id)
    artifact = {"name": "notes.json", "key": f"results/{job_id}/1/notes.json"}
    with sessions.begin() as session:
        assert work.complete(session, claimed, result=Result([artifact], note_count=3, audio_seconds=8.0))
    return job_id


def request(sessions: Sessions, job_id: UUID, new: NewExport = CSV) -> ExportState:
    with sessions.begin() as session:
        return exports.request_export(session, "public", job_id, new)


def state(sessions: Sessions, export: ExportState) -> ExportState:
    with sessions() as session:
        return exports.get_export(session, "public", export.job_id, export.id)


def claim_export(sessions: Sessions, job_id: UUID, number: int = 0) -> Claim:
    return must_claim(sessions, job_id, EXPORT, number)


def complete_export(sessions: Sessions, claimed: Claim) -> bool:
    name = claimed.payload["artifact"]
    key = export_prefix(claimed.job_id, claimed.number, claimed.attempt) + name
    with sessions.begin() as session:
        is_complete = work.complete(session, claimed, result_key=key)
        if is_complete:
            exports.add_artifact(session, claimed.job_id, {"name": name, "key": key})
        return is_complete


def row(sessions: Sessions, job_id: UUID) -> dict[str, Any]:
    """All columns of a job but its artifacts."""
    job = get(sessions, job_id)
    return {c.key: getattr(job, c.key) for c in Job.__mapper__.column_attrs if c.key != "artifacts"}


def test_an_export_is_queued_run_and_adds_an_artifact(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    before = row(any_sessions, job_id)
    export = request(any_sessions, job_id, OPUS)
    assert (export.status, export.fraction, export.artifact) == (WorkStatus.QUEUED, 0.0, None)
    claimed = claim_export(any_sessions, job_id)
    assert claimed.input_key == f"results/{job_id}/1/notes.json"
    assert claimed.payload["options"] == {"encoding": "opus"}
    assert state(any_sessions, export).status is WorkStatus.PROCESSING
    assert renew(any_sessions, claimed, Progress(Phase.WRITING_RESULTS, 2.0))
    assert state(any_sessions, export).fraction == 0.25
    assert row(any_sessions, job_id) == before, "Progress of an export is not the job's."
    assert complete_export(any_sessions, claimed)
    made = state(any_sessions, export)
    assert (made.status, made.fraction, made.artifact["name"]) == (WorkStatus.SUCCEEDED, 1.0, OPUS.artifact)
    assert [a["name"] for a in get(any_sessions, job_id).artifacts] == ["notes.json", OPUS.artifact]
    assert row(any_sessions, job_id) == before


def test_the_same_request_is_the_same_export_and_another_one_is_another(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    first = request(any_sessions, job_id)
    assert request(any_sessions, job_id).id == first.id
    assert request(any_sessions, job_id, OPUS).id != first.id
    complete_export(any_sessions, claim_export(any_sessions, job_id))
    again = request(any_sessions, job_id)
    assert (again.id, again.status) == (first.id, WorkStatus.SUCCEEDED)
    assert again.artifact is not None
    with any_sessions() as session:
        listed = exports.list_exports(session, "public", job_id)
    assert [(export.format, export.status) for export in listed] == [
        ("csv", WorkStatus.SUCCEEDED),
        ("audio", WorkStatus.QUEUED),
    ]


def test_equal_requests_at_once_make_one_export(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    found: list[UUID] = []
    barrier = threading.Barrier(8)

    def ask(new: NewExport) -> None:
        barrier.wait()
        found.append(request(any_sessions, job_id, new).id)

    threads = [threading.Thread(target=ask, args=(new,)) for new in [CSV, OPUS] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 2
    with any_sessions() as session:
        assert session.scalar(select(func.count()).select_from(Export)) == 2
        assert session.scalar(select(func.count()).select_from(WorkItem).where(WorkItem.kind == EXPORT)) == 2


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PROCESSING, Status.FAILED, Status.CANCELED])
def test_only_a_job_that_succeeded_can_be_exported(any_sessions: Sessions, status: Status) -> None:
    job_id = add_job(any_sessions)
    claimed = None if status is Status.QUEUED else must_claim(any_sessions, job_id)
    if status is Status.FAILED and claimed:
        fail(any_sessions, claimed, retry_after=None)
    if status is Status.CANCELED:
        with any_sessions.begin() as session:
            jobs.cancel_job(session, "public", job_id)
    with pytest.raises(StateConflict, match=f"This one is {status}"):
        request(any_sessions, job_id)


def test_exports_of_other_owners_and_jobs_are_not_found(any_sessions: Sessions) -> None:
    job_id, other = add_finished_job(any_sessions), add_finished_job(any_sessions)
    export = request(any_sessions, job_id)
    with any_sessions.begin() as session:
        for owner, job in (("somebody", job_id), ("public", UUID(str(uuid7())))):
            with pytest.raises(JobNotFound):
                exports.request_export(session, owner, job, CSV)
            with pytest.raises(JobNotFound):
                exports.list_exports(session, owner, job)
        for owner, job, export_id in (
            ("somebody", job_id, export.id),
            ("public", other, export.id),
            ("public", job_id, UUID(str(uuid7()))),
        ):
            with pytest.raises(JobNotFound):
                exports.get_export(session, owner, job, export_id)
        assert exports.list_exports(session, "public", other) == []


def test_an_export_that_fails_leaves_the_job_and_may_be_asked_for_again(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    before = row(any_sessions, job_id)
    export = request(any_sessions, job_id)
    claimed = claim_export(any_sessions, job_id)
    assert fail(any_sessions, claimed, retry_after=None)
    failed = state(any_sessions, export)
    assert (failed.status, failed.error_code, failed.error_detail) == (WorkStatus.FAILED, "broken", "It broke.")
    assert row(any_sessions, job_id) == before
    again = request(any_sessions, job_id)
    assert (again.id, again.status, again.error_code) == (export.id, WorkStatus.QUEUED, None)
    assert complete_export(any_sessions, claim_export(any_sessions, job_id))
    assert not complete_export(any_sessions, claimed), "The earlier attempt is stale."
    assert row(any_sessions, job_id) == before


def test_an_export_that_dies_with_its_worker_is_made_again_and_fails_after_all_attempts(
    any_sessions: Sessions,
) -> None:
    job_id = add_finished_job(any_sessions)
    before = row(any_sessions, job_id)
    export = request(any_sessions, job_id)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claimed = claim_export(any_sessions, job_id)
        assert claimed.attempt == attempt
        expire_lease(any_sessions, claimed)
        is_last = attempt == MAX_ATTEMPTS
        assert rescue(any_sessions) == (([], [(EXPORT, 0)]) if is_last else ([(EXPORT, 0)], []))
        assert not complete_export(any_sessions, claimed)
        assert row(any_sessions, job_id) == before
    assert state(any_sessions, export).error_code == "worker_lost"


def test_a_worker_that_shuts_down_gives_an_export_back(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    before = row(any_sessions, job_id)
    export = request(any_sessions, job_id)
    assert release(any_sessions, claim_export(any_sessions, job_id))
    assert state(any_sessions, export).status is WorkStatus.QUEUED
    assert row(any_sessions, job_id) == before
    assert item(any_sessions, job_id, EXPORT).attempts_counted == 0


def test_cancel_and_retry_of_the_job_leave_its_exports(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    export = request(any_sessions, job_id)
    with any_sessions.begin() as session:
        for change in (jobs.cancel_job, jobs.retry_job):
            with pytest.raises(StateConflict):
                change(session, "public", job_id)
    assert state(any_sessions, export).status is WorkStatus.QUEUED


@pytest.mark.parametrize("when", ["queued", "processing", "succeeded"])
def test_exports_are_deleted_with_their_job(any_sessions: Sessions, when: str) -> None:
    job_id = add_finished_job(any_sessions)
    request(any_sessions, job_id)
    claimed = None if when == "queued" else claim_export(any_sessions, job_id)
    if when == "succeeded" and claimed:
        complete_export(any_sessions, claimed)
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
    with any_sessions() as session:
        assert session.scalar(select(func.count()).select_from(Export)) == 0
        assert session.scalar(select(func.count()).select_from(WorkItem)) == 0
        assert export_prefix(job_id) in session.scalars(select(Garbage.prefix)).all()
    if claimed:
        assert not renew(any_sessions, claimed)
        assert not complete_export(any_sessions, claimed)


def test_exports_and_results_are_kept_in_storage_as_long_as_the_job(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    request(any_sessions, job_id)
    request(any_sessions, job_id, OPUS)
    for number, attempts in ((0, 1), (1, 2)):
        for attempt in range(attempts):
            claimed = claim_export(any_sessions, job_id, number)
            if attempt + 1 < attempts:
                release(any_sessions, claimed)
        complete_export(any_sessions, claimed)
    gone = UUID(str(uuid7()))
    with any_sessions() as session:
        assert garbage.find_kept_exports(session, [job_id, gone]) == {job_id: {0, 1}}
        assert garbage.find_kept_results(session, [job_id, gone]) == {job_id: {1}}
        assert garbage.find_kept_shards(session, [job_id]) == {job_id: set()}


def test_an_export_is_short_work_that_goes_before_the_rest_of_a_long_recording(any_sessions: Sessions) -> None:
    job_id = add_finished_job(any_sessions)
    request(any_sessions, job_id)
    with any_sessions() as session:
        (found,) = fairness.candidates(session, max_attempts=1, short_for=0.0)
    assert found == item(any_sessions, job_id, EXPORT).id
    assert claim(any_sessions, job_id, TRANSCRIBE) is None
    assert outcomes(any_sessions, job_id) == ["succeeded"]
