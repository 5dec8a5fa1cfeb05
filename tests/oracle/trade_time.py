"""Section 9: when a record's trade happened, and on which local day."""

from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

EPOCH_DAY: Final = date(1970, 1, 1)


def anchor_ms(utc_ms: int, uptime_ds: int) -> int:
    """When the boot began, by the front-end's clock."""
    return utc_ms - 100 * uptime_ds


def trade_ms(
    *,
    anchor: int | None,
    uptime_ds: int,
    clock_ms: int,
    received_ms: int,
    predecessor_trade_ms: int | None,
    successor_trade_ms: int | None,
) -> int:
    if anchor is not None:
        t = anchor + 100 * uptime_ds
    elif clock_ms:
        t = clock_ms
    else:
        t = received_ms
    if predecessor_trade_ms is not None:
        t = max(t, predecessor_trade_ms)
    if successor_trade_ms is not None:
        t = min(t, successor_trade_ms)
    return min(t, received_ms)


def trade_day(when_ms: int, time_zone: str) -> int:
    """Days since 1970-01-01 of the local calendar."""
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=when_ms)
    return (utc.astimezone(ZoneInfo(time_zone)).date() - EPOCH_DAY).days
