"""A span for each phase of an attempt, as its progress reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import tracing
from shared.tables import Phase

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class PhaseSpans:
    """The spans of an attempt's phases, one after the other, below the span that is the current one now."""

    def __init__(self) -> None:
        self._parent = tracing.traceparent()
        self._phase: Phase | None = None
        self._span: Span | None = None

    def enter(self, phase: Phase) -> None:
        """Begin a span if this is another phase, and end that of the phase before."""
        if self._parent is not None and phase is not self._phase:
            tracing.end(self._span)
            self._phase, self._span = phase, tracing.begin(phase, parent=self._parent)

    def end(self, error: BaseException | None = None) -> None:
        """End the latest span; an attempt that failed did so in its phase."""
        tracing.end(self._span, error=None if error is None else type(error).__name__)
        self._span = None
