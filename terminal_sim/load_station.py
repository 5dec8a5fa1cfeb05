"""A load station (充值机): puts on a card what the ledger has ordered for it, and nothing else (R22).

Orders come from a file of JSON lines, one object a line, as the ledger exports them:

    {"order": 7, "card": 1000001, "amount_cents": 5000, "serial": 3, "station": 1004}

An order is open while the card's highest load serial is below its own: the card is the one that knows. So an order
whose outcome was in doubt is simply asked for again, and a card that took it refuses; a memory card, which proves
nothing, is not asked again: its order waits for two persons. What this station has said it will not execute, it never
does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from protocol.canonical import Object
from protocol.cards.apdu import CardFacts
from protocol.cards.dialogue import Authenticated
from protocol.cards.meals import CardMeals
from protocol.codes import RecordType, RefusalReason
from protocol.errors import Malformed, ProtocolError
from protocol.parameters import AMOUNT_CENTS_MAX
from protocol.record_bodies import Body, Buffer, Completion, Doubt, Load, LoadNotExecuted
from protocol.records import RecordHead, decode_body, read_head
from protocol.rules import Request
from terminal_sim.card_load import CardLoad
from terminal_sim.errors import MemoryLost, RecordGone, RingFull, SectorDead
from terminal_sim.outcome import Alarm, CardReader, TapResult, Why
from terminal_sim.selling_terminal import SellingTerminal
from terminal_sim.transaction import Plan

ORDERS_MAX: Final = 20_000
"""More than a station executes in a month; 4 MB of them."""
ORDERS_BYTES_MAX: Final = 4 << 20
_U32: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, order=True)
class LoadOrder:
    """One order, in order of the card's serial; the amount is paid for already."""

    card: int
    serial: int
    order: int
    amount_cents: int
    station: int

    def __repr__(self) -> str:
        return f"LoadOrder({self.order}, serial={self.serial}, amount_cents={self.amount_cents})"


@dataclass(frozen=True, slots=True)
class AskedLoad:
    """An order for which a card was asked, and nobody here saw the end."""

    order: int
    serial: int
    amount_cents: int
    sequence: int
    """Of the doubt."""
    counter_before: int
    is_settled: bool
    """Its proof was brought home, or cannot be, or the order was executed by a later record."""


