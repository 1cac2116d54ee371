"""The web image does not need the heavy packages of the library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "onnxruntime", "av", "numpy", "soxr", "pretty_midi", "librosa", "huggingface_hub")


def test_web_process_starts_without_the_packages_of_the_library(tmp_path: Path) -> None:
    code = f"""
import os, sys
for name in {HEAVY!r}:
    sys.modules[name] = None  # importing it fails
os.environ["MT3_DATABASE_URL"] = "sqlite:///{tmp_path}/x.sqlite3"
os.environ["MT3_STORAGE_URL"] = "file://{tmp_path}"
from web.wsgi import app
print(app.test_client().get("/livez").status_code)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "200\n", run.stderr
