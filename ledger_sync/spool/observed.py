"""The spool's own idea of the time, so that no jump of the machine's clock deletes rows that R17 may need (R15). Pure.

It follows the clock as fast as the spool has run (monotonic), a sixteenth faster at most, and never backwards. A clock
that says otherwise is believed when it has done so for `settled_days` of running: by then every row settled before the
jump has lain as long as was promised. Time in which the machine was off is a jump too; its rows only stay longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DRIFT_SHARE: Final = 16  # a clock that is this much faster than the monotonic one is no jump


@dataclass(frozen=True, slots=True)
class ObservedTime:
    """What is kept in `meta`."""

    utc_ms: int
    doubted_ms: int = 0
    """For how long, of running, the clock has said something else."""

    def advanced(self, now_ms: int, *, ran_ms: int, patience_ms: int) -> ObservedTime:
        """After `ran_ms` more of running, when the clock says `now_ms`."""
        reachable_ms = self.utc_ms + ran_ms + ran_ms // DRIFT_SHARE
        if self.utc_ms <= now_ms <= reachable_ms:
            return ObservedTime(now_ms)
        doubted_ms = self.doubted_ms + ran_ms
        if doubted_ms >= patience_ms:
            return ObservedTime(now_ms)
        return ObservedTime(reachable_ms if now_ms > reachable_ms else self.utc_ms, doubted_ms)
