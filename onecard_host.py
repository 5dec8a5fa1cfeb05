"""What the command line lends to the verbs of the packages: the site file, key files, the runtime, sockets, a screen.

A package's `cli.py` states what it needs as a `Protocol` and gets a `Host` through typer's context object. So the
packages stay free of clocks, sockets and processes, and nothing of theirs is loaded before a verb needs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from frontend_server.place import FrontendPlace
    from ledger_sync.cli_work import LedgerPlace
    from onecard_runtime import Runtime
    from onecard_site import SiteFile
    from protocol.keystore import Keystore
    from protocol.ports import Files, Log
    from terminal_sim.population import SimPlace

EXIT_DONE: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_DAMAGED: Final = 4
EXIT_FAULT: Final = 70  # a bug of ours; as EX_SOFTWARE

ASK_SECONDS_MAX: Final = 30.0  # a verb of the ledger waits for its turn behind a batch
ANSWER_BYTES_MAX: Final = 64 << 20
WIDTH_WITHOUT_TERMINAL: Final = 160
PRIVATE_UMASK: Final = 0o077
LOCK_FILE: Final = "lock"
SPOOL_FILE: Final = "spool.db"
AMOUNT: Final = re.compile(r"(\d{1,8})(?:\.(\d{2}))?")


class CliError(Exception):
    """Ends the command with one sentence on stderr and an exit code."""

    def __init__(self, sentence: str, *, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Host:
    """One command line. `environment` is read for the site file's overrides, systemd and nothing else."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.is_debug = False

    # -- the site

    def site(self, path: Path) -> SiteFile:
        """The site file at a path, or in that directory. Raises SiteError."""
        from onecard_site import load_site

        return load_site(path, self.environment)

    def frontend(self, path: Path, number: int | None = None) -> FrontendPlace:
        """One front-end's part of the site; None: that of `[frontend]`. Raises SiteError."""
        from frontend_server.place import FrontendPlace
        from frontend_server.settings import FrontendSettings
        from protocol.codes import ListKind

        site = self.site(path).of_frontend(number)
        ours = site.frontend
        data_dir = site.path(ours.data_dir)
        return FrontendPlace(
            settings=FrontendSettings(
                frontend=ours.id,
                site=site.site.id,
                listen_address=ours.listen_address,
                control_address=site.socket(ours.control_socket),
                cache_dir=str(data_dir / "lists"),
                connections_max=ours.connections_max,
                connections_per_address_max=ours.connections_per_address_max,
                handshakes_max=ours.handshakes_max,
                handshakes_per_address_max=ours.handshakes_per_address_max,
                busy_retry_after_s=ours.busy_retry_after_s,
                busy_retry_after_s_max=ours.busy_retry_after_s_max,
                log_ins_per_second=ours.log_ins_per_second,
                intake_frames_max=ours.intake_frames_max,
                metrics_address=ours.metrics_address,
                settled_days=ours.settled_days,
            ),
            data_dir=data_dir,
            spool=data_dir / SPOOL_FILE,
            registry=site.path(site.site.registry),
            published={
                ListKind.PARAMETERS: site.path(ours.parameters_file),
                ListKind.PERMISSIONS: site.path(ours.permissions_file),
            },
            ledger_link=site.link(ours.ledger_link),
            broker_access=site.broker_access(ours),
            root_public=site.root_public_key(),
            utc_offset_ms=site.utc_offset_ms(),
            keystore=lambda: self._keystore(site, ours.keystore, ours.unlock),
        )

    def ledger(self, path: Path) -> LedgerPlace:
        """The ledger's part of the site."""
        from ledger_sync.cli_work import LedgerPlace
        from onecard_keys import CARD_REGISTER

        site = self.site(path)
        ours = site.ledger
        return LedgerPlace(
            site=site.site.id,
            data_dir=site.path(ours.data_dir),
            registry=site.path(site.site.registry),
            card_register=site.path(CARD_REGISTER),
            link_socket=site.link(ours.link_socket),
            broker_access=site.broker_access(ours),
            admin_socket=site.socket(ours.admin_socket),
            utc_offset_ms=site.utc_offset_ms(),
            keystore=lambda: self._keystore(site, ours.keystore, ours.unlock),
            unproven_limit_cents=ours.unproven_limit_cents,
        )

    def spool(self, path: Path, number: int | None = None) -> Path:
        """One front-end's spool; None: that of `[frontend]`. Raises SiteError."""
        site = self.site(path).of_frontend(number)
        return site.path(site.frontend.data_dir) / SPOOL_FILE

    def control(self, path: Path, number: int | None = None) -> str:
        """One front-end's control socket; None: that of `[frontend]`. Raises SiteError."""
        site = self.site(path).of_frontend(number)
        return site.socket(site.frontend.control_socket)

    def frontends(self, path: Path) -> list[int]:
        """The numbers of the site's front-ends, that of `[frontend]` first."""
        return self.site(path).numbers()

    def simulator(self, path: Path) -> SimPlace:
        """Terminals and cards of the site, for the simulator."""
        from onecard_keys import CARD_IMAGES, SECRETS
        from terminal_sim.population import SimPlace

        site = self.site(path)
        return SimPlace(
            registry=site.path(site.site.registry),
            card_images=site.path(CARD_IMAGES),
            keystore=lambda name: self._keystore(site, f"{SECRETS}/{name}.keystore", f"{SECRETS}/{name}.unlock"),
        )

    @staticmethod
    def _keystore(site: SiteFile, keystore: str, unlock: str) -> Keystore:
        from onecard_keys import KeyFile

        return KeyFile(site.path(keystore), site.path(unlock)).open()

    # -- the real world

    def log(self, facts: Mapping[str, object], target: Path | None = None) -> Log:
        """A log to a file or stderr; structlog is loaded with the first line, since most verbs never write one."""
        made: list[Log] = []
        once = threading.Lock()

        def write(event: str, /, **more: object) -> None:
            with once:
                if not made:
                    from onecard_log import JsonLog

                    made.append(JsonLog(target, facts=facts))
            made[0](event, **more)

        return write

    def run(self, start: Callable[[Runtime], None], *, name: str, log_file: Path | None = None) -> int:
        """Run shells on a real event loop until they stop it; returns their exit code.

        Whatever file they make is their user's alone: records name cards.
        """
        from onecard_runtime import Runtime, limit_process

        limit_process()
        mask = os.umask(PRIVATE_UMASK)
        try:
            return Runtime(log=self.log({"process": name, "pid": os.getpid()}, log_file)).run(start)
        finally:
            os.umask(mask)

    @property
    def files(self) -> Files:
        """Whole files, durable."""
        from onecard_runtime import RealFiles

        return RealFiles()

    @staticmethod
    def pause(pause_ms: int) -> None:
        """Wait; for verbs that ask again."""
        time.sleep(pause_ms / 1000)

    @staticmethod
    def now_ms() -> int:
        """UTC in milliseconds."""
        return time.time_ns() // 1_000_000

    @contextlib.contextmanager
    def locked(self, directory: Path) -> Iterator[None]:
        """Hold a directory against a second process; made if missing. Raises CliError naming who has it."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / LOCK_FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                raise CliError(f"{directory} is in use by process {holder}; stop that one first") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def ask(self, address: str, request: Mapping[str, object]) -> dict[str, Any]:
        """One request and its answer over a local socket, a line of JSON each.

        Raises:
            CliError: nobody listens or answers there (3), or the answer is no JSON (4).
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.settimeout(ASK_SECONDS_MAX)
                stream.connect(address)
                stream.sendall(json.dumps(request).encode() + b"\n")
                answer = _line_of(stream)
        except OSError as error:
            reason = error.strerror or str(error) or "no answer in time"
            raise CliError(f"{address}: {reason}; is the server running?", exit_code=EXIT_UNREACHABLE) from None
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CliError(f"{address}: the answer is not JSON", exit_code=EXIT_DAMAGED)
        return found

    def answers(self, address: str) -> bool:
        """Whether a server listens on that local socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(ASK_SECONDS_MAX)
            try:
                stream.connect(address)
            except OSError:
                return False
            return True

    @staticmethod
    def free_bytes(path: Path) -> tuple[int, int]:
        """(free, total) bytes of the volume that holds a file."""
        found = os.statvfs(path.parent)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def notify(self, state: str) -> None:
        """Tell systemd (`Type=notify`), where it has asked to be told."""
        address = self.environment.get("NOTIFY_SOCKET", "")
        if address[:1] not in {"/", "@"}:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
            stream.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)

    # -- what a person or a program reads

    def ready(self, what: str, facts: Mapping[str, object]) -> None:
        """The one line of JSON on stdout that says the process serves now."""
        self.emit({"ready": what, "pid": os.getpid(), **facts})
        self.notify("READY=1")

    def emit(self, value: object) -> None:
        """One JSON value on one line of stdout."""
        print(json.dumps(value, ensure_ascii=False, default=_plain), flush=True)

    def say(self, text: str) -> None:
        """A sentence on stdout."""
        print(text)

    def complain(self, sentence: str) -> None:
        """A sentence on stderr."""
        print(f"onecard: {sentence}", file=sys.stderr)

    def table(self, title: str, columns: list[str], rows: list[list[object]]) -> None:
        """A title and a table on stdout; columns whose cells are all numbers are set to the right."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
        console.print(Text(title, style="bold"))
        if not rows:
            console.print("  none")
            return
        made = Table(header_style="bold", show_header=any(columns))
        for index, column in enumerate(columns):
            is_number = bool(column) and all(_is_number(row[index]) for row in rows)
            made.add_column(column, justify="right" if is_number else "left", overflow="fold")
        for row in rows:
            made.add_row(*(Text(str(cell)) for cell in row))
        console.print(made)

    @staticmethod
    def cents(text: str) -> int:
        """Cents of an amount such as 25 or 25.50; raises CliError (usage)."""
        found = AMOUNT.fullmatch(text)
        if found is None:
            raise CliError(f"{text!r} is no amount; write it like 25 or 25.50", exit_code=EXIT_USAGE)
        return int(found[1]) * 100 + int(found[2] or 0)

    @staticmethod
    def yuan(cents: int) -> str:
        """An amount as people write it."""
        return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"

    @staticmethod
    def moment(utc_ms: int | None) -> str:
        """An instant as people here read it; a dash for none."""
        if not utc_ms:
            return "–"
        return datetime.fromtimestamp(utc_ms / 1000, UTC).astimezone().isoformat(" ", "seconds")

    @staticmethod
    def day(trade_day: int) -> str:
        """A day counted since 1970-01-01, as a date."""
        return (date(1970, 1, 1) + timedelta(days=trade_day)).isoformat()


def _line_of(stream: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not parts or not parts[-1].endswith(b"\n"):
        data = stream.recv(1 << 16)
        if not data:
            break
        size += len(data)
        if size > ANSWER_BYTES_MAX:
            break
        parts.append(data)
    return b"".join(parts)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int) or (isinstance(cell, str) and bool(re.fullmatch(r"-?[\d.,–]+", cell)))


def _plain(value: object) -> object:
    """Dataclasses with slots, bytes and paths, for JSON."""
    slots = getattr(type(value), "__dataclass_fields__", None)
    if slots is not None:
        return {name: getattr(value, name) for name in slots}
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
