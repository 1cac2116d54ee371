"""The commands `submit` and `jobs`: transcriptions on a service, here or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from checkpoints.cli import Bar, human_size

if TYPE_CHECKING:
    from mt3_infer.client import Client, Job

DEFAULT_SERVER = "http://127.0.0.1:8000"
MIDI = "transcription.mid"
LONG_PATIENCE = 120.0  # seconds: what is large is worth waiting for
NOTICED_SECONDS = 2.0  # a longer pause is reported


class JobId(click.ParamType[str]):
    """The id of a transcription."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id."""
        try:
            return str(UUID(str(value)))
        except ValueError:
            self.fail(f"{value!r} is not the id of a transcription: `mt3-infer jobs list` shows them.", param, ctx)


def _with_server(command: Callable[..., None], *, patience: float = 10.0) -> Callable[..., None]:
    """Add the options that name the service, and pass a client of it as the first argument.

    Args:
        patience: seconds for which requests are repeated while the service is unavailable.
    """

    @click.option(
        "--server",
        envvar="MT3_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        metavar="URL",
        help="Address of the service. [MT3_SERVER]",
    )
    @click.option("--api-key", envvar="MT3_API_KEY", metavar="KEY", help="A key of the service. [MT3_API_KEY]")
    @wraps(command)
    def connected(server: str, api_key: str | None, **arguments: Any) -> None:
        with _client(server, api_key, patience) as client:
            command(client, **arguments)

    return connected


_with_patience = partial(_with_server, patience=LONG_PATIENCE)


