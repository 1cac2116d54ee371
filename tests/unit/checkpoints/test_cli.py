"""The commands for checkpoints: what they do, and the one sentence where they cannot."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checkpoints import cli
from checkpoints.progress import FetchProgress
from mt3_infer.cli import main
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS
from tests.web_server import Reply, Request, Site, static

SCRIPT = Path(__file__).parents[3] / "tools" / "download_all_checkpoints.py"


@pytest.fixture(autouse=True)
def root(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two checkpoints and a variant, of which `bad` cannot be had."""
    rows = []
    for name, path, variant in (("tiny", "w", ""), ("bad", "none", ""), ("odd", "w", 'variant_of = "tiny"\n')):
        rows.append(
            f'[{name}]\n{variant}aliases = ["{name}_alias"]\nlicense = "MIT"\nlicense_url = ""\nattribution = ""\n'
            f'files = [{{name = "weights.bin", size = {len(WEIGHTS)}, sha256 = "{SHA256}", '
            f'sources = [{{kind = "url", url = "{site.url}/{path}"}}]}}]\n'
        )
    (tmp_path / "catalog.toml").write_text("\n".join(rows))
    monkeypatch.setenv("MT3_CHECKPOINT_CATALOG", str(tmp_path / "catalog.toml"))
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path / "store"))
    site.routes["/w"] = static(WEIGHTS)
    return tmp_path / "store"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_download_by_name_and_alias(root: Path, site: Site) -> None:
    ended = run("download", "tiny", "odd_alias")
    assert (ended.exit_code, ended.stdout) == (0, f"tiny: {root / 'tiny'}\nodd_alias: {root / 'odd'}\n")
    assert (root / "tiny" / "weights.bin").read_bytes() == WEIGHTS
    assert run("download", "tiny").exit_code == 0
    assert len(site.requests) == 2
    run("download", "tiny", "--force", "--source", "url")
    assert len(site.requests) == 3


def test_all_is_every_checkpoint_but_variants_and_one_failure_stops_no_other(root: Path, site: Site) -> None:
    ended = run("download", "--all")
    assert ended.exit_code == 1
    assert ended.stdout == f"tiny: {root / 'tiny'}\n"
    assert ended.stderr.endswith(
        f"bad: The checkpoint bad could not be downloaded: weights.bin from {site.url}/none: 404 Not Found.\n"
    )
    assert not (root / "odd").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("download",), 2, "Error: Name the models to download, or use --all."),
        (("download", "tiny", "--all"), 2, "Error: Name the models to download, or use --all."),
        (("mirror",), 2, "Error: Name the models to mirror, or use --all."),
        (
            ("download", "no"),
            1,
            "no: There is no checkpoint called 'no'; the names are: "
            "bad, bad_alias, odd, odd_alias, tiny, tiny_alias.",
        ),
        (
            ("download", "tiny", "--source", "git_lfs"),
            1,
            "tiny: The checkpoint tiny is not available from 'git_lfs'; available sources: url.",
        ),
        (("mirror", "tiny"), 1, "tiny: No mirror is set: MT3_CHECKPOINT_MIRROR names one."),
        (("unbundle", "none.tar"), 1, "Error: There is no bundle none.tar."),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(arguments: tuple[str, ...], code: int, message: str) -> None:
    ended = run(*arguments)
    assert ended.exit_code == code
    assert ended.stderr.splitlines()[-1] == message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"MT3_OFFLINE": "maybe"}, "Error: MT3_OFFLINE is 'maybe'; it can be 1 or 0."),
        (
            {"MT3_CHECKPOINT_MIRROR": "ftp://x"},
            "Error: MT3_CHECKPOINT_MIRROR is 'ftp://x'; it must be s3://bucket/prefix or an http address.",
        ),
        (
            {"MT3_CHECKPOINT_CATALOG": "/nowhere.toml"},
            "Error: The catalog /nowhere.toml cannot be read (No such file or directory).",
        ),
    ],
)
def test_wrong_settings_are_reported(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], message: str
) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    ended = run("verify")
    assert (ended.exit_code, ended.stderr.strip()) == (1, message)


def test_verify_finds_what_is_damaged(root: Path) -> None:
    run("download", "tiny", "odd")
    assert run("verify").stdout == "tiny: whole\nodd: whole\n"
    (root / "odd" / "weights.bin").write_bytes(WEIGHTS[::-1])
    ended = run("verify", "tiny", "odd")
    assert (ended.exit_code, ended.stdout) == (1, "tiny: whole\n")
    assert f"odd: The checkpoint odd is damaged: {root / 'odd' / 'weights.bin'}: its sha256 is " in ended.stderr


def test_remove(root: Path) -> None:
    run("download", "tiny")
    assert run("remove", "tiny", "odd").stdout == "tiny: removed\nodd: was not installed\n"
    assert not (root / "tiny").exists()


def test_a_bundle_travels(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("download", "tiny", "odd")
    archive = tmp_path / "weights.tar"
    assert run("bundle", archive, "tiny").stdout == f"{archive}: tiny\n"
    assert run("bundle", archive).stdout == f"{archive}: tiny, odd\n"
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MT3_OFFLINE", "1")
    assert run("unbundle", archive).stdout == f"{archive}: tiny, odd\n"
    assert run("verify").stdout == "tiny: whole\nodd: whole\n"


def test_offline_error_names_the_files_to_copy(root: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_OFFLINE", "1")
    ended = run("download", "tiny")
    assert ended.stderr == (
        "tiny: The checkpoint tiny is not installed and offline mode (MT3_OFFLINE) forbids downloads: copy "
        f"weights.bin (10,240 bytes, sha256 {SHA256}; now it is not there) to {root / 'tiny'}, for example from "
        "a machine where `mt3-infer download tiny` was run.\n"
    )
    assert site.requests == []


def test_the_mirror_is_filled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_CHECKPOINT_MIRROR", f"{site.url}/mirror")

    def keep(request: Request) -> Reply:
        site.routes[request.path] = static(request.body)
        return Reply(404 if request.method == "GET" else 201)

    site.missing = keep
    assert run("mirror", "tiny").stdout == "tiny: in the mirror\n"
    assert site.asked("PUT")[-1] == "/mirror/tiny/weights.bin"


def test_progress_is_described_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = FetchProgress("tiny", "w", 50_000_000, 200_000_000, 10_000_000, waiting=True)
    expected = "50.0 MB of 200.0 MB, 10.0 MB/s, 15 s left, another process downloads"
    assert cli.describe(progress) == expected
    assert cli.describe(FetchProgress("tiny", "w", 0, 10, 0.0, waiting=False)) == "0 B of 10 B"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with cli.fetch_bar() as report:
        report(progress)


def test_the_script_does_as_the_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            return ended.code
        return 0

    assert script("--models", "tiny", "odd") == 0
    assert script("--list") == 0
    listed = capsys.readouterr().out.splitlines()[-3:]
    assert listed == [
        "tiny (tiny_alias): 10.2 kB, MIT, installed",
        "bad (bad_alias): 10.2 kB, MIT, not installed",
        "odd (odd_alias): 10.2 kB, MIT, installed",
    ]
    assert script() == 1
