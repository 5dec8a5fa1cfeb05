"""The rows of the table by name, in the order in which they run."""

from __future__ import annotations

from typing import Final

from bench.plan import Row
from bench.row_fleet import loops, many
from bench.row_live import live, one
from bench.row_memory import memory
from bench.row_posting import posting_rows
from bench.row_recovery import recovery, slow_disk
from bench.row_start import start
from bench.row_watched import watched

ROWS: Final[dict[str, Row]] = {
    "live": live,
    "one": one,
    "recovery": recovery,
    "posting": posting_rows,
    "memory": memory,
    "many": many,
    "loops": loops,
    "slow-disk": slow_disk,
    "start": start,
    "watched": watched,
}
