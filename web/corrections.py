"""`/v1/transcriptions/{id}/corrections`: the version of the notes that a user has mended."""

from __future__ import annotations

import hashlib
import io
import json
from itertools import pairwise
from typing import Annotated, Any, Literal
from uuid import UUID

import uuid6
from apiflask import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mt3_infer.symbolic.grid import KEYS, LATEST, is_meter
from shared import corrections
from shared.exports import CORRECTIONS, NOTES
from shared.storage import corrections_prefix, put_checked
from shared.tables import Job
from web.access import current_owner
from web.schemas import ArtifactView
from web.services import services
from web.views import view_artifact
from web.workload import Workload, works_with

MAX_NOTES = 200_000
MAX_BEATS = 200_000

Seconds = Annotated[float, Field(ge=0, le=LATEST, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, le=127)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

blueprint = APIBlueprint(
    "corrections", __name__, url_prefix="/v1/transcriptions/<uuid:job_id>/corrections", tag="Corrections"
)


class Strict(BaseModel):
    """A part of the body: every field has its own type, and no others are taken."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Span(Strict):
    """Hold what begins and ends."""

    onset: Seconds
    offset: Seconds

    @model_validator(mode="after")
    def _ends_later(self) -> Span:
        if self.offset <= self.onset:
            raise ValueError("offset must be later than onset")
        return self


class CorrectedNote(Span):
    """One note."""

    pitch: Number
    velocity: Annotated[int, Field(ge=1, le=127)]
    program: Number = 0
    is_drum: bool = False
    confidence: Share | None = None


class CorrectedPedal(Span):
    """One use of a pedal."""

    controller: Number = 64


class NewCorrections(Strict):
    """The body of `PUT …/corrections`: a whole notes.json of version 2."""

    format: Literal["mt3-infer/notes"]
    version: Literal[2]
    notes: list[CorrectedNote] = Field(max_length=MAX_NOTES)
    beats: list[Seconds] = Field(default_factory=list, max_length=MAX_BEATS)
    downbeats: list[Seconds] = Field(default_factory=list, max_length=MAX_BEATS)
    meter: str = Field("", max_length=8, description='As "3/4", or empty.')
    tempo_bpm: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0
    key: str = Field("", max_length=16, description='As "G major", or empty.')
    confidence: dict[str, Share] = Field(default_factory=dict, max_length=8)
    pedals: list[CorrectedPedal] = Field(default_factory=list, max_length=MAX_NOTES)
    duration: Seconds | None = Field(None, description="Ignored; that of the recording stays.")
    provenance: dict[str, Any] | None = Field(None, description="Ignored; that of the transcription stays.")
    warnings: list[Any] | None = Field(None, description="Ignored; those of the transcription stay.")

    @field_validator("beats", "downbeats")
    @classmethod
    def _ascend(cls, times: list[float], info: ValidationInfo) -> list[float]:
        if any(after <= before for before, after in pairwise(times)):
            raise ValueError(f"{info.field_name} must ascend")
        return times

    @field_validator("meter")
    @classmethod
    def _known_meter(cls, meter: str) -> str:
        if meter and not is_meter(meter):
            raise ValueError("meter must be a time signature, such as 3/4")
        return meter

    @field_validator("key")
    @classmethod
    def _known_key(cls, key: str) -> str:
        if key and key not in KEYS:
            raise ValueError("key must be a key, such as G major")
        return key


class PutHeaders(BaseModel):
    """Headers of `PUT …/corrections`."""

    if_match: str | None = Field(
        None,
        description="The `sha256` of the corrections that these replace, in quotes: 412 if others are stored.",
    )
    if_none_match: str | None = Field(None, description="`*`: 412 if corrections are stored.")

    @property
    def expected(self) -> str | None:
        """The SHA-256 of the corrections that the client has seen; "": there were none, None: any."""
        if self.if_match is not None and self.if_match != "*":
            return self.if_match.strip('"')
        return "" if self.if_none_match == "*" else None


@blueprint.put("")
@blueprint.input(PutHeaders, location="headers", arg_name="headers")
@blueprint.input(NewCorrections, arg_name="body")
@blueprint.output(ArtifactView)
@blueprint.doc(
    summary="Store corrected notes beside the original",
    description="The body is a notes.json of version 2; it replaces corrections that were stored before. Download "
    f"them as the artifact {CORRECTIONS}. Exports take them with `source: corrected`. `If-Match` "
    "keeps two clients from replacing each other's.",
    responses=[404, 409, 410, 412, 413, 503],
)
@works_with(Workload.STORAGE)
def put(job_id: UUID, headers: PutHeaders, body: NewCorrections) -> ArtifactView:
    """Store corrections."""
    with services().sessions.begin() as session:
        job = corrections.lock_job(session, current_owner(), job_id)
    content = json.dumps(_merged(job, body)).encode()
    corrections.check_expected(job, headers.expected, hashlib.sha256(content).hexdigest())
    prefix = corrections_prefix(job_id, uuid6.uuid7())
    stored = put_checked(
        services().storage, prefix + CORRECTIONS, io.BytesIO(content), content_type="application/json"
    )
    artifact = {
        "name": CORRECTIONS,
        "content_type": "application/json",
        "size": stored.size,
        "sha256": stored.sha256,
        "key": stored.key,
    }
    with services().sessions.begin() as session:
        corrections.replace_corrections(session, current_owner(), job_id, artifact, expected=headers.expected)
    return view_artifact(job_id, artifact)


@blueprint.delete("")
@blueprint.output({}, status_code=204)
@blueprint.doc(summary="Return to the original notes", responses=[404, 409])
def remove(job_id: UUID) -> tuple[str, int]:
    """Remove corrections; it is no error if there are none."""
    with services().sessions.begin() as session:
        corrections.replace_corrections(session, current_owner(), job_id, None)
    return "", 204


def _merged(job: Job, body: NewCorrections) -> dict[str, Any]:
    """Return the notes.json to store: of the client's what can be corrected, of the original all else."""
    key = next(artifact["key"] for artifact in job.artifacts if artifact["name"] == NOTES)
    with services().storage.open(key) as file:
        original: dict[str, Any] = json.load(file)
    before = {_identity(note) for note in original["notes"]}
    notes = sorted((note.model_dump() for note in body.notes), key=_order)
    after = {_identity(note) for note in notes}
    changes = {"notes_added": len(after - before), "notes_removed": len(before - after)}
    provenance = original["provenance"] | {"counters": original["provenance"]["counters"] | changes}
    corrected = body.model_dump(exclude={"format", "version", "notes", "duration", "provenance", "warnings"})
    return original | corrected | {"version": body.version, "provenance": provenance, "notes": notes}


def _identity(note: dict[str, Any]) -> tuple[Any, ...]:
    return (round(note["onset"], 6), round(note["offset"], 6), note["pitch"], note["velocity"], *_instrument(note))


def _instrument(note: dict[str, Any]) -> tuple[bool, int]:
    return bool(note.get("is_drum")), 0 if note.get("is_drum") else note.get("program", 0)


def _order(note: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of `mt3_infer.symbolic.notes.sort_notes`."""
    return note["onset"], note["is_drum"], note["program"], note["pitch"], note["offset"]
