"""Settings, read from the environment once at each entry point and immutable from then on."""

from __future__ import annotations

import re
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HOST_NAME = re.compile(r"\*|\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]+(\.[0-9.]+)?")
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
    device: str = "auto"
    estimates: bool = True

    max_upload_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    slow_client_seconds: Annotated[float, Field(ge=1, le=60)] = 25
    max_audio_seconds: Seconds = 3 * 3600 + 600
    probe_seconds: Annotated[float, Field(ge=1)] = 3
    probe_memory_bytes: Annotated[int, Field(ge=64 * 1024**2)] = 512 * 1024**2
    result_ttl_days: Seconds = 30
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

    @field_validator("checkpoint_mirror")
    @classmethod
    def _checkpoint_mirror_is_known(cls, url: str | None) -> str | None:
        if url is None or (urlsplit(url).scheme in ("s3", "http", "https") and urlsplit(url).netloc):
            return url
        raise ValueError("must be s3://bucket/prefix or an http address")


def read_settings() -> Settings:
    """Return the settings of this process, or print one clear line to stderr and exit with status 2."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "MT3_" + "_".join(str(part) for part in problem["loc"]).upper()
            message = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"mt3-infer: {name} is wrong: {message}\n")
        raise SystemExit(2) from None
