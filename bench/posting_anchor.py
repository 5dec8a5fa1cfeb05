"""The anchor of the posting row: the very rows that the ledger wrote, inserted again, with nothing decoded or checked.

The rows are read back from the ledger's file, batch by batch, before the clock starts; then they go into a copy of the
file as it was before, by the same library, pragmas and transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import apsw

from ledger_sync.ledger.accounts import MIRROR_BASE
from ledger_sync.ledger.schema import open_writer

Rows = list[tuple[Any, ...]]

_INSERTED: Final = ("postings", "batches", "evidence", "entries")
"""Tables in which a batch leaves rows of its own, in the order in which the ledger writes them."""
_COMPARED: Final = (*_INSERTED, "accounts", "cards", "terminals")
_BALANCES: Final = "UPDATE cards SET mirror_cents = ?, top_counter = ?, top_balance_cents = ? WHERE number = ?"
_SEQUENCES: Final = (
    "UPDATE terminals SET highest = ?, next_known = ?, completed_to = ?, quarantined_to = ? WHERE id = ?"
)
_ACCOUNTS: Final = (
    "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (account) DO UPDATE"
    " SET balance_cents = balance_cents + excluded.balance_cents"
)


@dataclass(slots=True)
class Written:
    """Everything that one batch has left in the ledger."""

    inserted: dict[str, Rows]
    cards: Rows
    terminals: Rows
    accounts: Rows


class PostingAnchor:
    """A second file that follows the ledger's."""

    def __init__(self, ledger: apsw.Connection, path: str) -> None:
        self._ledger = ledger
        self._connection = open_writer(path)
        self._inserts: dict[str, str] = {}
        for table in _INSERTED:
            columns = len(self._connection.execute(f"PRAGMA table_info({table})").fetchall())
            self._inserts[table] = f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})"
        execute = self._connection.execute
        self._cards = {
            row[0]: row[1:] for row in execute("SELECT number, mirror_cents, top_counter, top_balance_cents FROM cards")
        }
        self._ids = {
            (row[0], row[1]): row[2:]
            for row in execute(
                "SELECT terminal, epoch, id, highest, next_known, completed_to, quarantined_to FROM terminals"
            )
        }

    def read(self, positions: Iterable[int]) -> list[Written]:
        """What the batches at these positions have left; purchases alone, as the workload has them."""
        return [self._written(position) for position in positions]

    def _written(self, position: int) -> Written:
        inserted = {
            table: self._ledger.execute(
                f"SELECT * FROM {table} WHERE position = ? ORDER BY 1",
                (position,),
            ).fetchall()
            for table in _INSERTED
        }
        accounts: dict[int, int] = {}
        cards: set[int] = set()
        for account, cents in self._ledger.execute(
            "SELECT account, amount_cents FROM entries WHERE position = ? ORDER BY entry", (position,)
        ):
            card = account - MIRROR_BASE
            if 0 < card < 1 << 32:
                mirror, *rest = self._cards[card]
                self._cards[card] = (mirror + cents, *rest)
                cards.add(card)
                account = MIRROR_BASE  # noqa: PLW2901 - the sum of all mirrors
            accounts[account] = accounts.get(account, 0) + cents
        terminals: set[tuple[int, int]] = set()
        for terminal, epoch, sequence, card, counter, balance in self._ledger.execute(
            "SELECT terminal, epoch, sequence, card, counter, balance_cents FROM postings WHERE position = ?",
            (position,),
        ):
            mirror, top, _ = self._cards[card]
            if counter > top:
                self._cards[card] = (mirror, counter, balance)
            number, highest, *others = self._ids[terminal, epoch]
            self._ids[terminal, epoch] = (number, max(highest, sequence), *others)
            terminals.add((terminal, epoch))
        return Written(
            inserted,
            [(*self._cards[card], card) for card in cards],
            [(*self._ids[each][1:], self._ids[each][0]) for each in terminals],
            list(accounts.items()),
        )

    def insert(self, batches: list[Written]) -> None:
        """One transaction per batch; the part that is timed."""
        connection = self._connection
        for batch in batches:
            connection.execute("BEGIN IMMEDIATE")
            for table, rows in batch.inserted.items():
                connection.executemany(self._inserts[table], rows)
            connection.executemany(_ACCOUNTS, batch.accounts)
            connection.executemany(_BALANCES, batch.cards)
            connection.executemany(_SEQUENCES, batch.terminals)
            connection.execute("COMMIT")

    def differs_in(self) -> list[str]:
        """Tables that are not the same in both files; empty when the anchor has done its work."""
        return [
            table
            for table in _COMPARED
            if any(
                one != other
                for one, other in zip(
                    self._ledger.execute(f"SELECT * FROM {table} ORDER BY 1"),
                    self._connection.execute(f"SELECT * FROM {table} ORDER BY 1"),
                    strict=True,
                )
            )
        ]

    def close(self) -> None:
        self._connection.close()
