"""Find the recordings of a command, and the output file of each.

No file is opened here: whatever is wrong with names is found before any work.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from mt3_infer.exports import ENDINGS

PIPE = "-"
"""Standard input as a recording, standard output as a result."""

SUFFIXES = {ending[1:]: ending for ending in ENDINGS if ending not in (".midi", ".ogg")}
"""The ending of a result's name, by the name of its format."""
FORMATS = {".midi": "mid", ".ogg": "opus"} | {ending: name for name, ending in SUFFIXES.items()}

RECORDINGS = frozenset(
    """
    .3g2 .3gp .aac .ac3 .aif .aifc .aiff .amr .asf .au .avi .awb .caf .dts .eac3 .ec3 .f4v .flac .flv .m2ts .m4a
    .m4b .m4r .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpeg .mpg .mts .oga .ogg .ogv .opus .qt .rf64 .snd .spx .ts .vob
    .w64 .wav .wave .weba .webm .wma .wmv .wv
    """.split()  # noqa: SIM905  a list would take a page
)
"""Endings of names by which recordings are known in a folder, and which a result's name does not keep."""


@dataclass(frozen=True)
class Recording:
    """A requested recording.

    Attributes:
        source: its path, or `PIPE`.
        folder: the folder in which it was found, where one was named; the recording alone otherwise.
        problem: why it cannot be transcribed, where that is known already.
    """

    source: str
    folder: Path | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """Return the name of its result without a suffix: the same for `Op. 27 No. 2.flac` and `Op. 27 No. 2`."""
        if self.source == PIPE:
            return "stdin"
        path = Path(self.source)
        return path.stem if path.suffix.lower() in RECORDINGS else path.name

    @property
    def has_place(self) -> bool:
        """Return False for standard input and other open descriptors: no result can lie beside them."""
        parent = os.path.realpath(os.path.dirname(self.source) or ".")
        return self.source != PIPE and parent != "/dev" and not parent.startswith("/proc/")


def find_recordings(arguments: Sequence[str]) -> list[Recording]:
    """Find the recordings that are meant by names of files and folders, and by patterns.

    Each file comes once, however often it is named.
    """
    found: dict[str, Recording] = {}
    for argument in arguments:
        for recording in _meant_by(argument):
            key = PIPE if recording.source == PIPE else os.path.realpath(recording.source)
            found.setdefault(key, recording)
    return list(found.values())


def pair_with_outputs(
    recordings: Sequence[Recording], output: str | None, file_format: str | None
) -> dict[Recording, Path | None]:
    """Decide which file each recording is written to; None is standard output.

    Recordings that have a problem are left out.

    Raises:
        click.UsageError: OUTPUT does not suit them, or two of them would be written to one file.
    """
    usable = [recording for recording in recordings if recording.problem is None]
    if output == PIPE or (output is not None and _is_file_name(output, file_format, several=len(recordings) > 1)):
        if len(recordings) != 1:
            place = "Standard output" if output == PIPE else output
            raise click.UsageError(
                f"{place} takes one recording, and there are {len(recordings)}: pass a folder, as in -o results/."
            )
        return {recording: None if output == PIPE else Path(output) for recording in usable}
    suffix = SUFFIXES[file_format or "mid"]
    targets: dict[Recording, Path | None] = {}
    owners: dict[str, Recording] = {}
    for recording in usable:
        target = _place(recording, output) / (recording.name + suffix)
        other = owners.setdefault(os.path.realpath(target), recording)
        if other is not recording:
            raise click.UsageError(
                f"{other.source} and {recording.source} would both be written to {target}:"
                " rename one, or transcribe them separately."
            )
        targets[recording] = target
    return targets


def format_of(target: Path | None, file_format: str | None) -> str:
    """Return the requested format, by option or by the name of the file to write."""
    return file_format or FORMATS.get(target.suffix.lower() if target is not None else "", "mid")


