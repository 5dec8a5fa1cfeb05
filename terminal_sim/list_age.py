"""How old a terminal's deny list is (docs/protocol.md §10, *age*, R28).

Only two things make a list young: a TIME of this boot that says `deny list current`, and a clock that was set and
stands at or above the moment at which the list was issued. Nothing of it is kept over a boot: a terminal that has lost
its power must hear from a front-end again, or trust a clock with a battery.
"""

from __future__ import annotations

from typing import Final

from terminal_sim.rtc import NEVER_SET, DriftingRtc

LIST_AGE_UNKNOWN_MS: Final = (1 << 63) - 1
"""Older than every limit: nothing says how old the list is."""


class ListAge:
    """One boot's knowledge."""

    __slots__ = ("_confirmed_ds", "_rtc")

    def __init__(self, rtc: DriftingRtc) -> None:
        self._rtc = rtc
        self._confirmed_ds: int | None = None

    def confirmed(self, uptime_ds: int) -> None:
        """At that uptime the list held was the newest, by a TIME of this boot."""
        self._confirmed_ds = max(uptime_ds, self._confirmed_ds or 0)

    def age_ms(self, issued_ms: int) -> int:
        """The age of a list issued at `issued_ms`; 0: none is held."""
        if issued_ms == 0:
            return LIST_AGE_UNKNOWN_MS
        ages = [LIST_AGE_UNKNOWN_MS]
        if self._confirmed_ds is not None:
            ages.append((self._rtc.uptime_ds() - self._confirmed_ds) * 100)
        now_ms = self._rtc.now_ms()
        if now_ms != NEVER_SET and now_ms >= issued_ms:
            ages.append(now_ms - issued_ms)
        return min(ages)
