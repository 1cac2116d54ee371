"""The command `mt3-infer keys`: make, list and revoke the keys of clients, in the database of MT3_DATABASE_URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from shared import keys as shared_keys
from shared.config import read_settings
from shared.db import make_engine, make_sessions
from shared.errors import ServiceError
from shared.quotas import Quotas, quotas_of
from shared.tables import ApiKey, Scope

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
QUOTAS = ("jobs", "s of audio", "bytes")  # what the fields of `Quotas` count
LONGEST_SECONDS = 100 * UNITS["y"]
HIDDEN = re.compile(r"://[^@/]*@")


class Duration(click.ParamType[float]):
    """A length of time such as 90d, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        match = re.fullmatch(r"(\d{1,9})([smhdwy])", str(value).strip().lower())
        if match is None or not 0 < int(match[1]) * UNITS[match[2]] <= LONGEST_SECONDS:
            self.fail(f"{value!r} is no length of time: write for example 12h, 90d or 1y.", param, ctx)
        return float(int(match[1]) * UNITS[match[2]])


@click.group(short_help="Make, list and revoke the keys of clients.")
def keys() -> None:
    """Make, list and revoke the keys that clients need with MT3_AUTH=keys.

    The keys are in the database that MT3_DATABASE_URL names, by default the one that `mt3-infer serve` makes in
    this folder.
    """


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    default=Scope.WRITE.value,
    show_default=True,
    help="read: look and listen. write: also upload, change and delete. admin: also what concerns all clients.",
)
@click.option("--expires-in", type=Duration(), metavar="TIME", help="12h, 90d, 1y. [default: never]")
@click.option(
    "--owner",
    metavar="OWNER",
    help="Give access to the transcriptions of this owner; see `keys list`. [default: a new one]",
)
@click.option(
    "--quota-jobs", type=click.IntRange(min=0), metavar="N", help="Transcriptions that may wait or run at a time."
)
@click.option(
    "--quota-audio-seconds", type=click.FloatRange(min=0), metavar="SECONDS", help="Of audio that may wait."
)
@click.option(
    "--quota-stored-bytes", type=click.IntRange(min=0), metavar="BYTES", help="Of recordings and results together."
)
def create_command(name: str, scope: str, expires_in: float | None, owner: str | None, **quotas: Any) -> None:
    """Make a key and print it. It is shown only now: the database has its hash.

    NAME tells people whose key it is. To replace a key, make one with the same --owner, then revoke the old one.
    `--owner public` gives access to the transcriptions from the time without keys. The quotas replace those of the
    service (MT3_QUOTA_...) for requests with this key; what counts is all that its owner has.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise click.UsageError("The name must have 1 to 100 printable characters.")
    if owner is not None and not re.fullmatch(r"[\w.@-]{1,64}", owner, re.ASCII):
        raise click.UsageError("The owner must have 1 to 64 letters, digits or the characters . _ @ -")
    with open_database() as session:
        row, secret = shared_keys.create_key(
            session,
            name.strip(),
            scope=Scope(scope),
            expires_in=expires_in,
            owner=owner,
            quotas=Quotas(**{option.removeprefix("quota_"): value for option, value in quotas.items()}),
        )
    until = f"until {_time(row.expires_at)}" if row.expires_at else "until it is revoked"
    click.echo(f"Key {row.id} of {row.name}, scope {row.scope}, valid {until}. Keep it now:", err=True)
    click.echo(secret)


@keys.command("list")
def list_command() -> None:
    """Show the keys, without what is secret of them."""
    with open_database() as session:
        rows = [
            ("ID", "NAME", "SCOPE", "STATE", "CREATED", "EXPIRES", "LAST USED", "OWNER", "QUOTAS"),
            *(_row(key) for key in shared_keys.list_keys(session)),
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command("revoke")
@click.argument("key_id", type=click.UUID, metavar="ID")
def revoke_command(key_id: UUID) -> None:
    """Revoke the key of this ID, and end the log-ins with it. It takes effect within a few seconds."""
    with open_database() as session:
        row = shared_keys.revoke_key(session, key_id)
    click.echo(f"Revoked the key of {row.name}. Its transcriptions are kept.", err=True)


@contextmanager
def open_database() -> Iterator[Session]:
    """Open a transaction on the configured database; turn errors into messages of the command line."""
    settings = read_settings()
    place = HIDDEN.sub("://", settings.database_url)
    _check_file(settings.database_url, place)
    engine = make_engine(settings)
    try:
        with make_sessions(engine).begin() as session:
            yield session
    except ServiceError as error:
        raise click.ClickException(str(error)) from None
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0] if error.orig else str(error)
        raise click.ClickException(
            f"The database {place} cannot be used ({reason}). Set MT3_DATABASE_URL to that of the service, "
            "and start the service once or run python -m migrations."
        ) from None
    except SQLAlchemyError as error:
        raise click.ClickException(f"The database {place} cannot be used: {error}.") from None
    finally:
        engine.dispose()


def _check_file(url: str, place: str) -> None:
    """Raise if the file of an SQLite database does not exist: opening it would create an empty one."""
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite" and parts.database and not Path(parts.database).is_file():
        raise click.ClickException(
            f"There is no database {place}. Run the command in the folder in which the service was started, or "
            "set MT3_DATABASE_URL to the database of the service."
        )


def _row(key: ApiKey) -> tuple[str, ...]:
    times = (key.created_at, key.expires_at, key.last_used_at)
    created, expires, used = (_time(at) if at else "never" for at in times)
    owner = "itself" if key.owner == str(key.id) else key.owner
    quotas = [
        f"{limit:,} {words}"
        for limit, words in zip(vars(quotas_of(key)).values(), QUOTAS, strict=True)
        if limit is not None
    ]
    state = shared_keys.state_of(key)
    return str(key.id), key.name, key.scope, state, created, expires, used, owner, ", ".join(quotas)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")
