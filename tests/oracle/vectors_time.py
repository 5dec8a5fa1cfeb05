"""Vectors of section 9: trade times and trade days."""

from typing import Any, Final

from tests.oracle.fields import Fields
from tests.oracle.reference import NOW_MS, Case, case, section
from tests.oracle.trade_time import anchor_ms, trade_day, trade_ms

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
DAY_MS: Final = 86_400 * SECOND
# The boot was measured when the terminal had been up for an hour.
MEASURED: Final = {"utc_ms": NOW_MS, "uptime_ds": 36_000}
RECEIVED: Final = NOW_MS + 10 * MINUTE

# name, measured, uptime of the record, its clock, received, predecessor's and successor's trade time
TIMES: Final[list[tuple[str, Any, int, int, int, int | None, int | None]]] = [
    ("anchor known", MEASURED, 36_600, NOW_MS, RECEIVED, None, None),
    ("anchor known, clock far off is ignored", MEASURED, 36_600, 1, RECEIVED, None, None),
    ("anchor known, clock never set", MEASURED, 35_000, 0, RECEIVED, None, None),
    ("record older than the measurement", MEASURED, 10, NOW_MS, RECEIVED, None, None),
    ("no anchor, clock set", None, 36_600, NOW_MS - 3 * DAY_MS, RECEIVED, None, None),
    ("no anchor, clock never set: when it was received", None, 36_600, 0, RECEIVED, None, None),
    ("no anchor, clock in the future: bounded by receive time", None, 1, RECEIVED + DAY_MS, RECEIVED, None, None),
    ("anchor gives the future: bounded by receive time", MEASURED, 99_999, NOW_MS, RECEIVED, None, None),
    ("never before its predecessor", None, 1, NOW_MS - DAY_MS, RECEIVED, NOW_MS + MINUTE, None),
    ("never after its successor", MEASURED, 39_000, 0, RECEIVED, None, NOW_MS + MINUTE),
    ("between both neighbours, bounded below", None, 1, 5, RECEIVED, NOW_MS, NOW_MS + MINUTE),
    ("between both neighbours, bounded above", None, 1, RECEIVED, RECEIVED, NOW_MS, NOW_MS + MINUTE),
    ("between both neighbours, free", None, 1, NOW_MS + SECOND, RECEIVED, NOW_MS, NOW_MS + MINUTE),
    ("clock never set, both neighbours: the successor", None, 1, 0, RECEIVED, NOW_MS, NOW_MS + MINUTE),
    ("predecessor after successor: the successor wins", None, 1, NOW_MS, RECEIVED, NOW_MS + 5, NOW_MS + 3),
    ("predecessor after receive time: receive time wins", MEASURED, 1, 0, NOW_MS, NOW_MS + MINUTE, None),
    ("clock of one millisecond counts as set", None, 0, 1, RECEIVED, None, None),
]
DAYS: Final[list[tuple[str, int, str]]] = [
    ("day in Shanghai, last millisecond before midnight", 20_000 * DAY_MS + 16 * 3_600_000 - 1, "Asia/Shanghai"),
    ("day in Shanghai, midnight", 20_000 * DAY_MS + 16 * 3_600_000, "Asia/Shanghai"),
    ("day in UTC", 20_000 * DAY_MS + 16 * 3_600_000, "UTC"),
    ("day west of Greenwich", 20_000 * DAY_MS, "America/New_York"),
    ("day in Berlin, winter, 23:30 UTC", 20_089 * DAY_MS + DAY_MS - 30 * MINUTE, "Europe/Berlin"),
    ("day in Berlin, summer, 22:30 UTC", 20_270 * DAY_MS + DAY_MS - 90 * MINUTE, "Europe/Berlin"),
    ("day in Berlin, winter, 22:30 UTC", 20_089 * DAY_MS + DAY_MS - 90 * MINUTE, "Europe/Berlin"),
]


def _case(name: str, measured: Any, uptime_ds: int, clock: int, received: int, before: Any, after: Any) -> Case:
    anchor = None if measured is None else anchor_ms(measured["utc_ms"], measured["uptime_ds"])
    given = {
        "uptime_ds": uptime_ds,
        "clock_ms": clock,
        "received_ms": received,
        "predecessor_trade_ms": before,
        "successor_trade_ms": after,
    }
    expected = {"anchor_ms": anchor, "trade_ms": trade_ms(anchor=anchor, **given)}
    return case(name, {"measured": measured, **given}, expected=expected)


def _frame_case(name: str, uptimes: list[int], after: int | None) -> Case:
    """Within one frame a record's predecessor is the record before it; a held successor bounds all of them."""
    anchor = anchor_ms(MEASURED["utc_ms"], MEASURED["uptime_ds"])
    times: list[int] = []
    for uptime_ds in uptimes:
        times.append(
            trade_ms(
                anchor=anchor,
                uptime_ds=uptime_ds,
                clock_ms=0,
                received_ms=RECEIVED,
                predecessor_trade_ms=times[-1] if times else None,
                successor_trade_ms=after,
            )
        )
    given = {"measured": MEASURED, "uptimes_ds": uptimes, "clock_ms": 0, "received_ms": RECEIVED}
    given |= {"predecessor_trade_ms": None, "successor_trade_ms": after}
    return case(name, given, expected={"trade_ms": times})


def section_9() -> Fields:
    cases = [_case(*one) for one in TIMES]
    cases += [
        _frame_case("three records of one frame, the second with a smaller uptime", [36_100, 36_050, 36_200], None),
        _frame_case("three records of one frame and a held successor", [36_100, 36_300, 36_500], NOW_MS + 20 * SECOND),
    ]
    cases += [
        case(name, {"trade_ms": when, "time_zone": zone}, expected={"trade_day": trade_day(when, zone)})
        for name, when, zone in DAYS
    ]
    return section("9. Trade time", cases)
