"""Periodic steps, with one log line when a step begins to fail and one when it works again."""

from __future__ import annotations

from collections.abc import Callable

from shared.logs import get_logger

log = get_logger(__name__)


class Steps:
    """Runs steps that may fail, and remembers which of them fail."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def run(self, step: Callable[[], None]) -> None:
        """Run a step; log an error unless the previous run failed, too."""
        name = step.__name__.strip("_")
        try:
            step()
        except Exception as error:
            if name not in self._failing:
                lines = str(error).splitlines()
                log.warning("step_failed", step=name, error=lines[0] if lines else type(error).__name__)
            self._failing.add(name)
        else:
            if name in self._failing:
                log.info("step_works_again", step=name)
            self._failing.discard(name)
