"""Keys of clients, and log-ins of browsers with them.

Keys, cookies of log-ins and tokens of share links are random, so a plain SHA-256 of them is all that is stored:
there is nothing to guess, and nobody who reads the database can use what it holds.

A job belongs to an owner. The owner of a key's jobs is the key's id, unless the key was made for an owner that
exists, for example to replace another key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session
from uuid6 import uuid7

from shared.db import now_plus
from shared.errors import KeyNotFound
from shared.quotas import NO_QUOTAS, Quotas, quotas_of
from shared.tables import ApiKey, Login, Scope

KEY_PREFIX = "mt3_"  # by which scanners for leaked secrets, and people, know a key
LOGIN_PREFIX = "mt3l_"
SECRET_BYTES = 32
USED_SECONDS = 60.0  # between two records of the use of a key

PUBLIC = "public"
"""The owner of every job as long as the service has no keys (MT3_AUTH=none)."""


@dataclass(frozen=True)
class Identity:
    """Hold what a valid key or log-in stands for."""

    key_id: UUID
    name: str
    owner: str
    scope: Scope
    expires_at: datetime | None
    is_use_recorded: bool  # no longer than a minute ago
    quotas: Quotas = NO_QUOTAS  # its own, in place of those of the settings


def new_secret(prefix: str) -> str:
    """Return a random secret that fits into URLs, headers and cookies."""
    return prefix + secrets.token_urlsafe(SECRET_BYTES)


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def create_key(
    session: Session,
    name: str,
    *,
    scope: Scope = Scope.WRITE,
    expires_in: float | None = None,
    owner: str | None = None,
    quotas: Quotas = NO_QUOTAS,
) -> tuple[ApiKey, str]:
    """Create a key; return its row and the key itself, which cannot be read again.

    Args:
        expires_in: seconds; None for a key that does not expire.
        owner: of the jobs that the key gives access to; None for a new one.
        quotas: limits for requests with this key, in place of those of the settings.
    """
    key_id, secret = UUID(str(uuid7())), new_secret(KEY_PREFIX)
    key = ApiKey(
        id=key_id,
        hash=hash_secret(secret),
        name=name,
        owner=owner or str(key_id),
        scope=scope,
        created_at=now_plus(),
        expires_at=None if expires_in is None else now_plus(expires_in),
        quota_jobs=quotas.jobs,
        quota_audio_seconds=quotas.audio_seconds,
        quota_stored_bytes=quotas.stored_bytes,
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, secret


def list_keys(session: Session) -> Sequence[ApiKey]:
    """Return all keys, the oldest first, with those that have expired or were revoked."""
    return session.scalars(select(ApiKey).order_by(ApiKey.id)).all()


def state_of(key: ApiKey) -> str:
    """Return `valid`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    has_expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if has_expired else "valid"


def revoke_key(session: Session, key_id: UUID) -> ApiKey:
    """Revoke a key and end the log-ins with it; a key that was revoked before stays as it is.

    Raises:
        KeyNotFound
    """
    revoked = func.coalesce(ApiKey.revoked_at, now_plus())
    key: ApiKey | None = session.scalar(
        update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=revoked).returning(ApiKey)
    )
    if key is None:
        raise KeyNotFound(f"There is no key {key_id}. See `mt3-infer keys list`.")
    session.execute(delete(Login).where(Login.key_id == key_id))
    return key


def find_identity(session: Session, secret: str) -> Identity | None:
    """Return what a key or the cookie of a log-in stands for; None if it is unknown, expired or revoked."""
    digest = hash_secret(secret)
    if secret.startswith(LOGIN_PREFIX):
        query = _valid_keys(Login.hash).join(Login, Login.key_id == ApiKey.id)
        query = query.where(Login.hash == digest, Login.expires_at > now_plus())
    elif secret.startswith(KEY_PREFIX):
        query = _valid_keys(ApiKey.hash).where(ApiKey.hash == digest)
    else:
        return None
    row = session.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row[0], digest):
        return None
    return _identity(row)


def record_use(session: Session, key_id: UUID) -> None:
    """Record that a key is in use, unless that was recorded within the last minute."""
    used = update(ApiKey).where(ApiKey.id == key_id, _not_recorded()).values(last_used_at=now_plus())
    session.execute(used)


def open_login(session: Session, key_id: UUID, *, seconds: float) -> str:
    """Log a browser in with a key, and remove log-ins that have expired; return the value of its cookie."""
    secret = new_secret(LOGIN_PREFIX)
    session.execute(delete(Login).where(Login.expires_at < now_plus()))
    values = {"hash": hash_secret(secret), "key_id": key_id, "created_at": now_plus()}
    session.execute(insert(Login).values(values | {"expires_at": now_plus(seconds)}))
    return secret


def close_login(session: Session, secret: str) -> None:
    """Log a browser out."""
    session.execute(delete(Login).where(Login.hash == hash_secret(secret)))


def _valid_keys(digest: InstrumentedAttribute[str]) -> Select[str, ApiKey, bool]:
    return select(digest, ApiKey, _not_recorded()).where(
        ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now_plus())
    )


def _not_recorded() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now_plus(-USED_SECONDS))


def _identity(row: Row[str, ApiKey, bool]) -> Identity:
    _, key, is_due = row
    return Identity(
        key_id=key.id,
        name=key.name,
        owner=key.owner,
        scope=key.scope,
        expires_at=key.expires_at,
        is_use_recorded=not is_due,
        quotas=quotas_of(key),
    )
