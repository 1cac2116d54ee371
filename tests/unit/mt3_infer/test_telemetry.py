"""No part of the library reports to anybody."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import onnxruntime
calls = []
onnxruntime.disable_telemetry_events = lambda: calls.append("off")
import mt3_infer.models.basic_pitch.network
print(calls)
"""


def test_the_telemetry_of_onnxruntime_is_switched_off_wherever_it_is_imported() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert run.stdout == "['off']\n"
