"""`/v1/models`: what can be asked for, what it weighs, and how fast it runs here."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from sqlalchemy import select

from mt3_infer.models import MODELS
from shared.tables import ModelReport
from web.parts import Parts, parts
from web.schemas import ModelList, ModelView
from web.uploads import resolve_model

blueprint = APIBlueprint("models", __name__, url_prefix="/v1/models", tag="Models")


@blueprint.get("")
@blueprint.output(ModelList)
@blueprint.doc(summary="List the models")
def index() -> dict[str, Any]:
    """All models."""
    return ModelList(items=_views(parts())).model_dump(mode="json")


@blueprint.get("/<name>")
@blueprint.output(ModelView)
@blueprint.doc(summary="Look at one model, by name or alias", responses=[422])
def show(name: str) -> dict[str, Any]:
    """One model."""
    name = resolve_model(parts(), name)
    return next(view for view in _views(parts()) if view.name == name).model_dump(mode="json")


def _views(parts: Parts) -> list[ModelView]:
    with parts.sessions() as session:
        reports = {report.name: report for report in session.scalars(select(ModelReport))}
    default = resolve_model(parts, None)
    return [
        _view(parts, name, report=reports.get(name), is_default=name == default)
        for name in parts.catalog.entries
        if name in MODELS
    ]


def _view(parts: Parts, name: str, *, report: ModelReport | None, is_default: bool) -> ModelView:
    entry, spec = parts.catalog.entries[name], MODELS[name]
    speed = report.realtime_factor if report else None
    return ModelView(
        name=name,
        title=spec.title,
        description=spec.description,
        aliases=list(entry.aliases),
        licence=entry.licence,
        size=sum(file.size for file in entry.files),
        files=[{"name": f.name, "size": f.size, "sha256": f.sha256} for f in entry.files],
        installed=bool(report and report.installed),
        default=is_default,
        variant_of=entry.variant_of,
        options=spec.options.model_json_schema().get("properties", {}),
        realtime_factor=round(speed, 1) if speed else None,
    )
