"""Work that is done again and again: one log line when it begins to fail, and one when it works again."""

from __future__ import annotations

from collections.abc import Callable

from shared.logs import get_logger

log = get_logger(__name__)


class Steps:
    """Runs steps that may fail, and remembers which of them do."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def run(self, step: Callable[[], None]) -> None:
        """Do it; an error is logged if the time before was none."""
        name = step.__name__.strip("_")
        try:
            step()
        except Exception as error:
            if name not in self._failing:
                said = str(error).splitlines()
                log.warning("step_failed", step=name, error=said[0] if said else type(error).__name__)
            self._failing.add(name)
        else:
            if name in self._failing:
                log.info("step_works_again", step=name)
            self._failing.discard(name)
