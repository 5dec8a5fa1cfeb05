"""A terminal's clock: a crystal that drifts, a battery that may be flat, and TIME messages that set it (R25).

Uptime starts at 0 with every boot and drifts with the same crystal. The object stands for the clock chip and its
battery, so it outlives the firmware object that boots on it.
"""

from __future__ import annotations

from typing import Final

from protocol.ports import Clock

MILLION: Final = 1_000_000
NEVER_SET: Final = 0
UPTIME_DS_MAX: Final = 0xFFFF_FFFF
UTC_MS_MAX: Final = 7_258_118_400_000  # the year 2200: far before a PBOC card's four-digit year, and no true time


class DriftingRtc:
    """Reads a `Clock` port through a crystal that is `drift_ppm` fast (negative: slow)."""

    __slots__ = ("_base_monotonic_ms", "_base_utc_ms", "_boot_monotonic_ms", "_clock", "_has_battery", "drift_ppm")

    def __init__(
        self, clock: Clock, *, drift_ppm: int = 0, offset_ms: int | None = None, has_battery: bool = False
    ) -> None:
        """`offset_ms` is the error it starts with; None: never set."""
        self._clock = clock
        self.drift_ppm = drift_ppm
        self._has_battery = has_battery
        self._boot_monotonic_ms = self._base_monotonic_ms = clock.monotonic_ms()
        self._base_utc_ms = NEVER_SET if offset_ms is None else clock.now_ms() + offset_ms

    def boot(self) -> None:
        """Uptime starts again; without a battery the time is lost."""
        self._boot_monotonic_ms = self._clock.monotonic_ms()
        if not self._has_battery:
            self._base_utc_ms = NEVER_SET

    def uptime_ds(self) -> int:
        """Tenths of a second since boot."""
        return min(self._elapsed_ms(self._boot_monotonic_ms) // 100, UPTIME_DS_MAX)

    def now_ms(self) -> int:
        """The terminal's idea of UTC; 0: never set."""
        if self._base_utc_ms == NEVER_SET:
            return NEVER_SET
        return self._base_utc_ms + self._elapsed_ms(self._base_monotonic_ms)

    def set_utc(self, utc_ms: int) -> None:
        """Take over an authenticated time; one that no card could write down is left aside."""
        if not 0 < utc_ms <= UTC_MS_MAX:
            return
        self._base_utc_ms = utc_ms
        self._base_monotonic_ms = self._clock.monotonic_ms()

    def monotonic_ms(self) -> int:
        """True monotonic time, for delays and observers."""
        return self._clock.monotonic_ms()

    def _elapsed_ms(self, since_ms: int) -> int:
        elapsed = self._clock.monotonic_ms() - since_ms
        return elapsed + elapsed * self.drift_ppm // MILLION
