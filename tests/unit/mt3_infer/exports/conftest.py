from __future__ import annotations

from pathlib import Path

import pytest

from tests.sound_fonts import write_sound_font


@pytest.fixture(autouse=True)
def sound_font(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny sound font, which is the one that notes are rendered with."""
    path = write_sound_font(tmp_path_factory.mktemp("sound_font") / "tone.sf2")
    monkeypatch.setenv("MT3_SOUND_FONT", str(path))
    return path
