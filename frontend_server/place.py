"""Where one front-end lives: what its composition needs of the site file and of the real world; values and ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from frontend_server.settings import FrontendSettings
from protocol.codes import ListKind
from protocol.keystore import Keystore
from protocol.ports import Bus, BusAccess, Clock, Executor, Files, Log, Network, Random
from protocol.trade_time import UtcOffset


class World(Protocol):
    """The real ports of one process."""

    @property
    def clock(self) -> Clock: ...
    @property
    def network(self) -> Network: ...
    @property
    def random(self) -> Random: ...
    @property
    def files(self) -> Files: ...
    @property
    def log(self) -> Log: ...
    def executor(self, name: str) -> Executor: ...
    def bus(self, access: BusAccess) -> Bus: ...
    def on_signal(self, callback: Callable[[], None]) -> None: ...
    def stop(self, exit_code: int = 0) -> None: ...


@dataclass(slots=True, kw_only=True)
class FrontendPlace:
    """What the site file says of this front-end; paths are absolute."""

    settings: FrontendSettings
    data_dir: Path
    spool: Path
    registry: Path
    published: Mapping[ListKind, Path]
    """Files of parameters and permissions, which may not be there yet."""
    ledger_link: str
    root_public: bytes
    utc_offset_ms: UtcOffset
    keystore: Callable[[], Keystore]
    """Opens the key file; takes some 50 ms."""
    broker_access: BusAccess = field(default_factory=BusAccess)
    """Where `ledger_link` names a broker."""


def free_bytes_of(directory: Path) -> tuple[int, int]:
    """(free, total) bytes of the volume, for R14."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
