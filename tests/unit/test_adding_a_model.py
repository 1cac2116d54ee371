"""`docs/adding-a-model.md`, followed block by block in a copy of the tree: then every part knows the model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding-a-model.md").read_text()
COPIED = [
    "mt3_infer",
    "checkpoints",
    "shared",
    "web",
    "worker",
    "launcher",
    "migrations",
    "tests",
    "docs",
    "deploy",
    "bench",
    "tools",
    ".ci",
]
BLOCK = re.compile(
    r"^`(?P<file>[^`\n]+)`, (?P<where>a new file|at the end|as its authors publish it|"
    r"above (?P<ticks>`+) ?(?P<anchor>.+?) ?(?P=ticks)):\n\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def follow(guide: str, tree: Path, publisher: Path) -> list[Path]:
    """Apply each block; return the files that were written."""
    written = []
    for block in BLOCK.finditer(guide):
        where, text, file = block["where"], block["text"], tree / block["file"]
        if where == "as its authors publish it":
            file = publisher / block["file"]
        if where in ("a new file", "as its authors publish it"):
            assert not file.exists()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif where == "at the end":
            file.write_text(f"{file.read_text()}\n{text}")
        else:
            lines = file.read_text().splitlines(keepends=True)
            at = next(n for n, line in enumerate(lines) if line.strip().startswith(block["anchor"]))
            file.write_text("".join([*lines[:at], text, *lines[at:]]))
        written.append(file)
    return written


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with the guide's model; `publisher/` beside it has the weights."""
    tree = tmp_path_factory.mktemp("model") / "tree"
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tree)
    written = follow(GUIDE, tree, tree.parent / "publisher" / "toy")
    assert len(written) == GUIDE.count("\n```") / 2 - 1, (
        "All blocks but the commands of the last step are followed."
    )
    run(tree, [sys.executable, "-m", "ruff", "format", "--quiet", "mt3_infer/models/__init__.py"])
    return tree


def run(tree: Path, command: Sequence[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MT3_")}
    done = subprocess.run(
        command, cwd=tree, env=environment | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_code_of_the_guide_passes_the_linters(tree: Path) -> None:
    written = ["mt3_infer/models", "tests/unit/mt3_infer/test_toy.py"]
    run(tree, [sys.executable, "-m", "ruff", "check", *written])
    run(tree, [sys.executable, "-m", "ruff", "format", "--check", *written])


def test_tests_of_the_guide_and_of_the_documents_pass(tree: Path) -> None:
    files = [
        "tests/unit/mt3_infer/test_toy.py",
        "tests/unit/test_docs.py",
        "tests/unit/checkpoints/test_catalog.py",
    ]
    run(tree, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files])


def test_library_command_web_and_worker_support_the_new_model(tree: Path) -> None:
    run(tree, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/added_model.py"])
