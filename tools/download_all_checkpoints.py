"""Download checkpoints without the `mt3-infer` command.

python tools/download_all_checkpoints.py                              all models
python tools/download_all_checkpoints.py --models mr_mt3 mt3_pytorch  some
python tools/download_all_checkpoints.py --list                       what there is
"""

from __future__ import annotations

import argparse
import sys

from checkpoints.cli import download, human_size
from checkpoints.errors import CheckpointError
from checkpoints.store import CheckpointStore


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description="Download the weights of models.")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models or aliases; all without it")
    parser.add_argument("--list", action="store_true", help="show what there is, and download nothing")
    chosen = parser.parse_args()
    if chosen.list:
        show()
    else:
        download.main(chosen.models or ["--all"], prog_name="download_all_checkpoints.py")


def show() -> None:
    """Print every checkpoint, variants too."""
    try:
        store = CheckpointStore.from_environment()
    except CheckpointError as error:
        sys.exit(str(error))
    for name, entry in store.catalog.entries.items():
        installed = "installed" if store.is_installed(name) else "not installed"
        aliases = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        sys.stdout.write(f"{name}{aliases}: {human_size(entry.size)}, {entry.license}, {installed}\n")


if __name__ == "__main__":
    main()
