"""Settings, read from the environment once at each entry point and immutable from then on."""

from __future__ import annotations

import json
import os
import re
import sys
from base64 import b64decode
from datetime import UTC, datetime
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.tracing import refusal

OTHER_VARIABLES = frozenset({"MT3_SERVER", "MT3_API_KEY"})  # of commands that are clients
OTHER_PREFIXES = ("MT3_CHECKPOINTS_", "MT3_TEST_")
REFUSED = 2  # the exit status of a process that a wrong setting keeps from starting
HOST_NAME = re.compile(r"\*|\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]+(\.[0-9.]+)?")
ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
RATE_LIMIT = re.compile(r"[1-9]\d{0,8} ?/ ?(second|minute|hour|day)")
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Every setting of the service, as `MT3_<NAME>` in the environment; `.env.example` explains each one."""

    model_config = SettingsConfigDict(env_prefix="MT3_", env_ignore_empty=True, frozen=True, extra="ignore")

    database_url: str = "sqlite:///var/mt3.sqlite3"
    redis_tls_verify: bool = True  # before the URL, whose validator reads it
    redis_url: str = "redis://127.0.0.1:6379/0"
    storage_url: str = "file:///var/lib/mt3-infer"
    s3_endpoint_url: str | None = None
    s3_public_endpoint_url: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_region: str = "us-east-1"
    auth: Literal["none", "keys"] = "none"
    webhook_secret: SecretStr | None = None
    rate_limit_read: str = ""
    rate_limit_write: str = ""
    quota_jobs: Annotated[int, Field(ge=0)] | None = None
    quota_audio_seconds: Annotated[float, Field(ge=0)] | None = None
    quota_stored_bytes: Annotated[int, Field(ge=0)] | None = None
    cors_origins: Annotated[frozenset[str], NoDecode] = frozenset()
    allowed_hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    allowed_networks: Annotated[frozenset[str], NoDecode] = frozenset()
    link_seconds: Annotated[int, Field(gt=0, le=300)] = 300

    checkpoint_dir: Path | None = None
    checkpoint_mirror: str | None = None
    checkpoint_catalog: Path | None = None
    sound_font: Path | None = None
    offline: bool = False
    default_model: str = "auto"
    licenses: Literal["any", "commercial"] = "any"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    estimates: bool = True

    max_upload_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    max_recording_bytes: Annotated[int, Field(gt=0)] = 5 * 1024**3
    upload_part_bytes: Annotated[int, Field(ge=16 * 1024, le=1024**3)] = 5 * 1024**2
    upload_hours: Seconds = 72
    fetch_seconds: Seconds = 1800
    slow_client_seconds: Annotated[float, Field(ge=1, le=60)] = 25
    max_streams: Annotated[int, Field(ge=0)] = 200
    max_stored_bytes: Annotated[int, Field(gt=0)] | None = None
    stream_seconds: Annotated[float, Field(gt=0, le=3600)] = 300
    max_audio_seconds: Seconds = 3 * 3600 + 600
    probe_seconds: Annotated[float, Field(ge=1)] = 3
    probe_memory_bytes: Annotated[int, Field(ge=64 * 1024**2)] = 512 * 1024**2
    result_ttl_days: Seconds = 30
    upload_ttl_days: Seconds | None = None
    orphan_hours: Seconds = 24

    shard_seconds: Annotated[float, Field(ge=0)] = 600
    worker_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    lease_seconds: Annotated[float, Field(ge=1)] = 30
    stall_seconds: Seconds = 900
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    retry_seconds: Seconds = 5
    visibility_timeout_seconds: Annotated[int, Field(ge=1)] = 3600
    scheduler_seconds: Annotated[float, Field(gt=0, le=60)] = 1
    liveness_file: Path | None = None
    liveness_seconds: Annotated[float, Field(ge=2)] = 60

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"
    access_log: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0

    @field_validator("database_url")
    @classmethod
    def _database_url_is_known(cls, url: str) -> str:
        """Accept the two databases that the migrations are tested on, with the bundled driver."""
        scheme, _, rest = url.partition("://")
        if scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg://{rest}"
        if scheme in ("postgresql+psycopg", "sqlite"):
            return url
        raise ValueError("must start with postgresql:// or sqlite:///")

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_known(cls, url: str, info: ValidationInfo) -> str:
        """Add the certificate check to a TLS URL: by default Celery verifies nothing and redis-py does."""
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("must start with redis:// or rediss://")
        if parts.scheme == "redis":
            return url
        query = dict(parse_qsl(parts.query))
        default = "required" if info.data.get("redis_tls_verify", True) else "none"
        check = query.get("ssl_cert_reqs", default).lower().removeprefix("cert_")
        if check not in ("required", "optional", "none"):
            raise ValueError("ssl_cert_reqs must be required, optional or none")
        return parts._replace(query=urlencode({**query, "ssl_cert_reqs": check}, safe="/")).geturl()

    @field_validator("storage_url")
    @classmethod
    def _storage_url_is_known(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
            return url
        if parts.scheme == "s3" and parts.netloc:
            return url
        raise ValueError("must be file:///an/absolute/folder or s3://bucket/prefix")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_allowed_hosts(cls, names: object) -> object:
        if not isinstance(names, str):
            return names
        found = frozenset(name.strip().strip("[]").lower() for name in names.split(",") if name.strip())
        for name in found:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a host name: write names without scheme and port, or *")
        return found

    @field_validator("webhook_secret")
    @classmethod
    def _webhook_secret_is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            try:
                size = len(b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True))
            except ValueError:
                size = 0
            if not 24 <= size <= 64:
                raise ValueError("must be whsec_ and the base64 of 24 to 64 random bytes")
        return secret

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _split_allowed_networks(cls, entries: object) -> object:
        if not isinstance(entries, str):
            return entries
        found = frozenset(entry.strip().lower() for entry in entries.split(",") if entry.strip())
        for entry in found:
            try:
                ip_network(entry)
            except ValueError:
                if "/" in entry or "*" in entry or not HOST_NAME.fullmatch(entry):
                    raise ValueError(
                        f"{entry!r} is neither a network such as 10.2.0.0/16 nor a host name"
                    ) from None
        return found

    @field_validator("rate_limit_read", "rate_limit_write")
    @classmethod
    def _rate_limits_are_known(cls, limits: str) -> str:
        for limit in filter(None, (limit.strip() for limit in limits.split(";"))):
            if not RATE_LIMIT.fullmatch(limit):
                raise ValueError(f"{limit!r} is not a rate: write 10/second or 600/minute, several with ; between")
        return limits

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_cors_origins(cls, origins: object, info: ValidationInfo) -> object:
        if not isinstance(origins, str):
            return origins
        found = frozenset(origin.strip().lower() for origin in origins.split(",") if origin.strip())
        for origin in found:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin: write https://app.example.org without a path")
        if "*" in found and info.data.get("auth") != "keys":
            raise ValueError("* needs MT3_AUTH=keys: any page on the web could use the service")
        return found

    @field_validator("checkpoint_mirror")
    @classmethod
    def _checkpoint_mirror_is_known(cls, url: str | None) -> str | None:
        if url is None or (urlsplit(url).scheme in ("s3", "http", "https") and urlsplit(url).netloc):
            return url
        raise ValueError("must be s3://bucket/prefix or an http address")


def read_settings() -> Settings:
    """Return the settings of this process, or print one clear line to stderr and exit with status 2."""
    if (refused := refusal() or _misspelled()) is not None:
        refuse_start(refused)
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "MT3_" + "_".join(str(part) for part in problem["loc"]).upper()
            message = problem["msg"].removeprefix("Value error, ")
            _report(f"{name} is wrong: {message}")
        raise SystemExit(REFUSED) from None


def _misspelled() -> str | None:
    """Return why the name of an environment variable is wrong; None if all are settings or far from any."""
    known = {f"MT3_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    # Kubernetes adds variables of its own, named after services; so a name alone is no error.
    for name in sorted(os.environ.keys() - known):
        is_ours = name.startswith("MT3_") and not name.startswith(OTHER_PREFIXES)
        if is_ours and (near := get_close_matches(name, known, n=1, cutoff=0.85)):
            return f"{name} is no setting: did you mean {near[0]}?"
    return None


def refuse_start(message: str) -> NoReturn:
    """Print why the process does not start, in one line, and exit; a supervisor does not start it again."""
    _report(message)
    raise SystemExit(REFUSED)


def _report(message: str) -> None:
    """Write a line to stderr, in the shape of the log if that is JSON: it cannot be configured yet."""
    if os.environ.get("MT3_LOG_FORMAT", "").lower() == "json":
        line = {"event": "invalid_settings", "level": "critical", "logger": __name__, "message": message}
        message = json.dumps({**line, "timestamp": datetime.now(UTC).isoformat()})
    else:
        message = f"mt3-infer: {message}"
    sys.stderr.write(f"{message}\n")
