"""Converts every error to a problem document (RFC 9457) with a stable `code`."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from apiflask import APIFlask
from apiflask.exceptions import HTTPError
from flask import Response, json, request
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from mt3_infer.errors import MT3Error
from shared.errors import ObjectMissing, ServiceError, StorageUnavailable, is_disk_full
from shared.logs import get_logger
from web.forms import FormTooLarge
from web.problem_types import problem_type

log = get_logger(__name__)

STATUS_OF = {
    "not_found": 404,
    "state_conflict": 409,
    "precondition_failed": 412,
    "idempotency_conflict": 422,
    "invalid_cursor": 422,
    "key_not_found": 404,
    "share_not_found": 404,
    "invalid_request": 422,
    "unknown_model": 422,
    "unknown_format": 422,
    "license_not_admitted": 422,
    "invalid_option": 422,
    "empty_upload": 422,
    "address_refused": 422,
    "upload_incomplete": 409,
    "checksum_mismatch": 422,
    "unavailable": 503,
    "notes_gone": 410,
    "recording_removed": 410,
    "storage_full": 507,
}
CODE_OF = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    412: "precondition_failed",
    413: "upload_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid_request",
}
MISSING_IN_POSTGRESQL = ("42P01", "42703")  # undefined table or column: the migrations have not run yet


class InvalidRequest(ServiceError):  # noqa: N818
    """A parameter or field of the request is invalid."""

    code = "invalid_request"


class UnknownModel(ServiceError):  # noqa: N818
    """No model has that name or alias."""

    code = "unknown_model"


class LicenseNotAdmitted(ServiceError):  # noqa: N818
    """The license of the model's weights is not among those that the service admits."""

    code = "license_not_admitted"


class EmptyUpload(ServiceError):  # noqa: N818
    """A file of 0 bytes."""

    code = "empty_upload"


def problem(status: int, code: str, detail: str, **more: Any) -> Response:
    """Return a problem document as a response."""
    kind = problem_type(code, status)
    body = {
        "type": kind.uri,
        "title": kind.title,
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }
    response = Response(json.dumps(body), status=status, content_type="application/problem+json")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "5"
    return response


def upload_too_large(limit: int) -> Response:
    """Return the response to an upload over the limit."""
    text = f"The upload exceeds the limit of {limit / 1e6:,.0f} MB. Send a shorter or more compressed recording."
    return problem(413, "upload_too_large", text)


def json_too_large(limit: int) -> Response:
    """Return the response to a JSON body over the limit."""
    return problem(413, "body_too_large", f"The JSON body exceeds the limit of {limit / 1e6:,.0f} MB. Send less.")


def no_room() -> Response:
    """Return the response while the disk for temporary files is full."""
    return problem(503, "unavailable", "The server has run out of disk space. Try again later.")


def register_error_handlers(app: APIFlask) -> None:
    """Register handlers that convert every exception to a problem document."""

    @app.error_processor
    def _from_apiflask(error: HTTPError) -> Response:
        if error.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
            return problem(error.status_code, CODE_OF.get(error.status_code, "http_error"), error.message or "")
        fields = {
            name: messages
            for location in (error.detail or {}).values()
            for name, messages in (location.items() if isinstance(location, dict) else ())
        }
        # `status.0` is the first of several values of the parameter `status`.
        named = [(re.sub(r"\.\d+", "", name), ", ".join(map(str, found))) for name, found in fields.items()]
        detail = "; ".join(dict.fromkeys(f"{name}: {text}" for name, text in named))
        return problem(422, "invalid_request", detail or "The request is invalid. See /docs.", errors=fields)

    @app.errorhandler(HTTPException)
    def _from_http(error: HTTPException) -> Response:
        status = error.code or 500
        detail = error.description or HTTPStatus(status).phrase
        if isinstance(error, FormTooLarge):
            return problem(status, "form_too_large", detail)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return upload_too_large(app.config["MAX_CONTENT_LENGTH"])
        if isinstance(error, NotFound):
            detail = "Not found. See /docs for the available endpoints."
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted({*(error.valid_methods or ())} - {"HEAD", "OPTIONS"}))
            detail = f"{request.method} is not allowed at this address. Allowed: {allowed}."
        response = problem(status, CODE_OF.get(status, "http_error"), detail)
        for name, value in error.get_headers():
            if name.lower() in ("allow", "content-range", "location"):
                response.headers[name] = value
        if 300 <= status < 400 and error.get_response().location:
            return error.get_response()  # type: ignore[return-value]
        return response

    @app.errorhandler(ServiceError)
    def _from_service(error: ServiceError) -> Response:
        if error.retryable:
            log.warning("dependency_unavailable", path=request.path, error=str(error))
        return problem(STATUS_OF.get(error.code, 400), error.code, str(error))

    @app.errorhandler(StorageUnavailable)
    def _from_storage(error: StorageUnavailable) -> Response:
        log.warning("dependency_unavailable", path=request.path, error=str(error))  # it may name hosts and folders
        return problem(503, "unavailable", "The storage is unavailable. Try again in a moment.")

    @app.errorhandler(ObjectMissing)
    def _from_missing_object(error: ObjectMissing) -> Response:
        log.error("object_missing", path=request.path, error=str(error))
        return problem(410, error.code, "The file is missing from the storage. Upload the recording again.")

    @app.errorhandler(MT3Error)
    def _from_library(error: MT3Error) -> Response:
        return problem(STATUS_OF.get(error.code, 400), error.code, str(error))

    @app.errorhandler(OperationalError)
    @app.errorhandler(InterfaceError)
    @app.errorhandler(PoolTimeout)
    def _from_database(error: Exception) -> Response:
        log.warning("database_unavailable", path=request.path, error=str(error).splitlines()[0])
        return problem(503, "unavailable", "The database is unavailable. Try again in a moment.")

    @app.errorhandler(OSError)
    def _from_disk(error: OSError) -> Response:
        if not is_disk_full(error):
            return _from_bug(error)
        log.warning("disk_full", path=request.path, error=str(error))
        return no_room()

    @app.errorhandler(ProgrammingError)
    def _from_statement(error: ProgrammingError) -> Response:
        if getattr(error.orig, "sqlstate", None) in MISSING_IN_POSTGRESQL:
            return _from_database(error)
        return _from_bug(error)

    @app.errorhandler(Exception)
    def _from_bug(error: Exception) -> Response:
        log.error("unexpected_error", path=request.path, exc_info=error)
        return problem(500, "internal_error", "Internal server error. The server log has the details.")
