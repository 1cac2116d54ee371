"""Write .env, which Docker Compose reads, from .env.example, with random passwords.

An .env that is there stays as it is. This needs nothing but Python: `make env` runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "MT3_S3_SECRET_ACCESS_KEY")


def filled(example: str) -> str:
    """Return the example with a value for each password."""
    for name in SECRETS:
        example, found = re.subn(rf"^{name}=.*$", f"{name}={secrets.token_hex(24)}", example, flags=re.M)
        assert found == 1, name
    return example


def main() -> None:
    """Write the file, readable by its owner alone."""
    try:
        file = os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        text = Path(".env").read_text(encoding="utf-8")
        missing = [name for name in SECRETS if not re.search(rf"^{name}=\S", text, re.M)]
        if missing:
            sys.exit(
                f".env has no {', '.join(missing)}: give each a password, or move the file away and run make env."
            )
        sys.stdout.write(".env is there already, and stays as it is.\n")
        return
    with os.fdopen(file, "w", encoding="utf-8") as output:
        output.write(filled(Path(".env.example").read_text(encoding="utf-8")))
    sys.stdout.write("Wrote .env with random passwords. Next: docker compose up --build\n")


if __name__ == "__main__":
    main()
