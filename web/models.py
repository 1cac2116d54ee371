"""`/v1/models`: the models, the size of their weights and their measured speed."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import select

from mt3_infer.models import MODELS
from shared.default_model import AUTO, PREFERENCE
from shared.tables import ModelReport
from web.errors import LicenseNotAdmitted, UnknownModel, problem
from web.schemas import ModelList, ModelView
from web.services import Services, services
from web.uploads import admitted_models, find_model, resolve_model

blueprint = APIBlueprint("models", __name__, url_prefix="/v1/models", tag="Models")


@blueprint.get("")
@blueprint.output(ModelList)
@blueprint.doc(summary="List the models")
def index() -> dict[str, Any]:
    """Return all models."""
    name = services().settings.default_model
    default = name if name == AUTO else find_model(services(), name)
    preferred = next(name for name in PREFERENCE if name in admitted_models(services()))
    views = _views(services())
    return ModelList(items=views, default=default, preferred=preferred).model_dump(mode="json")


@blueprint.get("/<name>")
@blueprint.output(ModelView)
@blueprint.doc(summary="Get a model by name or alias", responses=[404])
def show(name: str) -> dict[str, Any] | Response:
    """Return one model."""
    try:
        name = resolve_model(services(), name)
    except (UnknownModel, LicenseNotAdmitted) as error:
        return problem(404, error.code, str(error))
    return next(view for view in _views(services()) if view.name == name).model_dump(mode="json")


def _views(services: Services) -> list[ModelView]:
    with services.sessions() as session:
        reports = {report.name: report for report in session.scalars(select(ModelReport))}
    default = resolve_model(services, None)
    return [
        _view(services, name, report=reports.get(name), is_default=name == default)
        for name in admitted_models(services)
    ]


def _view(services: Services, name: str, *, report: ModelReport | None, is_default: bool) -> ModelView:
    entry, spec = services.catalog.entries[name], MODELS[name]
    speed = report.realtime_factor if report else None
    return ModelView(
        name=name,
        title=spec.title,
        description=spec.description,
        purpose=spec.purpose,
        aliases=list(entry.aliases),
        license=entry.license,
        license_url=entry.license_url,
        commercial_use=entry.allows_commercial_use,
        training_data=entry.training_data,
        attribution=entry.attribution,
        size=sum(file.size for file in entry.files),
        files=[{"name": f.name, "size": f.size, "sha256": f.sha256} for f in entry.files],
        installed=bool(report and report.installed),
        download=report.download if report else None,
        error=report.error if report else None,
        default=is_default,
        variant_of=entry.variant_of,
        options=spec.options.model_json_schema().get("properties", {}),
        realtime_factor=round(speed, 1) if speed else None,
    )