def parse_orders(data: Buffer) -> list[LoadOrder]:
    """The lines of an order file; members that are not named here are for others. Raises Malformed, naming the line."""
    lines = bytes(data[: ORDERS_BYTES_MAX + 1]).splitlines()
    if len(data) > ORDERS_BYTES_MAX or len(lines) > ORDERS_MAX:
        raise Malformed("load orders", f"more than {ORDERS_MAX} lines or {ORDERS_BYTES_MAX} bytes")
    found = [_parsed(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if len({each.order for each in found}) != len(found):
        raise Malformed("load orders", "an order number occurs twice")
    return found


def _parsed(line: bytes, number: int) -> LoadOrder:
    where = f"load orders, line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed(where, "no JSON") from None
    given = Object(where, "", value)
    return LoadOrder(
        card=given.integer("card", 1, _U32),
        serial=given.integer("serial", 1, _U32),
        order=given.integer("order", 1, _U32),
        amount_cents=given.integer("amount_cents", 1, AMOUNT_CENTS_MAX),
        station=given.integer("station", 0, _U32),
    )


class LoadStation(SellingTerminal):
    """The firmware between two power cuts; `give_orders` after every boot, and whenever there are new ones."""

    _open: Mapping[int, list[LoadOrder]] = MappingProxyType({})
    """Card → its orders, by serial."""
    _given_up: frozenset[int] = frozenset()
    """Doubts whose proof the card no longer keeps; a boot asks once more."""

    def give_orders(self, orders: Iterable[LoadOrder]) -> None:
        """What the ledger has in flight now, in the place of what was given before; other stations' are left out."""
        over = {each.order for each in self._bodies() if isinstance(each, Load | LoadNotExecuted)}
        opened: dict[int, list[LoadOrder]] = {}
        for each in sorted(orders):
            if each.station == self.secrets.terminal and each.order not in over:
                opened.setdefault(each.card, []).append(each)
        self._open = opened

    def cards_waiting(self) -> list[int]:
        """Cards that have an open order here, ascending."""
        return sorted(card for card, orders in self._open.items() if orders)

    def made(self, record: bytes | None) -> None:
        super().made(record)
        body = decode_body(record) if record is not None else None
        if isinstance(body, Load):
            held = self._open.get(body.card, [])
            held[:] = [each for each in held if each.order != body.order]

    def tap(self, card: CardReader, amount_cents: int) -> TapResult:
        """Execute the oldest open order of the card in the field; what is paid out is in the order."""

        def plan(facts: CardFacts, read: Authenticated) -> Plan:
            found = self._next_order(facts.number, read.meals or CardMeals())
            request = Request(
                type=RecordType.LOAD,
                card=facts.number,
                price_cents=found.amount_cents if found is not None else 0,
                is_ordered=found is not None,
            )
            if found is None:
                return Plan(request=request)
            return Plan(request=request, reference=found.serial, order=found.order)

        result = self.transact(card, RecordType.LOAD, plan)
        if result.why is not Why.FOREIGN or self.memory is None:
            return result
        return CardLoad(self, self.memory, card).run()

    def refuse_order(self, order: int, reason: RefusalReason = RefusalReason.OPERATOR) -> bool:
        """Seal that this order will not be executed here, and never execute it (R22).

        Only for an order that this station never asked a card for: one that may have been executed is the card's to
        tell. Returns whether the word is given; it is final, whatever file names the order again.
        """
        found = next((each for orders in self._open.values() for each in orders if each.order == order), None)
        if found is None or self.memory is None or self.is_retired or self.memory_full or order in self._asked():
            return False
        body = LoadNotExecuted(found.card, found.amount_cents, found.serial, found.order, reason)
        try:
            self.write_plain(body)
        except RingFull:
            return False
        except MemoryLost:
            self.raise_alarm(Alarm.MEMORY_LOST)
            return False
        self._open[found.card].remove(found)
        return True

    # -- for a load

    def next_order(self, card: int, serial: int, *, without: Collection[int] = ()) -> LoadOrder | None:
        """The oldest open order of a card whose highest load serial is `serial`."""
        held = self._open.get(card, ())
        return next((each for each in held if each.serial > serial and each.order not in without), None)

    def asked_of(self, card: int) -> list[AskedLoad]:
        """What this card was asked for with an end that nobody here saw, oldest first."""
        doubts: list[tuple[int, Doubt]] = []
        proved, executed = set(self._given_up), set[int]()
        for head, body in self._records():
            if isinstance(body, Doubt) and body.card == card and body.attempted_type == RecordType.LOAD:
                doubts.append((head.sequence, body))
            elif isinstance(body, Completion) and body.card == card and self._is_ours(body):
                proved.add(body.original_sequence)
            elif isinstance(body, Load):
                executed.add(body.order)
        return [
            AskedLoad(
                order=each.order,
                serial=each.reference,
                amount_cents=each.amount_cents,
                sequence=sequence,
                counter_before=each.counter_before,
                is_settled=sequence in proved or each.order in executed,
            )
            for sequence, each in doubts
        ]

    def give_up(self, asked: AskedLoad) -> None:
        """The card keeps no proof of it any more: two persons decide its order."""
        self._given_up |= {asked.sequence}

    def settled(self, asked: AskedLoad) -> None:
        """Its proof has been brought home: the order is over."""
        for held in self._open.values():
            held[:] = [each for each in held if each.order != asked.order]

    # -- inside

    def _next_order(self, card: int, meals: CardMeals) -> LoadOrder | None:
        return self.next_order(card, meals.load_serial)

    def _is_ours(self, body: Completion) -> bool:
        return (body.original_terminal, body.original_epoch) == (self.secrets.terminal, self.secrets.epoch)

    def _asked(self) -> set[int]:
        """Orders for which a card was asked, with whatever outcome."""
        return {each.order for each in self._bodies() if isinstance(each, Load | Doubt)}

    def _bodies(self) -> Iterator[Body]:
        return (body for _, body in self._records())

    def _records(self) -> Iterator[tuple[RecordHead, Body]]:
        """What the ring holds of this epoch: a station has some hundred records a day."""
        memory = self.memory
        if memory is None:
            return
        for sequence in range(memory.ring.epochs[self.secrets.epoch].oldest, memory.next):
            try:
                record = memory.ring.read(self.secrets.epoch, sequence)
                yield read_head(record), decode_body(record)
            except (SectorDead, RecordGone, ProtocolError):
                continue
