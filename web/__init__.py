"""The web application: API, page and documentation. `web.asgi` serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import flask_swagger_ui
from apiflask import APIFlask
from flask import Response, g, request, send_from_directory
from structlog.contextvars import unbind_contextvars

from checkpoints.catalog import BUILT_IN, load_catalog
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from shared.errors import QuotaExceeded
from shared.line import WaitingLine
from shared.queue import BackgroundQueue, CeleryQueue, JobQueue, make_celery
from shared.storage import ObjectStorage, make_storage
from shared.stored import StoredTotal
from web import (
    archive,
    contract,
    corrections,
    cors,
    events,
    exports,
    health,
    login,
    metrics,
    models,
    page,
    reference,
    resumable,
    shares,
    transcriptions,
    webhooks,
)
from web.access import SECURITY_SCHEMES, current_owner, declare_access, needs, refuse_without_key
from web.browsers import refuse_foreign
from web.credentials import Credentials
from web.downloads import compress
from web.errors import json_too_large, register_error_handlers
from web.forms import FormRequest, StrictJson
from web.limits import limit_requests, refuse_over_quota
from web.log_context import log_owner
from web.schemas import Problem
from web.services import EXTENSION, Services
from web.sources import declare_json
from web.strict import refuse_unknown
from web.uploads import check_default_model

CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# The page of Swagger UI contains inline scripts and styles.
DOCS_POLICY = CONTENT_POLICY + "; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
MAX_JSON_BYTES = 64 * 1024**2
SWAGGER_FILES = Path(flask_swagger_ui.__file__).parent / "dist"


def create_app(
    settings: Settings,
    *,
    sessions: Sessions | None = None,
    storage: ObjectStorage | None = None,
    queue: JobQueue | None = None,
) -> APIFlask:
    """Create the Flask application; services that are not passed in are created from the settings."""
    app = APIFlask(
        __name__,
        title="MT3-Infer Service",
        version="0.1.0",
        docs_path="/docs",
        static_folder="static",
    )
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_upload_bytes,
        DESCRIPTION=(
            "Transcribe recordings to notes and MIDI. Upload anything from a short clip to a three-hour "
            "recording. Workers transcribe it; poll for progress and download the MIDI. "
            "Errors are `application/problem+json` (RFC 9457) with a stable `code`."
        ),
        LICENSE={"name": "Apache-2.0"},
        AUTO_SERVERS=False,
        AUTO_OPERATION_ID=True,
        SECURITY_SCHEMES=SECURITY_SCHEMES,
        HTTP_ERROR_SCHEMA=Problem.model_json_schema(),
        VALIDATION_ERROR_SCHEMA=Problem.model_json_schema(),
        SWAGGER_UI_CSS="/docs/assets/swagger-ui.css",
        SWAGGER_UI_BUNDLE_JS="/docs/assets/swagger-ui-bundle.js",
        SWAGGER_UI_STANDALONE_PRESET_JS="/docs/assets/swagger-ui-standalone-preset.js",
        DOCS_FAVICON="/static/favicon.svg",
    )
    app.request_class = FormRequest
    app.json = StrictJson(app)
    sessions = sessions or make_sessions(make_engine(settings))
    app.extensions[EXTENSION] = Services(
        settings=settings,
        sessions=sessions,
        storage=storage or make_storage(settings),
        queue=queue or BackgroundQueue(CeleryQueue(make_celery(settings))),
        catalog=load_catalog(settings.checkpoint_catalog or BUILT_IN),
        line=WaitingLine(shard_seconds=settings.shard_seconds),
        credentials=Credentials(sessions),
        stored=StoredTotal(sessions, settings.max_stored_bytes),
    )
    check_default_model(app.extensions[EXTENSION])  # fail now if MT3_DEFAULT_MODEL is wrong
    for module in (
        transcriptions,
        archive,
        resumable,
        events,
        webhooks,
        exports,
        corrections,
        shares,
        models,
        login,
        health,
        metrics,
        reference,
        page,
    ):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(shares.shared_blueprint)
    app.register_blueprint(shares.page_blueprint)
    register_error_handlers(app)
    app.register_error_handler(QuotaExceeded, refuse_over_quota)
    app.spec_processor(_complete_spec)
    _add_pages(app)
    return app


def _complete_spec(spec: dict[str, Any] | str) -> dict[str, Any] | str:
    assert isinstance(spec, dict)
    declare_json(spec)
    declare_access(spec)
    contract.complete(spec)
    return spec


def _add_pages(app: APIFlask) -> None:
    @app.get("/docs/assets/<path:name>")
    @app.doc(hide=True)
    @needs(None)
    def docs_asset(name: str) -> Response:
        return send_from_directory(SWAGGER_FILES, name)

    @app.before_request
    def refuse_other_sites() -> Response | None:
        settings = app.extensions[EXTENSION].settings
        return refuse_foreign(request, settings) or cors.answer_preflight(request, settings)

    @app.before_request
    def check_access() -> Response | None:
        refusal = refuse_without_key(app, request)
        if "access" in g:
            log_owner(request.environ, current_owner())
        return refusal

    @app.teardown_request
    def end_log_context(_error: BaseException | None) -> None:
        unbind_contextvars("owner")

    limit_requests(app)

    @app.before_request
    def refuse_unknown_names() -> Response | None:
        if request.is_json and (request.content_length or 0) > MAX_JSON_BYTES:
            return json_too_large(MAX_JSON_BYTES)  # it would be held in memory
        if request.path.startswith("/v1/") and request.endpoint is not None:
            refuse_unknown(app.view_functions[request.endpoint], cast(FormRequest, request))
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        policy = DOCS_POLICY if request.path == "/docs" else CONTENT_POLICY
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        if request.path.startswith("/v1/") or response.status_code >= 400:
            response.headers.setdefault("Cache-Control", "no-store")  # caches may keep even a 404 otherwise
        cors.add_headers(response, request, app.extensions[EXTENSION].settings)
        return compress(response, request)
