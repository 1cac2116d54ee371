"""The command `mt3-infer keys`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mt3_infer.cli import main
from shared import keys
from shared.config import Settings
from shared.db import Sessions
from shared.quotas import Quotas
from shared.tables import Scope

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the command on the test's database."""
    monkeypatch.setenv("MT3_DATABASE_URL", settings.database_url)
    return lambda *words: CliRunner().invoke(main, ["keys", *words])


def identify(sessions: Sessions, secret: str) -> keys.Identity | None:
    with sessions() as session:
        return keys.find_identity(session, secret)


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_key_is_printed_once_and_listed_without_it(run: Run, sessions: Sessions) -> None:
    result = run("create", "laptop of Ada")
    secret = ok(result).strip()
    assert re.fullmatch(r"mt3_[\w-]{43}", secret)
    assert "scope write, valid until it is revoked. Keep it now:" in result.stderr
    found = identify(sessions, secret)
    assert (found.name, found.scope, found.owner) == ("laptop of Ada", Scope.WRITE, str(found.key_id))
    listed = ok(run("list"))
    assert secret not in listed
    assert keys.hash_secret(secret) not in listed
    row = listed.splitlines()[1]
    assert row.startswith(f"{found.key_id}  laptop of Ada  write  valid")
    assert row.endswith("itself")


def test_key_with_scope_expiry_and_owner(run: Run, sessions: Sessions) -> None:
    result = run("create", "ci", "--scope", "read", "--expires-in", "90d", "--owner", "public")
    found = identify(sessions, ok(result).strip())
    assert (found.scope, found.owner) == (Scope.READ, "public")
    with sessions() as session:
        (row,) = keys.list_keys(session)
    assert row.expires_at is not None
    assert abs((row.expires_at - row.created_at).total_seconds() - 90 * 86_400) < 1
    assert row.expires_at.strftime("%Y-%m-%d") in ok(run("list"))


def test_key_with_quotas_of_its_own(run: Run, sessions: Sessions) -> None:
    words = ("--quota-jobs", "3", "--quota-audio-seconds", "7200", "--quota-stored-bytes", "5000000000")
    found = identify(sessions, ok(run("create", "batch", *words)).strip())
    assert found.quotas == Quotas(jobs=3, audio_seconds=7200.0, stored_bytes=5_000_000_000)
    assert ok(run("list")).endswith("itself  3 jobs, 7,200.0 s of audio, 5,000,000,000 bytes\n")


def test_revoked_and_expired_keys_are_listed_as_such(run: Run, sessions: Sessions) -> None:
    secret = ok(run("create", "lost")).strip()
    found = identify(sessions, secret)
    assert "Revoked the key of lost." in run("revoke", str(found.key_id)).stderr
    assert identify(sessions, secret) is None
    ok(run("revoke", str(found.key_id)))
    with sessions.begin() as session:
        keys.create_key(session, "old", expires_in=-1)
    states = [line.split()[1:4] for line in ok(run("list")).splitlines()[1:]]
    assert states == [["lost", "write", "revoked"], ["old", "write", "expired"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["create", "x", "--expires-in", "soon"],
            2,
            "'soon' is no length of time: write for example 12h",
        ),
        (["create", "x", "--expires-in", "0d"], 2, "is no length of time"),
        (["create", "x", "--expires-in", "999999999y"], 2, "is no length of time"),
        (["create", "x", "--scope", "root"], 2, "'root' is not one of"),
        (["create", " "], 2, "The name must have 1 to 100 printable characters."),
        (["create", "x" * 101], 2, "The name must have"),
        (["create", "a\nb"], 2, "The name must have"),
        (["create", "x", "--owner", "a b"], 2, "The owner must have 1 to 64 letters"),
        (["create", "x", "--owner", "o" * 65], 2, "The owner must have"),
        (["revoke", "7"], 2, "'7' is not a valid UUID"),
        (["revoke", "00000000-0000-7000-8000-000000000000"], 1, "There is no key 00000000-"),
    ],
)
def test_wrong_arguments_have_one_clear_message(run: Run, words: list[str], code: int, message: str) -> None:
    result = run(*words)
    assert result.exit_code == code
    assert message in result.stderr


def test_database_without_tables_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new.sqlite3").touch()
    monkeypatch.setenv("MT3_DATABASE_URL", f"sqlite:///{tmp_path / 'new.sqlite3'}")
    result = CliRunner().invoke(main, ["keys", "list"])
    assert result.exit_code == 1
    assert "no such table: api_keys" in result.stderr
    assert "start the service once or run python -m migrations" in result.stderr
    monkeypatch.setenv("MT3_DATABASE_URL", "postgresql://mt3:hunter2@127.0.0.1:1/mt3")
    result = CliRunner().invoke(main, ["keys", "list"])
    assert result.exit_code == 1
    assert "postgresql+psycopg://127.0.0.1:1/mt3 cannot be used" in result.stderr
    assert "hunter2" not in result.output
