"""A service as it is often written: Flask, a row, a file and a Celery task, and no promise about any of them.

The other side of `bench/api.py`: the same servers, the same answers in short; no checks of the request, no
idempotency, no outbox, no fairness, no progress.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from celery import Celery
from flask import Flask, Response, jsonify, request
from sqlalchemy import DateTime, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """Tables of the bare application."""


class BareJob(Base):
    """A job, as far as a client sees it."""

    __tablename__ = "bare_jobs"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), default="queued")
    filename: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def make_sessions(url: str) -> sessionmaker[Session]:
    """Return sessions on a database, and make the table."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), pool_size=20)
    Base.metadata.create_all(engine)
    return sessionmaker(engine, expire_on_commit=False)


def create_app() -> Flask:
    """Return the application, with its settings from the environment."""
    app = Flask(__name__)
    sessions = make_sessions(os.environ["BARE_DATABASE_URL"])
    celery = Celery(broker=os.environ["BARE_REDIS_URL"])
    folder = Path(os.environ["BARE_FOLDER"])

    @app.post("/v1/transcriptions")
    def submit() -> tuple[Response, int]:
        upload = request.files["file"]
        job = BareJob(id=str(uuid4()), filename=upload.filename, status="queued", created_at=datetime.now(UTC))
        upload.save(folder / job.id)
        with sessions.begin() as session:
            session.add(job)
        celery.send_task("bare.transcribe", [job.id])
        return _answer(job), 202

    @app.get("/v1/transcriptions/<job_id>")
    def poll(job_id: str) -> tuple[Response, int]:
        with sessions() as session:
            job = session.get(BareJob, job_id)
        return (_answer(job), 200) if job else (jsonify(error="not found"), 404)

    return app


def _answer(job: BareJob) -> Response:
    fields = {"id": job.id, "status": job.status, "name": job.filename, "created_at": job.created_at.isoformat()}
    return jsonify(fields)


if "BARE_DATABASE_URL" in os.environ:
    app = create_app()
