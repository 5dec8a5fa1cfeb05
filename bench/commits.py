"""An anchor: bare commits of packed rows, by the same library with the same settings, nothing around them.

Told line by line: {"rows", "row_bytes", "seconds", "commits_max"}; every commit holds that many rows.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import apsw

from bench.children import config_from_stdin, requests, say

CHECKPOINT_PAGES: Final = 4096  # as the spool's owner does it


def run(connection: apsw.Connection, rows: int, row_bytes: int, seconds: float, commits_max: int) -> dict[str, Any]:
    """Commit until the time or the number is reached."""
    group = [(bytes(row_bytes),)] * rows
    took_ns: list[int] = []
    cpu, started = time.process_time(), time.perf_counter()
    end_ns = time.perf_counter_ns() + int(seconds * 1e9)
    before_ns = time.perf_counter_ns()
    while before_ns < end_ns and len(took_ns) < commits_max:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO rows (bytes) VALUES (?)", group)
        connection.execute("COMMIT")
        after_ns = time.perf_counter_ns()
        took_ns.append(after_ns - before_ns)
        before_ns = after_ns
    took = time.perf_counter() - started
    return {
        "per_second": len(took_ns) * rows / took,
        "commit_ms": [each / 1e6 for each in took_ns],
        "cpu": (time.process_time() - cpu) / took,
    }


def main() -> None:
    config = config_from_stdin()
    connection = apsw.Connection(str(Path(config["directory"]) / "commits.db"))
    try:
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.wal_autocheckpoint(CHECKPOINT_PAGES)
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY AUTOINCREMENT, bytes BLOB NOT NULL) STRICT")
        for request in requests():
            say(**run(connection, **request))
    finally:
        connection.close()


if __name__ == "__main__":
    main()
