"""Prepares each request of schemathesis for tests/integration/test_api_contract.py."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _arguments: Any) -> None:
    """Make each idempotency key a new one, and each condition true: others are rightly refused."""
    for name in list(case.headers or ()):
        if name.lower() == "idempotency-key":
            case.headers[name] = uuid4().hex
        elif name.lower() == "if-match":
            case.headers[name] = "*"
