"""Checkpoints that the command downloads are those of the service on the same machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints.store import default_root
from launcher.serve import _checkpoint_folder


def test_the_service_reads_what_the_command_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MT3_CHECKPOINT_DIR", raising=False)
    assert _checkpoint_folder(tmp_path) == default_root()


def test_checkpoints_beside_the_data_stay_in_use(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert _checkpoint_folder(tmp_path) == tmp_path / "checkpoints"
