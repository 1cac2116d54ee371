"""`make audit` and `make sbom`: what is known of the locked versions, and the list of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.web_server import Reply, Request, web_server
from tools.audit import LOCK, audit

ROOT = Path(__file__).parents[2]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", LOCK.read_text(), re.M))
STUB = """
import json, sys
vulns = [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0", "1.9.1"]}]
packages = [{"name": "a", "version": "1.0", "vulns": []}, {"name": "b", "version": "1.9", "vulns": vulns}]
found = {"affected": packages, "clean": packages[:1]}[sys.argv[1]]
open(sys.argv[sys.argv.index("--output") + 1], "w").write(json.dumps({"dependencies": found, "fixes": []}))
"""


def test_known_vulnerability_is_named_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit([sys.executable, "-c", STUB, "affected"]) == 1
    shown = capsys.readouterr().out
    assert "b 1.9: PYSEC-1, CVE-1; fixed in 2.0, 1.9.1\n" in shown
    assert "2 packages were checked, 1 known vulnerabilities." in shown


def test_nothing_known_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit([sys.executable, "-c", STUB, "clean"]) == 0
    assert "1 packages were checked, 0 known vulnerabilities." in capsys.readouterr().out


def test_database_that_cannot_be_reached_is_said_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    for reason in ("Could not connect to OSV", "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='x')"):
        assert audit([sys.executable, "-c", f"raise SystemExit({reason!r})"]) == 0
        assert capsys.readouterr().out == "Nothing was checked: api.osv.dev cannot be reached from here.\n"
    audit([sys.executable, "-c", "raise SystemExit('ConnectTimeout')"], osv_url="http://osv.example.org:8080/v1")
    assert capsys.readouterr().out == "Nothing was checked: osv.example.org cannot be reached from here.\n"


def test_audit_that_fails_for_another_reason_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit([sys.executable, "-c", "raise SystemExit('invalid requirement: a==')"]) == 2
    assert "pip-audit failed (invalid requirement: a==)" in capsys.readouterr().out


@pytest.mark.soak
def test_real_tools_read_the_whole_lock() -> None:
    subprocess.run(["make", "sbom"], cwd=ROOT, check=True)
    bom = json.loads((ROOT / "build" / "sbom.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    assert {component["name"]: component["version"] for component in bom["components"]} == PINNED

    def answer(request: Request) -> Reply:
        asked = json.loads(request.body)
        vulnerable = asked["package"]["name"] == "flask"
        found: dict[str, Any] = (
            {"vulns": [{"id": "PYSEC-9", "summary": "x", "affected": []}]} if vulnerable else {}
        )
        return Reply(200, json.dumps(found).encode())

    command = [str(ROOT / ".venv-audit/bin/python"), str(ROOT / "tools/audit.py"), "--osv-url"]
    with web_server() as database:
        database.missing = answer
        run = subprocess.run([*command, database.url + "/query"], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"flask {PINNED['Flask']}: PYSEC-9; fixed in no version" in run.stdout
    assert f"{len(PINNED)} packages were checked, 1 known vulnerabilities." in run.stdout
    run = subprocess.run([*command, database.url + "/query"], capture_output=True, text=True, check=False)
    assert (run.returncode, "cannot be reached" in run.stdout) == (0, True), "the server has gone"
