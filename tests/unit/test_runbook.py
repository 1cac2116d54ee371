"""`docs/runbook.md` has every error code and every log event of the code, and no other; its statements run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from shared.db import Sessions

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
EVENTS_OF = ("worker", "shared", "web", "launcher", "migrations")
CODES_OF = (*EVENTS_OF, "mt3_infer", "checkpoints")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def parse(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "cli" not in file.relative_to(ROOT).parts and file.name != "cli.py":  # of the command alone
                yield file, ast.parse(file.read_text())


def texts(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def find_events() -> set[str]:
    """The first argument of every call of a logger's method."""
    events: set[str] = set()
    for file, module in parse(*EVENTS_OF):
        for node in ast.walk(module):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if level in LEVELS:
                    name = _literal(node.args[0])
                    assert name, f"{file}:{node.lineno}: an event has a fixed name"
                    events.add(name)
    return events


def find_codes() -> set[str]:
    """What classes have as `code`, and what is written as a code where there is no class."""
    codes: set[str] = set()
    for _, module in parse(*CODES_OF):
        constants = {
            target.id: _literal(node.value)
            for node in module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(module):
            match node:
                case ast.ClassDef():
                    codes.update(_code_of(node))
                case ast.Assign(targets=[ast.Name(id="CODE_OF")], value=ast.Dict(values=values)):
                    codes.update(map(_literal, values))
                case ast.Call(func=ast.Attribute(value=ast.Name(id="CODE_OF"), attr="get"), args=[_, default]):
                    codes.add(_literal(default))
                case ast.Dict(keys=keys, values=values):
                    pairs = zip(keys, values, strict=True)
                    codes.update(
                        word
                        for key, value in pairs
                        if key and _literal(key) == "error_code"
                        for word in texts(value)
                    )
                case ast.Call(args=[_, code, *_]) if called(node) == "problem":
                    codes.add(_literal(code))
                case ast.Call(args=[code, *_]) if called(node) == "Failure":
                    codes.add(_literal(code) or constants.get(getattr(code, "id", ""), ""))
    return codes - {""}


def _literal(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _code_of(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code)))
                | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code)))
            ):
                yield code


def find_warnings() -> set[str]:
    return {
        code
        for _, module in parse("mt3_infer", "worker")
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and called(node) == "AudioWarning" and node.args
        if (code := _literal(node.args[0]))
    }


def first_column(header: str) -> list[str]:
    """The names in the table whose first column is called so."""
    _, _, table = RUNBOOK.partition(f"\n| {header} |")
    assert table, f"There is no table of which the first column is {header}."
    return re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)


@pytest.mark.parametrize(
    ("header", "find", "known"),
    [
        ("Code", find_codes, {"worker_lost", "out_of_memory", "host_not_allowed", "disk_full", "http_error"}),
        ("Event", find_events, {"lease_expired", "attempt_failed", "unexpected_error", "database_is_up_to_date"}),
        ("Warning", find_warnings, {"damaged", "offset_removed"}),
    ],
)
def test_table_has_what_the_code_has(header: str, find: Callable[[], set[str]], known: set[str]) -> None:
    in_code, in_table = find(), first_column(header)
    assert known <= in_code, "The search finds what is known to be there."
    assert len(in_table) == len(set(in_table))
    assert {"missing": in_code - set(in_table), "gone": set(in_table) - in_code} == {
        "missing": set(),
        "gone": set(),
    }


def test_sections_that_are_linked_to_exist() -> None:
    titles = re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK))
    assert linked
    assert linked <= anchors


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"MT3_[A-Z0-9_]+", RUNBOOK))))
def test_settings_that_it_names_exist(setting: str) -> None:
    assert f"\n{setting}=" in (ROOT / ".env.example").read_text()


@pytest.mark.parametrize("statement", re.findall(r"^```sql\n(.*?)^```$", RUNBOOK, re.MULTILINE | re.DOTALL))
def test_statements_run_on_both_databases(any_sessions: Sessions, statement: str) -> None:
    with any_sessions() as session:
        session.execute(text(statement)).all()