def _meant_by(argument: str) -> Iterator[Recording]:
    if not argument:
        raise click.UsageError("A FILE is empty: pass the path of a recording.")
    if argument == PIPE:
        if sys.stdin.isatty():
            raise click.UsageError("Standard input is a terminal: pipe a recording into it, or pass its path.")
        yield Recording(PIPE)
    elif os.path.isdir(argument):
        yield from _in_folder(argument)
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        yield from _matching(argument)
    elif "://" in argument and not os.path.exists(argument):
        yield Recording(argument, problem="This is a URL: download the recording and pass its path.")
    else:
        try:
            os.stat(argument)
            yield Recording(argument)
        except OSError as error:
            yield Recording(argument, problem=f"{error.strerror}.")


def _matching(pattern: str) -> Iterator[Recording]:
    """Yield the files and folders that a pattern matches; only those named like recordings if it has no suffix."""
    suffix = Path(pattern).suffix
    is_any = not suffix or glob.has_magic(suffix)
    is_empty = True
    # Those with the fewest folders first: of a file that a link leads to as well, the plain name is kept.
    for match in sorted(glob.glob(pattern, recursive=True), key=lambda name: (name.count(os.sep), name)):
        if os.path.isdir(match):
            if "**" not in pattern:  # which matches the files in the folder, too
                is_empty = False
                yield from _in_folder(match)
        elif not is_any or Path(match).suffix.lower() in RECORDINGS:
            is_empty = False
            yield Recording(match)
    if is_empty:
        yield Recording(pattern, problem="No recording matches this pattern.")


def _in_folder(folder: str) -> Iterator[Recording]:
    """Yield what looks like a recording in a folder and the folders in it, but nothing hidden."""
    is_empty = True
    problems: list[Recording] = []

    def note(error: OSError) -> None:
        problems.append(Recording(str(error.filename), problem=f"The folder cannot be read: {error.strerror}."))

    for parent, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in RECORDINGS:
                is_empty = False
                yield Recording(os.path.join(parent, name), folder=Path(folder))
    yield from problems
    if is_empty and not problems:
        yield Recording(folder, problem="The folder holds no recordings.")


def _is_file_name(output: str, file_format: str | None, *, several: bool) -> bool:
    """Return True for the name of a file to write, False for that of a folder.

    Raises:
        click.UsageError: it is neither.
    """
    if not output:
        raise click.UsageError("The output is empty: pass a file or a folder after -o.")
    if output.endswith(os.sep) or os.path.isdir(output):
        return False
    if os.path.exists(output) and not os.path.isfile(output):  # a device or a pipe
        return True
    suffix = Path(output).suffix.lower()
    named = FORMATS.get(suffix)
    if named is not None and file_format in (None, named):
        return True
    if named is None and not suffix and not os.path.lexists(output):
        return False
    if several and os.path.lexists(output):
        raise click.UsageError(f"Several recordings need a folder to be written to, and {output} is a file.")
    wanted = SUFFIXES[file_format] if file_format else f"one of {', '.join(SUFFIXES.values())}"
    raise click.UsageError(f"The output must end in {wanted}, or in / to be a folder: {output}")


def _place(recording: Recording, output: str | None) -> Path:
    """Return the folder to write to: under OUTPUT as under the folder that was named, or beside the recording."""
    parent = Path(recording.source).parent
    if output is None:
        if not recording.has_place:
            raise click.UsageError(
                f"A recording from {recording.source} has no place for its result: pass -o FILE, or -o - for"
                " standard output."
            )
        return parent
    return Path(output) / (parent.relative_to(recording.folder) if recording.folder is not None else ".")


def write_to_stdout(write: Callable[[Path], object]) -> None:
    """Have a file written, and copy it to standard output once all of it is there.

    Raises:
        BrokenPipeError: the reader has gone.
    """
    with tempfile.TemporaryDirectory(prefix="mt3-infer-") as folder:
        part = Path(folder, "result")
        write(part)
        try:
            with part.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # What is left in the buffer would be an error once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise
