"""An anchor: bare commits of one packed row each, by the same library with the same settings, nothing around them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import apsw

from bench.children import config_from_stdin, say

ROW_BYTES: Final = 136  # a packed row with one purchase
WARM_UP_SHARE: Final = 0.1


def main() -> None:
    config = config_from_stdin()
    commits: int = config["commits"]
    connection = apsw.Connection(str(Path(config["directory"]) / "commits.db"))
    try:
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY AUTOINCREMENT, bytes BLOB NOT NULL)")
        row = bytes(ROW_BYTES)
        took_ns: list[int] = []
        for _ in range(commits):
            before_ns = time.perf_counter_ns()
            connection.execute("INSERT INTO rows (bytes) VALUES (?)", (row,))
            took_ns.append(time.perf_counter_ns() - before_ns)
    finally:
        connection.close()
    say(took_ms=[each / 1e6 for each in took_ns[int(commits * WARM_UP_SHARE) :]])


if __name__ == "__main__":
    main()
