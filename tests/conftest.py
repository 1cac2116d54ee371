"""Fixtures that every kind of test may use. Servers live as long as the session; data does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine

from migrations import upgrade
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from shared.tables import Base
from tests import servers

DATA = Path(__file__).parent / "data"

hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no fault of an example
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def bach() -> Path:
    """A four-part chorale on the piano, 24.5 s, 159 notes; `bach_piano.mid` beside it is the truth."""
    return DATA / "bach_piano.flac"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MT3_ setting of the developer's shell reaches a test."""
    import os

    for name in [n for n in os.environ if n.startswith("MT3_") and not n.startswith("MT3_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with servers.redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of checkpoints for the whole session: each is fetched once."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def settings(tmp_path: Path, checkpoint_dir: Path) -> Settings:
    """SQLite and local files in a fresh folder, and no Redis."""
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'mt3.sqlite3'}",
        storage_url=(tmp_path / "storage").as_uri(),
        redis_url="redis://127.0.0.1:1/0",
        checkpoint_dir=checkpoint_dir,
        lease_seconds=2,
        retry_seconds=0.1,
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A migrated SQLite database."""
    upgrade(settings)
    engine = make_engine(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    return make_sessions(engine)


@pytest.fixture
def postgres_sessions(postgres_url: str) -> Iterator[Sessions]:
    """A migrated PostgreSQL database whose tables are empty."""
    settings = Settings(database_url=postgres_url)
    upgrade(settings)
    engine = make_engine(settings)
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def any_sessions(request: pytest.FixtureRequest) -> Sessions:
    """The same test on both databases."""
    name = {"sqlite": "sessions", "postgres": "postgres_sessions"}[request.param]
    sessions: Sessions = request.getfixturevalue(name)
    return sessions