@contextmanager
def _client(server: str, api_key: str | None, patience: float) -> Iterator[Client]:
    """Yield a client whose errors end the command with one sentence."""
    try:
        from mt3_infer.client import Client, ClientError, UnauthorizedError, UnreachableError
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    if not server.startswith(("http://", "https://")):
        raise click.UsageError(f"--server must be an address such as {DEFAULT_SERVER}, not {server!r}.")
    try:
        with Client(server, api_key=api_key, patience=patience, on_pause=_report_pause) as client:
            yield client
    except UnauthorizedError as error:
        reason = "refuses this key: it is wrong, expired or revoked" if api_key else "needs a key"
        raise click.ClickException(
            f"The service at {server} {reason}. Pass --api-key or set MT3_API_KEY; its operator makes keys with "
            "`mt3-infer keys create`."
        ) from error
    except UnreachableError as error:
        hint = " Start one with `mt3-infer serve`, or pass --server." if server == DEFAULT_SERVER else ""
        raise click.ClickException(f"{error}{hint}") from error
    except (ClientError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _report_pause(error: Exception, seconds: float) -> None:
    if seconds >= NOTICED_SECONDS:
        click.echo(f"{error} Trying again in {seconds:.0f} s.", err=True)


@click.command("submit")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_with_patience
@click.option("-m", "--model", help="Name or alias. [default: that of the service]")
@click.option("--wait", is_flag=True, help="Wait until all have ended.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for the MIDI files; waits."
)
@click.option("-f", "--force", is_flag=True, help="Replace outputs that exist already.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
def submit_command(
    client: Client,
    files: Sequence[Path],
    model: str | None,
    wait: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Submit recordings to a service.

    Prints the id of each job. Large recordings are sent in parts: after an interruption, the same command goes on.
    """
    from mt3_infer.client import JobFailedError

    targets = _targets(files, output, force=force)
    jobs: list[Job] = []
    for number, file in enumerate(files, start=1):
        place = f"{number} of {len(files)}, " if len(files) > 1 else ""
        with Bar("Uploading") as bar:

            def report(done: int, total: int, bar: Bar = bar, words: str = f"{place}{file.name}: ") -> None:
                bar.show(done, total, f"{words}{human_size(done)} of {human_size(total)}")

            job = client.submit(file, model=model, progress=report)
        jobs.append(job)
        if not as_json:
            click.echo(f"{job.id}  {file}")
    failures = 0
    for number, file in enumerate(files) if wait or output else ():
        try:
            jobs[number] = _wait(client, jobs[number], file.name)
        except JobFailedError as error:
            click.echo(f"{file}: {error}", err=True)
            failures += 1
            jobs[number] = client.get(jobs[number].id)
            continue
        if file in targets:
            client.download(jobs[number], MIDI, targets[file])
            click.echo(f"{file} → {targets[file]}, {jobs[number].note_count} notes", err=True)
    if as_json:
        _print_json(jobs)
    if failures:
        raise SystemExit(1)


def _targets(files: Sequence[Path], output: Path | None, *, force: bool) -> dict[Path, Path]:
    """Return the file to write for each recording, and make the folder.

    Raises:
        click.ClickException: two would be written to one file, or one exists already.
    """
    targets: dict[Path, Path] = {}
    if output is None:
        return targets
    for file in files:
        target = output / f"{file.name.removesuffix(file.suffix)}.mid"
        if target in targets.values():
            raise click.UsageError(f"Two recordings would be written to {target}: submit them separately.")
        if target.exists() and not force:
            raise click.ClickException(f"{target} already exists: pass --force to replace it, or another -o.")
        targets[file] = target
    output.mkdir(parents=True, exist_ok=True)
    return targets


def _wait(client: Client, job: Job, name: str) -> Job:
    with Bar("Transcribing", show_eta=False) as bar:  # the service estimates it better

        def report(at: Job) -> None:
            bar.show(at.progress.fraction or 0.0, 1.0, f"{name}: {_state(at)}")

        return client.wait(job.id, progress=report)


def _state(job: Job) -> str:
    """Return one line about a job."""
    if job.error is not None:
        return f"failed: {job.error.detail}"
    if job.hint is not None:
        return job.hint
    if job.status == "queued" and job.queue is not None:
        eta = job.queue.eta_seconds
        return f"position {job.queue.position}" + (f", starts in about {eta:.0f} s" if eta else "")
    if job.status == "processing":
        eta = job.progress.eta_seconds
        words = (job.phase or "starting").replace("_", " ")
        return words + (f", about {eta:.0f} s left" if eta is not None else "")
    return f"{job.status}, {job.note_count} notes" if job.status == "succeeded" else job.status


@click.group("jobs")
def jobs_group() -> None:
    """See and change the transcriptions of a service."""


@jobs_group.command("list")
@_with_server
@click.option("--status", help="Only these; several with commas between them.")
@click.option("-m", "--model", help="Only jobs of this model.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_jobs(client: Client, status: str | None, model: str | None, limit: int, as_json: bool) -> None:
    """List transcriptions, newest first."""
    filters = {name: value for name, value in (("status", status), ("model", model)) if value}
    jobs = list(client.list(filters, limit=limit))
    if as_json:
        _print_json(jobs)
        return
    if not jobs:
        click.echo("No transcriptions." if not filters else "No transcriptions fit.", err=True)
    for job in jobs:
        created = job.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        click.echo(f"{job.id}  {created}  {job.status:<10}  {job.model:<12}  {job.filename or '–'}")


@jobs_group.command("show")
@click.argument("job_id", metavar="ID", type=JobId())
@_with_server
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show_job(client: Client, job_id: str, as_json: bool) -> None:
    """Show a transcription."""
    job = client.get(job_id)
    if as_json:
        click.echo(job.model_dump_json(indent=2))
        return
    click.echo(f"{job.filename or job.id}\n{job.model}, {_state(job)}")
    if job.last_error is not None:
        click.echo(f"Last attempt: {job.last_error.detail}")
    for artifact in job.artifacts:
        click.echo(f"  {artifact.name}  {human_size(artifact.size)}")


def _add_command(name: str, description: str, change: Callable[[Client, str], str]) -> None:
    """Add a command that changes each job which is named, and prints what it is afterwards."""

    @jobs_group.command(name, help=description)
    @click.argument("job_ids", nargs=-1, required=True, metavar="ID...", type=JobId())
    @_with_server
    def command(client: Client, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            click.echo(f"{job_id}: {change(client, job_id)}")


def _delete(client: Client, job_id: str) -> str:
    client.delete(job_id)
    return "deleted"


_add_command("cancel", "Cancel transcriptions that wait or run.", lambda client, job: client.cancel(job).status)
_add_command(
    "retry",
    "Queue transcriptions again that failed or were canceled.",
    lambda client, job: client.retry(job).status,
)
_add_command("delete", "Delete transcriptions with all their files.", _delete)


@jobs_group.command("download")
@click.argument("job_id", metavar="ID", type=JobId())
@click.argument("names", nargs=-1, metavar="[ARTIFACT...]")
@_with_patience
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=".", help="Folder. [default: .]"
)
@click.option("-f", "--force", is_flag=True, help="Replace files that exist already.")
def download_artifacts(client: Client, job_id: str, names: Sequence[str], output: Path, force: bool) -> None:
    """Download files of a transcription; without names, its MIDI file."""
    job = client.get(job_id)
    targets = {name: output / name for name in names or (MIDI,)}
    for target in targets.values():
        if target.exists() and not force:
            raise click.ClickException(f"{target} already exists: pass --force to replace it, or another -o.")
    output.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        with Bar("Downloading") as bar:

            def report(done: int, total: int, bar: Bar = bar, name: str = name) -> None:
                bar.show(done, total, f"{name}: {human_size(done)} of {human_size(total)}")

            client.download(job, name, target, progress=report)
        click.echo(str(target))


def _print_json(jobs: Sequence[Job]) -> None:
    click.echo(json.dumps([job.model_dump(mode="json") for job in jobs], indent=2))
