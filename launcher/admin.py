"""The command `mt3-infer admin`: what is stuck and why, draining workers, queueing again, removing, usage."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

import click
from sqlalchemy.orm import Session

from launcher.keys import open_database
from shared import backlog, jobs, operations, watches
from shared.config import read_settings
from shared.quotas import count_stored_bytes

QUIET_SECONDS = 60.0
WAITING_SECONDS = 60.0
WAIT_STEP_SECONDS = 1.0


@click.group(short_help="Operate the service: what is stuck, workers, usage.")
def admin() -> None:
    """Operate the service, by the database that MT3_DATABASE_URL names.

    By default that is the one which `mt3-infer serve` makes in this folder.
    """


@admin.command()
def status() -> None:
    """Show what waits, runs and is stuck."""
    with open_database() as session:
        work = backlog.measure(session)
        workers = operations.list_workers(session, present_only=True)
        stuck = _find_stuck(session)
    draining = sum(worker.draining_since is not None for worker in workers)
    click.echo(f"workers             {len(workers)}" + (f", {draining} of them draining" if draining else ""))
    for state, seconds in work.audio_seconds.items():
        click.echo(f"audio {state:13} {_length(seconds)}")
    click.echo(f"oldest job waiting  {_length(work.oldest_job)}")
    for (kind, state), count in sorted(work.items.items()):
        click.echo(f"{kind + ' ' + state:19} {count}")
    click.echo(f"stuck               {len(stuck)}" + (" (mt3-infer admin stuck)" if stuck else ""))


@admin.command()
def stuck() -> None:
    """List items that do not move: where, since when and why."""
    with open_database() as session:
        found = _find_stuck(session)
    lines = []
    for item in found:
        place = f" on {item.worker}" if item.worker else ""
        lines.append(f"{item.job_id} {item.kind} {item.number}{place}, for {_age(item.since)}: {item.reason}")
    _echo_lines(lines, if_none="Nothing is stuck.")


@admin.command()
def workers() -> None:
    """List the workers."""
    with open_database() as session:
        found = operations.list_workers(session)
    lines = []
    for worker in found:
        drains = f", draining for {_age(worker.draining_since)}" if worker.draining_since else ""
        lines.append(f"{worker.name}: {worker.in_hand} in hand, seen {_age(worker.seen_at)} ago{drains}")
    _echo_lines(lines, if_none="No worker is registered.")


@admin.command()
@click.argument("names", nargs=-1, metavar="[WORKER]...")
@click.option("--all", "every", is_flag=True, help="All workers that run now.")
@click.option("--undo", is_flag=True, help="Let them take items again.")
@click.option("--wait", is_flag=True, help="Return when nothing is in hand any more.")
def drain(names: Sequence[str], every: bool, undo: bool, wait: bool) -> None:
    """Let workers finish what is in hand and take no more.

    They take nothing more from now on, and can be ended without giving anything back once nothing is in hand.
    A worker that is started again takes items.
    """
    if bool(names) == every:
        raise click.UsageError("Name workers, or give --all; `mt3-infer admin workers` lists them.")
    with open_database() as session:
        found = operations.set_draining(session, None if every else names, is_draining=not undo)
    _echo_lines(found, if_none="No worker is registered." if every else "")
    if missing := sorted({*names} - {*found}):
        raise click.ClickException(
            f"There is no worker {', '.join(missing)}; `mt3-infer admin workers` lists them."
        )
    if wait and not undo:
        _wait_until_idle(found)


@admin.command()
@click.argument("job_ids", nargs=-1, required=True, type=click.UUID, metavar="ID...")
def requeue(job_ids: Sequence[UUID]) -> None:
    """Queue jobs again.

    Jobs that failed or were canceled are retried; items of those that are processing are taken from their workers.
    """
    for job_id in job_ids:
        with open_database() as session:
            done = operations.requeue(session, job_id)
        click.echo(f"{job_id}: {done}")


@admin.command()
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Jobs that ended before that.")
@click.option(
    "--unknown", is_flag=True, help="Files that no job needs, from times which the database does not know."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(older_than: float | None, unknown: bool, yes: bool) -> None:
    """Remove ended jobs with their files, or files that were kept because the database may be older."""
    if older_than is None and not unknown:
        raise click.UsageError("Give --older-than DAYS, --unknown or both.")
    if not yes:
        _confirm(older_than, unknown)
    if older_than is not None:
        count = 0
        while True:
            with open_database() as session:
                expired = jobs.expire_jobs(session, ttl_days=older_than)
            count += len(expired)
            if not expired:
                break
        click.echo(
            f"{count} {'job' if count == 1 else 'jobs'} deleted; a scheduler removes their files within minutes"
        )
    if unknown:
        with open_database() as session:
            watches.trust_all(session)
        click.echo("a scheduler removes the files with its next search, within the hour")


def _confirm(older_than: float | None, unknown: bool) -> None:
    """Ask before deleting, and name what would be deleted.

    Raises:
        click.Abort
    """
    with open_database() as session:
        count = 0 if older_than is None else operations.count_ended(session, older_than)
    what = []
    if count:
        jobs_, their = ("transcription", "its") if count == 1 else ("transcriptions", "their")
        what.append(f"{count} {jobs_} that ended more than {older_than:g} days ago, with {their} files")
    if unknown:
        what.append("the files that no transcription needs")
    if what:
        click.confirm(f"This permanently deletes {', and '.join(what)}. Go on?", abort=True, err=True)


@admin.command()
def usage() -> None:
    """Show how much each owner stores, all of them together, and the disk that is left."""
    settings = read_settings()
    with open_database() as session:
        owners = operations.measure_usage(session)
        stored = count_stored_bytes(session)
        garbage = operations.count_garbage(session)
    for owner, count, size in owners:
        click.echo(f"{owner:36} {count:8} jobs {size / 1e6:14,.1f} MB of recordings")
    limit = settings.max_stored_bytes
    of = "" if limit is None else f" of {limit / 1e6:,.1f} MB (MT3_MAX_STORED_BYTES)"
    click.echo(f"{stored / 1e6:,.1f} MB of recordings and results are stored{of}")
    click.echo(f"{garbage} {'folder' if garbage == 1 else 'folders'} in storage to be deleted")
    parts = urlsplit(settings.storage_url)
    folder = Path(unquote(parts.path))
    if parts.scheme == "file" and folder.exists():
        disk = shutil.disk_usage(folder)
        click.echo(f"{disk.free / 1e9:,.1f} GB of {disk.total / 1e9:,.1f} GB are free on the disk of the storage")


def _find_stuck(session: Session) -> list[operations.Stuck]:
    return operations.find_stuck(session, quiet_seconds=QUIET_SECONDS, waiting_seconds=WAITING_SECONDS)


def _wait_until_idle(names: Sequence[str]) -> None:
    """Wait until nothing is in hand, twice in a row: a claim that began before may be about to be committed."""
    idle = 0
    while idle < 2:
        time.sleep(WAIT_STEP_SECONDS)
        idle = 0 if _in_hand(names) else idle + 1


def _in_hand(names: Sequence[str]) -> int:
    with open_database() as session:
        return sum(worker.in_hand for worker in operations.list_workers(session) if worker.name in names)


def _echo_lines(lines: Sequence[str], *, if_none: str) -> None:
    """Print lines; without any, a sentence on standard error, so that a pipe gets nothing."""
    for line in lines:
        click.echo(line)
    if not lines and if_none:
        click.echo(if_none, err=True)


def _age(moment: datetime) -> str:
    return _length((datetime.now(UTC) - moment).total_seconds())


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
