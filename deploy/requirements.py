"""Print what extras of pyproject.toml require, one requirement per line: `python requirements.py worker otel`.

An image installs these in a layer of their own, which a change of the sources leaves as it is.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict, extra: str) -> set[str]:
    """Return the project's dependencies and those of the extra, with the extras of the project that it names."""
    found = set(project["dependencies"])
    for requirement in project["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", requirement)
        if own:
            found.update(*(requirements(project, name) for name in own[1].split(",")))
        else:
            found.add(requirement)
    return found


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = set().union(*(requirements(project, extra) for extra in sys.argv[1:]))
    sys.stdout.write("\n".join(sorted(found)) + "\n")
