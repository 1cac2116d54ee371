"""Compare the locked versions of all packages with OSV, the database of known vulnerabilities: `make audit`.

Exit status 1 if a version has a known vulnerability; 0 if none has, or if the database cannot be reached; 2 if
`pip-audit` fails for another reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

LOCK = Path(__file__).parents[1] / "constraints.txt"
OSV_URL = "https://api.osv.dev"
# In the last line of `pip-audit`, which shows errors of requests as they are.
UNREACHABLE = re.compile(r"connect|resolve|timed? ?out|requests\.exceptions|HTTPError", re.IGNORECASE)
PIP_AUDIT = (sys.executable, "-m", "pip_audit")


def audit(program: Sequence[str] = PIP_AUDIT, *, osv_url: str | None = None) -> int:
    """Print what is known of the locked versions, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        options = ["--requirement", str(LOCK), "--no-deps", "--disable-pip", "--vulnerability-service", "osv"]
        options += ["--progress-spinner", "off", "--format", "json", "--output", str(found)]
        options += ["--osv-url", osv_url] if osv_url else []
        run = subprocess.run([*program, *options], capture_output=True, text=True, check=False)
        content = found.read_text() if found.exists() else ""
    if not content:  # pip-audit has no exit status of its own for this
        reason = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        if UNREACHABLE.search(reason):
            _say(f"Nothing was checked: {urlsplit(osv_url or OSV_URL).hostname} cannot be reached from here.")
            return 0
        _say(f"Nothing was checked: pip-audit failed ({reason[:200]}).")
        return 2
    packages = json.loads(content)["dependencies"]
    known = [(package, problem) for package in packages for problem in package.get("vulns", ())]
    for package, problem in known:
        fixed = ", ".join(problem["fix_versions"]) or "no version"
        names = ", ".join([problem["id"], *problem["aliases"]])
        _say(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    _say(f"{len(packages)} packages were checked, {len(known)} known vulnerabilities.")
    return 1 if known else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Check the locked versions for known vulnerabilities.")
    arguments.add_argument("--osv-url", help="Address of another instance of the database.")
    sys.exit(audit(osv_url=arguments.parse_args().osv_url))
