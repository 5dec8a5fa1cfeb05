"""What the ledger's verbs stand on: their place in the site, what the command line lends, and how a change is made.

Verbs that change go through the admin socket; with no server running they take the file lock and work in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

import typer

from protocol.keystore import Keystore
from protocol.ports import BusAccess, Files
from protocol.trade_time import UtcOffset

if TYPE_CHECKING:
    import apsw

    from ledger_sync.ledger.core import LedgerPaths
    from ledger_sync.ledger.keys import LedgerKeys

EXAMPLE: Final = "\b\nExample:\n  "
AT_A_TIME: Final = 2_000
"""Cards or terminals in one operation: its arguments stay well below a megabyte."""
OPERATOR_UNKNOWN: Final = "unknown"

SitePath = Annotated[
    Path, typer.Option("--site", "--config", envvar="ONECARD_SITE", help="The site's directory, or its site.toml.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Operator = Annotated[
    str, typer.Option(envvar=["ONECARD_OPERATOR", "USER"], help="Who does it; stands in the operations log.")
]


@dataclass(slots=True, kw_only=True)
class LedgerPlace:
    """What the site file says of the ledger; paths are absolute."""

    site: int
    data_dir: Path
    registry: Path
    card_register: Path
    link_socket: str
    admin_socket: str
    utc_offset_ms: UtcOffset
    keystore: Callable[[], Keystore]
    """Opens the key file; takes some 50 ms."""
    unproven_limit_cents: int = 20_000
    """Per terminal and trade day, for cards that make no proof (R4)."""
    broker_access: BusAccess = field(default_factory=BusAccess)
    """Where `link_socket` names a broker."""

    def paths(self) -> LedgerPaths:
        from ledger_sync.ledger.core import LedgerPaths

        return LedgerPaths.in_directory(str(self.data_dir))


class Host(Protocol):
    """What the command line lends."""

    @property
    def files(self) -> Files: ...
    def now_ms(self) -> int: ...
    def ledger(self, path: Path) -> LedgerPlace: ...
    def run(self, start: Callable[[Any], None], *, name: str, log_file: Path | None = None) -> int: ...
    def ask(self, address: str, request: Mapping[str, object]) -> dict[str, Any]: ...
    def answers(self, address: str) -> bool: ...
    def ready(self, what: str, facts: Mapping[str, object]) -> None: ...
    def notify(self, state: str) -> None: ...
    def emit(self, value: object) -> None: ...
    def say(self, text: str) -> None: ...
    def complain(self, sentence: str) -> None: ...
    def cents(self, text: str) -> int: ...
    def yuan(self, cents: int) -> str: ...
    def day(self, trade_day: int) -> str: ...
    def table(self, title: str, columns: list[str], rows: list[list[object]]) -> None: ...


def host_of(context: typer.Context) -> Host:
    return cast(Host, context.obj)


def day_of(text: str) -> int:
    """Days since 1970-01-01 of a date as people write it."""
    try:
        return date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; an example is 2026-09-20") from None


def keys_of(place: LedgerPlace) -> LedgerKeys:
    from ledger_sync.ledger.keys import LedgerKeys

    return LedgerKeys.from_keystore(place.keystore())


@contextmanager
def reader_of(place: LedgerPlace) -> Iterator[apsw.Connection]:
    from ledger_sync.ledger.errors import LedgerFailure
    from ledger_sync.ledger.schema import open_reader

    path = place.paths().database
    if not Path(path).exists():
        raise LedgerFailure(f"{path}: there is no ledger yet; `onecard ledger init` makes it")
    connection = open_reader(path)
    try:
        yield connection
    finally:
        connection.close()


def changed(host: Host, place: LedgerPlace, request: Mapping[str, object]) -> dict[str, Any]:
    """Do a changing verb, by the running server or in place. Raises VerbRefused with what the books say."""
    if host.answers(place.admin_socket):
        answer = host.ask(place.admin_socket, request)
    else:
        return changed_in_place(host, place, request)
    return _done(host, answer)


def _done(host: Host, answer: dict[str, Any]) -> dict[str, Any]:
    from ledger_sync.ledger.errors import VerbRefused

    if not answer.pop("ok", False):
        raise VerbRefused(str(answer.get("says", "no reason given")))
    return answer | {"at_ms": host.now_ms()}


def changed_in_place(
    host: Host, place: LedgerPlace, request: Mapping[str, object], *, is_restored: bool = False
) -> dict[str, Any]:
    """Do a changing verb under the ledger's lock, with no server running; raises as `changed`."""
    from ledger_sync.ledger.admin import Admin
    from ledger_sync.ledger.core import Ledger
    from ledger_sync.ledger.errors import LedgerFailure

    paths = place.paths()
    if not Path(paths.database).exists():
        raise LedgerFailure(f"{paths.database}: there is no ledger yet; `onecard ledger init` makes it")
    ledger = Ledger.open(
        paths, keys_of(place), files=host.files, utc_offset_ms=place.utc_offset_ms, is_restored=is_restored
    )
    try:
        answer = Admin(ledger, files=host.files, heads_path=paths.heads).run(dict(request), host.now_ms())
        return _done(host, answer)
    finally:
        ledger.close()


def register_all(host: Host, place: LedgerPlace, operator: str) -> dict[str, int]:
    from ledger_sync.ledger.admin import registrations
    from protocol.registry import Registry

    found = registrations(Registry.parse(place.registry.read_bytes()))
    told = {"added": 0, "updated": 0}
    for first in range(0, len(found), AT_A_TIME):
        request = {"verb": "register", "terminals": found[first : first + AT_A_TIME], "operator": operator}
        answer = changed(host, place, request)
        for name in told:
            told[name] += answer[name]
    return told


def issue_all(host: Host, place: LedgerPlace, operator: str) -> dict[str, int]:
    import json

    from ledger_sync.ledger.errors import VerbRefused

    if not place.card_register.exists():
        raise VerbRefused(f"{place.card_register}: no cards were made yet; `onecard keys cards` makes them")
    told = {"issued": 0, "already_issued": 0}
    with place.card_register.open(encoding="utf-8") as file:
        waiting: list[Any] = []
        for line in file:
            waiting.append(json.loads(line))
            if len(waiting) == AT_A_TIME:
                _issue_some(host, place, waiting, operator, told)
        _issue_some(host, place, waiting, operator, told)
    return told


def _issue_some(host: Host, place: LedgerPlace, cards: list[Any], operator: str, told: dict[str, int]) -> None:
    if cards:
        answer = changed(host, place, {"verb": "card_issue", "cards": cards, "operator": operator})
        for name in told:
            told[name] += answer[name]
        cards.clear()
