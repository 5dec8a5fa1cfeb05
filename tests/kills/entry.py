"""What the entry points share: arguments, and the command line's `Host` with wrapped ports and an ear for "ready"."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import onecard
from onecard_host import Host
from onecard_runtime import Runtime
from tests.kills.traps import Order, Trap


@dataclass(slots=True)
class Arguments:
    site: Path
    trap: Trap | None


def parsed(name: str, more: Callable[[argparse.ArgumentParser], None] | None = None) -> tuple[Arguments, Any]:
    """Site and trap, and whatever else the entry point takes."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.kills.{name}")
    parser.add_argument("site", type=Path)
    parser.add_argument("--die-at", type=Order.parse, help="CLASS:OCCURRENCE[:ready]")
    parser.add_argument("--notes", type=Path, help="where to say what it was doing")
    if more is not None:
        more(parser)
    found = parser.parse_args()
    if found.die_at is not None and found.notes is None:
        parser.error("--die-at needs --notes")
    trap = Trap(found.die_at, found.notes) if found.die_at is not None else None
    return Arguments(found.site, trap), found


class TrapHost(Host):
    """The command line's host; `wrap` puts traps around the ports that a verb is given."""

    def __init__(self, trap: Trap | None, wrap: Callable[[Runtime], Any]) -> None:
        super().__init__(os.environ)
        self._trap = trap
        self._wrap = wrap

    def run(self, start: Callable[[Any], None], *, name: str, log_file: Path | None = None) -> int:
        log = self.log({"process": name, "pid": os.getpid()}, log_file)
        return Runtime(log=log).run(lambda runtime: start(self._wrap(runtime)))

    def ready(self, what: str, facts: Mapping[str, object]) -> None:
        super().ready(what, facts)
        if self._trap is not None:
            self._trap.ready()


def run_verb(host: Host, *arguments: str) -> int:
    """Run a verb of the product as its command line does; errors are shown whole."""
    command = typer.main.get_command(onecard.build(arguments[0]))
    result = command.main(list(arguments), prog_name="onecard", standalone_mode=False, obj=host)
    return result if isinstance(result, int) else 0
