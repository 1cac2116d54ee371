"""A stack on one machine, with a SQLite file and a folder as storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests import backups
from tests.chaos.databases import Database, SqliteDatabase
from tests.chaos.stack import Part, Stack


class SqliteStack(Stack):
    """The service on SQLite and a folder, with Redis."""

    def __init__(
        self, folder: Path, *, workers: int, schedulers: int, environment: Mapping[str, str] | None = None
    ) -> None:
        local = {"MT3_STORAGE_URL": (folder / "storage").as_uri()}
        environment = {**local, **(environment or {})}
        super().__init__(folder, workers=workers, schedulers=schedulers, environment=environment)
        self.stored = folder / "storage"

    def _make_database(self) -> Database:
        return SqliteDatabase(self.folder / "mt3.sqlite3")

    @contextmanager
    def restored(self, backup: Path) -> Iterator[None]:
        with self._stopped():
            own = [file.rename(f"{file}.own") for file in self.folder.glob("mt3.sqlite3*")]
            backups.restore(backup, self.database.url)
        yield
        with self._stopped():
            for file in self.folder.glob("mt3.sqlite3*"):
                if file not in own:
                    file.unlink()
            for file in own:
                file.rename(file.with_suffix(""))

    @property
    def parts(self) -> list[Part]:
        return [self.redis, self.web, *self.workers, *self.schedulers]

    def _start(self) -> None:
        self.migrations.start()
        self._migrate()
        for part in self.parts:
            part.start()
