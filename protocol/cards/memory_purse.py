"""What a memory card's purse holds, whatever interrupted the last transaction (docs/cards.md). Pure.

A transaction is: marker (number, balance before, amount) → backup block → purse block. It stands once the backup is
wholly written: from there every later tap completes it, before there every later tap undoes it.

    purse     backup    what happened                               what the next tap does
    before    before    nothing, or the marker was torn             –
    before    torn      cut while the backup was written            backup := purse; never happened
    before    after     cut between backup and purse                purse := backup; happened
    torn      after     cut while the purse was written             purse := backup; happened
    after     after     whole                                       –
    torn      before    } a block failed by itself: the valid copy repairs the other, the marker tells which
    after     torn      } transaction it belongs to
    anything else       refused: damaged, for two persons
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol.cards.memory_layout import PURSE_BLOCK, Marker, MarkerKind, decode_value
from protocol.errors import DamagedData


class Repair(Enum):
    NONE = "purse and backup agree"
    PURSE_FROM_BACKUP = "the backup is copied into the purse"
    BACKUP_FROM_PURSE = "the purse is copied into the backup"


@dataclass(slots=True, frozen=True)
class PurseState:
    """The purse as every reader of these four blocks must see it."""

    balance_cents: int
    counter: int
    """Transactions that happened."""
    repair: Repair
    last: Marker
    """The newest transaction begun."""
    last_happened: bool
    """Whether it stands. A hint for two persons about a grey record, never a proof (R4, R20)."""

    def next_marker(self, kind: MarkerKind, amount_cents: int) -> Marker:
        """Of the next transaction. A number whose transaction did not happen is used again, in the same block."""
        return Marker(kind, self.counter + 1, self.balance_cents, amount_cents)


def judge(purse: bytes, backup: bytes, markers: tuple[bytes, bytes]) -> PurseState:
    """Read purse, backup and both marker blocks. Raises DamagedData where the table above has no line."""
    last = newest_marker(markers)
    first, second = _value(purse), _value(backup)
    if first == second:
        balance, repair = first, Repair.NONE
    elif first is None or (first, second) == (last.before_cents, last.after_cents):
        balance, repair = second, Repair.PURSE_FROM_BACKUP
    elif second is None:
        balance, repair = first, Repair.BACKUP_FROM_PURSE
    else:
        raise DamagedData("memory card: purse and backup contradict each other")
    if balance is None or balance not in {last.before_cents, last.after_cents}:
        raise DamagedData("memory card: purse and marker contradict each other")
    happened = balance == last.after_cents
    return PurseState(balance, last.counter if happened else last.counter - 1, repair, last, happened)


def newest_marker(markers: tuple[bytes, bytes]) -> Marker:
    """The valid one with the higher number. Raises DamagedData where neither is valid or they cannot be neighbours."""
    valid = [marker for marker in map(Marker.decode, markers) if marker is not None]
    if not valid:
        raise DamagedData("memory card: no valid marker")
    newest = max(valid, key=lambda marker: marker.counter)
    if len(valid) == 2 and newest.counter - min(marker.counter for marker in valid) != 1:
        raise DamagedData("memory card: markers are not neighbours")
    return newest


def _value(block: bytes) -> int | None:
    held = decode_value(block)
    return None if held is None or held[1] != PURSE_BLOCK else held[0]
