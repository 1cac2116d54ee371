"""Checkpoints that the command downloads are those of the service on the same machine."""

from __future__ import annotations

from pathlib import Path

from launcher.serve import _own_checkpoints


def test_the_service_reads_what_the_command_downloads(tmp_path: Path) -> None:
    assert _own_checkpoints(tmp_path) == {}


def test_checkpoints_beside_the_data_stay_in_use(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert _own_checkpoints(tmp_path) == {"MT3_CHECKPOINT_DIR": str(tmp_path / "checkpoints")}
