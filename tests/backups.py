"""Backups as docs/operations.md describes them: `pg_dump`, and SQLite's own copy, while the service works."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from tests import servers


def dump(url: str, file: Path) -> None:
    """Write a backup of a database."""
    if path := _sqlite_file(url):
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(file)) as target:
            source.backup(target)
    else:
        _run("pg_dump", "--format=custom", "--file", str(file), "--dbname", url)


def restore(file: Path, url: str) -> None:
    """Fill an empty database from a backup."""
    if path := _sqlite_file(url):
        shutil.copy(file, path)
    else:
        _run("pg_restore", "--exit-on-error", "--no-owner", "--dbname", url, str(file))


def _sqlite_file(url: str) -> str | None:
    parts = make_url(url)
    return parts.database if parts.drivername.startswith("sqlite") else None


def _run(program: str, *words: str) -> None:
    subprocess.run([servers.postgres_program(program), *words], check=True)
