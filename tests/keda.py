"""A JSON schema for the fields of KEDA's kinds that the manifests use; any other field is an error.

KEDA publishes the complete schemas as custom resource definitions (`config/crd/bases` of kedacore/keda), which
the same manifests pass. The trigger's parameters are strings there, read only by KEDA's PostgreSQL scaler.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Return the schema of an object that has these fields and no other."""
    properties = required | (optional or {})
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def several(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def resource(kind: str, spec: Schema) -> Schema:
    metadata = fields({"name": TEXT}, {"namespace": TEXT, "labels": {"type": "object"}})
    return fields(
        {"apiVersion": {"const": "keda.sh/v1alpha1"}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    )


POLICY = fields(
    {"type": {"enum": ["Pods", "Percent"]}, "value": COUNT, "periodSeconds": {"maximum": 1800, **COUNT}}
)
SCALING = fields(
    {"policies": several(POLICY)},
    {
        "stabilizationWindowSeconds": {"maximum": 3600, **COUNT},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
    },
)
BEHAVIOR = fields({}, {"scaleUp": SCALING, "scaleDown": SCALING})
TRIGGER = fields(
    {
        "type": {"const": "postgresql"},
        "metadata": fields({"query": TEXT, "targetQueryValue": NUMBER}, {"activationTargetQueryValue": NUMBER}),
        "authenticationRef": fields({"name": TEXT}),
    }
)
SCHEMAS = {
    "ScaledObject": resource(
        "ScaledObject",
        fields(
            {"scaleTargetRef": fields({"name": TEXT}), "triggers": several(TRIGGER)},
            {
                "minReplicaCount": COUNT,
                "maxReplicaCount": COUNT,
                "pollingInterval": COUNT,
                "cooldownPeriod": COUNT,
                "advanced": fields({"horizontalPodAutoscalerConfig": fields({"behavior": BEHAVIOR})}),
            },
        ),
    ),
    "TriggerAuthentication": resource(
        "TriggerAuthentication",
        fields({"secretTargetRef": several(fields({"parameter": TEXT, "name": TEXT, "key": TEXT}))}),
    ),
}
