"""The seams: clock, network, threads, processes and randomness are arguments, in every package.

The real ones live in one root module, `onecard_runtime.py`, which implements `protocol/ports.py`; root
modules, tests and benches are free. That is what lets a whole site run, and replay, from a seed. Files are a
seam of their own kind (directories and a SQLite VFS name are arguments): `os` and `pathlib` are allowed here.
"""

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.source_tree import PACKAGES, Module, modules_of, within

# A package that needs one of these takes a port instead.
FORBIDDEN_MODULES: Final = tuple(
    # loops, sockets and whatever waits on them
    "asyncio uvloop socket socketserver ssl select selectors http urllib.request smtplib"
    # threads and processes
    " threading _thread concurrent multiprocessing queue subprocess signal pty"
    # clocks: timers, and the time stamps of log records (the port is protocol.ports.Log)
    " time _time sched timeit logging structlog"
    # randomness: also the names of temporary files
    " random _random secrets uuid tempfile"
    # the standard library's SQLite is too old to trust, and two SQLite libraries must never share a file
    " sqlite3 _sqlite3"
    # these draw from a thread of their own, by the clock
    " rich.progress rich.live rich.status".split()
)

# Storage has one owner.
APSW_MAY_BE_IMPORTED_BY: Final = ("ledger_sync",)

FORBIDDEN_NAMES: Final = (
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
    *(
        f"os.{name}"
        for name in ("urandom", "getrandom", "times", "fork", "forkpty", "popen", "system", "kill", "killpg")
    ),
    "apsw.randomness",
    "rich.get_console",
)
FORBIDDEN_PATTERNS: Final = (
    re.compile(r"os\.(exec|spawn|posix_spawn)\w*"),
    # cryptography draws keys from the system; make them from bytes that came in as an argument
    re.compile(r"cryptography\..*\.(generate|generate_key|generate_private_key|generate_parameters)"),
    re.compile(r"[Rr]ich\..*\.track"),
)

SQL_CLOCK_OR_CHANCE: Final = re.compile(
    r"""
      \b current_(timestamp|time|date) \b
    | \b (date|time|datetime|julianday|unixepoch) \s* \( \s* \)                       # no argument means now
    | \b (date|time|datetime|julianday|unixepoch|strftime|timediff) \s* \( [^()]* ['"]now['"]
    | \b (random|randomblob) \s* \( \s* (\d+ | \?\w*)? \s* \)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def touches_of_the_real_world(module: Module) -> Iterator[str]:
    """Where a module of a package reaches past the ports."""
    for name, line in module.imports.items():
        if within(name, *FORBIDDEN_MODULES):
            yield module.at(line, f"imports {name}; take a port of protocol.ports instead")
        if within(name, "apsw") and module.package not in APSW_MAY_BE_IMPORTED_BY:
            yield module.at(line, "imports apsw; databases belong to ledger_sync")
        if name == "<computed>":
            yield module.at(line, "imports a module whose name is computed")
    for name, line in module.mentions.items():
        if name in FORBIDDEN_NAMES or any(pattern.fullmatch(name) for pattern in FORBIDDEN_PATTERNS):
            yield module.at(line, f"uses {name}; time, randomness and processes are arguments")
    for text, line in module.literals:
        found = SQL_CLOCK_OR_CHANCE.search(text)
        if found:
            yield module.at(line, f"SQL reads the clock or draws lots: {found[0]!r}; bind a value instead")


# -- the source as it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_reaches_the_real_world_only_through_ports(package: str) -> None:
    modules = list(modules_of(package))
    assert modules, f"{package}: nothing was looked at"
    assert [found for module in modules for found in touches_of_the_real_world(module)] == []


# -- the check itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        *(f"import {name}" for name in FORBIDDEN_MODULES),
        "import asyncio.subprocess as sp",
        "from concurrent.futures import ThreadPoolExecutor",
        "from concurrent import futures",
        "def f():\n    from time import monotonic",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio",
        "import importlib\nimportlib.import_module('asyncio')",
        "__import__('time')",
        "import apsw",
        "from urllib import request",
        "from rich import progress",
        "from rich.progress import track",
        "import os\nos.urandom(16)",
        "from os import urandom",
        "import os as system\nnonce = system.getrandom",
        "import os\nos.posix_spawnp('x', [], {})",
        "import datetime\ndatetime.datetime.now(datetime.UTC)",
        "import datetime as dt\ndt.date.today()",
        "from datetime import datetime\nfield = datetime.now",
        "from datetime import datetime as d\nd.utcnow()",
        "from cryptography.hazmat.primitives.asymmetric import ed25519 as e\ne.Ed25519PrivateKey.generate()",
        "from cryptography.hazmat.primitives.ciphers.aead import AESCCM\nAESCCM.generate_key(128)",
        "SQL = 'create table t (at integer default CURRENT_TIMESTAMP)'",
        "SQL = \"insert into t values (datetime('now'))\"",
        "SQL = \"select strftime('%s', 'now')\"",
        "SQL = 'select unixepoch()'",
        "SQL = f\"select * from {table} where at < julianday('now', '-7 days')\"",
        "SQL = 'select * from t order by random() limit 1'",
        "SQL = 'select randomblob(16)'",
        "SQL = f'select randomblob({size})'",
        "SQL = ('select 1, '\n       'current_date')",
    ],
)
def test_a_planted_touch_is_found(source: str) -> None:
    assert list(touches_of_the_real_world(Module("terminal_sim.fleet", source))) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ledger_sync.spool", "import apsw, mmap, os, pathlib\nos.fsync(3)"),
        ("terminal_sim.flash", "import mmap, os\nfrom pathlib import Path\nos.replace('a', 'b')"),
        ("frontend_server.cli", "import typer\nfrom rich.table import Table"),
        ("protocol.trade_time", "from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)"),
        (
            "protocol.session",
            "def f(clock, random):\n    return clock.now_ms(), random.random_bytes(16), clock.time",
        ),
        ("protocol.ports", "class Clock:\n    def now(self) -> int: ..."),
        ("ledger_sync.ledger", 'def f():\n    """Never call random() or datetime(\'now\') here."""'),
        (
            "ledger_sync.ledger",
            "SQL = 'select trade_date, time from records where random_seed = ? and date(day) = ?'",
        ),
        (
            "protocol.keys",
            "from cryptography.hazmat.primitives.asymmetric import ed25519 as e\nf = e.Ed25519PrivateKey",
        ),
    ],
)
def test_an_innocent_module_is_not_found(name: str, source: str) -> None:
    assert list(touches_of_the_real_world(Module(name, source))) == []
