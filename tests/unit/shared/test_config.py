"""Settings: valid and invalid environments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.config import Settings, read_settings
from shared.startup import missing_file

ROOT = Path(__file__).parents[3]


def test_every_setting_is_in_the_example_and_nothing_else() -> None:
    named = set(re.findall(r"^#? ?(MT3_[A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert named == {f"MT3_{name.upper()}" for name in Settings.model_fields}


def test_plain_postgres_url_gets_the_bundled_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_DATABASE_URL", "postgresql://u:p@db/mt3")
    assert Settings().database_url == "postgresql+psycopg://u:p@db/mt3"


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_LEASE_SECONDS", "")
    assert Settings().lease_seconds == 30


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "MT3_DATABASE_URL",
            "mysql://x",
            "MT3_DATABASE_URL is wrong: must start with postgresql:// or sqlite:///",
        ),
        ("MT3_REDIS_URL", "localhost", "MT3_REDIS_URL is wrong: must start with redis:// or rediss://"),
        ("MT3_CHECKPOINT_MIRROR", "/srv", "MT3_CHECKPOINT_MIRROR is wrong: must be s3://bucket/prefix or an http"),
        ("MT3_STORAGE_URL", "/srv", "MT3_STORAGE_URL is wrong: must be file:///an/absolute/folder or s3://"),
        ("MT3_DEVICE", "gpu", "MT3_DEVICE is wrong: String should match pattern '^(auto|cpu|cuda"),
        ("MT3_LEASE_SECONDS", "soon", "MT3_LEASE_SECONDS is wrong: Input should be a valid number"),
        ("MT3_MAX_ATTEMPTS", "0", "MT3_MAX_ATTEMPTS is wrong: Input should be greater than or equal to 1"),
    ],
)
def test_invalid_value_stops_the_start_with_one_clear_line(
    name: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        read_settings()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_settings_are_frozen_and_keep_secrets_out_of_logs() -> None:
    settings = Settings(s3_secret_access_key="hunter2")  # type: ignore[arg-type]
    assert "hunter2" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.offline = True


@pytest.mark.parametrize(
    ("name", "near"),
    [("MT3_AUHT", "MT3_AUTH"), ("MT3_LEASE_SECOND", "MT3_LEASE_SECONDS"), ("MT3_API_KEYS", "MT3_API_KEY")],
)
def test_misspelled_setting_stops_the_start(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "keys")
    with pytest.raises(SystemExit):
        read_settings()
    assert capsys.readouterr().err == f"mt3-infer: {name} is no setting: did you mean {near}?\n"


@pytest.mark.parametrize(
    "name",
    [
        "MT3_INFER_SERVICE_HOST",
        "MT3_INFER_PORT_8000_TCP_ADDR",
        "MT3_SERVER",
        "MT3_CHECKPOINTS_MT3_PYTORCH",
        "MT3_TEST",
    ],
)
def test_variable_of_something_else_is_no_misspelled_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert read_settings().auth == "none"


def test_file_that_a_worker_does_not_have_is_named_by_its_setting(tmp_path: Path) -> None:
    there = tmp_path / "tuned.pth"
    there.touch()
    assert missing_file({"MT3_CHECKPOINTS_MR_MT3": there}, None) is None
    assert missing_file({"MT3_CHECKPOINTS_MR_MT3": tmp_path / "x"}, there) == (
        f"MT3_CHECKPOINTS_MR_MT3 is wrong: this machine has no {tmp_path / 'x'}."
    )
    assert (
        missing_file({}, tmp_path / "y.sf2")
        == f"MT3_SOUND_FONT is wrong: this machine has no {tmp_path / 'y.sf2'}."
    )
