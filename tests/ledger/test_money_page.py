"""docs/money.md: every line of its tables is posted, and moves what the line says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger_sync.ledger.accounts import SUBJECT_BITS, AccountKind
from protocol.cards.pboc_macs import as_proof, load_reference, load_tac, pboc_key, pboc_moment, pboc_tac, terminal6
from protocol.codes import PostingResult, RecordType, RowKind
from protocol.record_bodies import Booking, Cancellation, Collection, Load, Power, Purchase, Refund, Unknown
from tests.ledger.canteen import NOW_MS, PBOC_TAC_MASTER, Canteen, Card, Till, assert_sound, facts_of

PAGE = (Path(__file__).parents[2] / "docs" / "money.md").read_text(encoding="utf-8")
LINES = {
    cells[1]: cells[2:5]
    for table in re.findall(r"^\| event \|.*\n\|-.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    for cells in ([cell.strip() for cell in row.split("|")] for row in table.splitlines())
}
"""Event → [result, from, to], of every table with these columns."""
NAMES = {int(kind): name for kind, name in re.findall(r"^\| (\d+) \| ([^|]+?) \|", PAGE, re.MULTILINE)}
NO_PROOF = bytes(8)


class Scene:
    """Two tills of two merchants, a load station, an AES card, a memory card, a PBOC purse; `post` remembers."""

    def __init__(self, directory: Path) -> None:
        self.card, self.other, self.memory, self.purse = Card(1001), Card(1002), Card(3001), Card(4001)
        self.till, self.second, self.station = Till(51), Till(52, merchant=9002), Till(60)
        self.stranger = Till(99)
        self.canteen = Canteen(
            directory, cards=[self.card, self.other], tills=[self.till, self.second], limit_cents=900
        )
        self.canteen.operate("register", terminals=[self.station.registered(kind=4)])
        self.canteen.operate("card_issue", cards=[self.memory.registered(kind=2), self.purse.registered(kind=3)])
        self.dtk = pboc_key(PBOC_TAC_MASTER, self.purse.uid)
        self.before: dict[int, int] = {}
        self.result: int | None = None

    def start(self) -> None:
        """What follows is the event."""
        self.before = self.canteen.balances()

    def post(self, till: Till, *records: bytes, kind: int = RowKind.RECORDS) -> None:
        self.result = self.canteen.post(till.row(*records, kind=kind))[-1]

    def purchase(self, cents: int = 800) -> bytes:
        return self.till.purchase(self.card, cents)

    def carry(self, type_: int, cents: int, *, sequence: int | None = None, reference: int = 0) -> bytes:
        """The proof of the till's dialogue, carried in by the second till."""
        proof = self.card.debit(self.till, cents, sequence, type_=type_)
        return self.second.completion(proof, original_type=type_, reference=reference)

    def order(self, cents: int = 500, *, card: int = 1001) -> None:
        self.canteen.operate("topup", card=card, amount_cents=cents)

    def load(self, cents: int = 500, serial: int = 1) -> bytes:
        return self.station.does(Load, self.card, cents, reference=serial, order=serial)

    def pay(self, cents: int) -> bytes:
        return self.till.does(Purchase, self.memory, cents, proof=NO_PROOF)

    def pboc(self, cents: int) -> bytes:
        body = self.till.purchase_body(self.purse, cents, card_kind=3)
        body.proof = pboc_tac(
            self.dtk, amount_cents=cents, terminal=51, epoch=1, sequence=self.till.next,
            moment=pboc_moment(NOW_MS + self.till.next),
        )  # fmt: skip
        return self.till.seal_up(body, kind=RecordType.PURCHASE, cents=cents)

    def pboc_load(self) -> bytes:
        body = self.till.proved(Load, self.purse, 500, reference=1, order=1, card_kind=3, counter=4)
        body.proof = as_proof(load_tac(
            self.dtk, balance_after_cents=body.balance_after_cents, counter=3, amount_cents=500,
            terminal=terminal6(51, 1), moment=pboc_moment(NOW_MS + self.till.next),
        ))  # fmt: skip
        return self.till.seal_up(body, kind=RecordType.LOAD, cents=-500)

    def pboc_load_carried(self) -> bytes:
        balance, clock_ms = self.purse.balance_cents + 500, NOW_MS + 1
        proof = as_proof(load_tac(
            self.dtk, balance_after_cents=balance, counter=3, amount_cents=500, terminal=terminal6(60, 1),
            moment=pboc_moment(clock_ms),
        ))  # fmt: skip
        facts = {
            "terminal": 60, "epoch": 1, "sequence": 9, "card": 4001, "uid": self.purse.uid, "key_version": 1,
            "amount_cents": 500, "balance_after_cents": balance, "counter": 4, "currency": 156, "card_kind": 3,
            "proof": proof, "original_type": int(RecordType.LOAD), "reference": load_reference(1, clock_ms),
        }  # fmt: skip
        return self.second.completion(facts)


def after(*first: Callable[[Scene], Any]) -> Callable[[Callable[[Scene], Any]], Callable[[Scene], Any]]:
    """What stands before the event itself."""

    def with_event(event: Callable[[Scene], Any]) -> Callable[[Scene], Any]:
        def play(scene: Scene) -> None:
            for each in first:
                each(scene)
            scene.start()
            event(scene)

        return play

    return with_event


def grey(s: Scene) -> None:
    s.post(s.till, s.till.grey(s.card, 300))


def grey_booking(s: Scene) -> None:
    s.post(s.till, s.till.grey(s.card, 300, attempted_type=RecordType.BOOKING))


def booked(s: Scene) -> None:
    s.post(s.till, s.till.does(Booking, s.card, 500, reference=1))


def collected(s: Scene) -> None:
    s.post(s.till, s.till.does(Collection, s.card, 500, reference=1))


def bought(s: Scene) -> None:
    s.post(s.till, s.purchase())


def doubtful_refund(s: Scene) -> None:
    s.post(s.till, s.purchase(), s.till.doubt(s.card, 300, RecordType.REFUND, 1))


def refused(s: Scene) -> None:
    s.post(s.station, s.station.not_executed(s.card, 500, 1, 1))


def over_limit(s: Scene) -> None:
    s.post(s.till, s.pay(901))


def early_refund(s: Scene) -> None:
    s.kept = s.purchase()  # type: ignore[attr-defined]
    s.post(s.till, s.till.does(Refund, s.card, 300, reference=1))


def early_completion(s: Scene) -> None:
    body = s.till.purchase_body(s.card, 300)
    facts = facts_of(body) | {"terminal": 51, "epoch": 1, "sequence": s.till.next}
    s.kept = body  # type: ignore[attr-defined]
    s.post(s.second, s.second.completion(facts))


def late_record(s: Scene, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(s.kept, name, value)  # type: ignore[attr-defined]
    s.post(s.till, s.till.seal_up(s.kept, kind=RecordType.PURCHASE, cents=300))  # type: ignore[attr-defined]


def fork(s: Scene, body: Any, cents: int = 0) -> None:
    s.post(s.till, s.till.forge(1, body, kind=body.TYPE, cents=cents), kind=RowKind.SUSPECT)


def proof_of_grey(s: Scene) -> None:
    s.post(s.second, s.carry(RecordType.PURCHASE, 300, sequence=1))


def decide(subject: str, outcome: str, item: int = 1) -> Callable[[Scene], None]:
    return lambda s: s.canteen.decide(subject, item, outcome)


def proved_fork(s: Scene, card: Card) -> None:
    s.till.next = 1
    fork(s, s.till.purchase_body(card, 300), 300)


def flipped(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 1])


def late_memory(s: Scene) -> None:
    s.post(s.till, s.kept)  # type: ignore[attr-defined]


def memory_ahead(s: Scene) -> None:
    s.kept = s.pay(600)  # type: ignore[attr-defined]
    s.post(s.till, s.pay(500))


def lose(s: Scene) -> None:
    for verb in ("lost", "release", "cancel"):
        s.canteen.operate(verb, card=1001)


def close(s: Scene) -> None:
    s.canteen.now_ms += 2 * 86_400_000
    s.canteen.operate("close_day", day=NOW_MS // 86_400_000)


EVENTS: dict[str, Callable[[Scene], Any]] = {
    "purchase": after()(bought),
    "booking": after()(booked),
    "collection, the first of its booking": after(booked)(collected),
    "cancellation, the first of its booking": after(booked)(
        lambda s: s.post(s.till, s.till.does(Cancellation, s.card, 500, reference=1))
    ),
    "collection or cancellation, another one of that booking": after(booked, collected)(
        lambda s: s.post(s.till, s.till.does(Cancellation, s.card, 500, reference=1))
    ),
    "refund that its purchase allows": after(bought)(
        lambda s: s.post(s.till, s.till.does(Refund, s.card, 300, reference=1))
    ),
    "refund that no purchase allows": after()(lambda s: s.post(s.till, s.till.does(Refund, s.card, 300, reference=1))),
    "purchase whose refund came before it": after(early_refund)(late_memory),
    "load, its order in flight": after(lambda s: s.order())(lambda s: s.post(s.station, s.load())),
    "load that no order explains": after()(lambda s: s.post(s.station, s.load())),
    "load, its order had ended as not executed": after(lambda s: s.order(), refused)(
        lambda s: s.post(s.station, s.load())
    ),
    "load not executed, said by the order's station": after(lambda s: s.order())(refused),
    "load not executed, any other": after()(refused),
    "grey of a purchase": after()(grey),
    "grey of a booking": after()(grey_booking),
    "doubt of a refund, load, cancellation or collection": after()(
        lambda s: s.post(s.till, s.till.doubt(s.card, 300, RecordType.LOAD, 1))
    ),
    "completion of a purchase, before its record": after()(early_completion),
    "completion of a booking, before its record": after()(
        lambda s: s.post(s.second, s.carry(RecordType.BOOKING, 300, reference=1))
    ),
    "completion of a grey purchase": after(grey)(proof_of_grey),
    "completion of a grey booking": after(grey_booking)(
        lambda s: s.post(s.second, s.carry(RecordType.BOOKING, 300, sequence=1, reference=1))
    ),
    "completion of a doubtful refund": after(doubtful_refund)(
        lambda s: s.post(s.second, s.carry(RecordType.REFUND, 300, sequence=2, reference=1))
    ),
    "completion of what is booked already": after(early_completion)(
        lambda s: s.post(s.second, s.second.completion(facts_of(s.kept) | {"terminal": 51, "epoch": 1, "sequence": 1}))  # type: ignore[attr-defined]
    ),
    "record whose completion came first": after(early_completion)(late_record),
    "record whose completion came first, with another merchant": after(early_completion)(
        lambda s: late_record(s, merchant=9005)
    ),
    "purchase, card unknown, lost or cancelled by then": after()(
        lambda s: s.post(s.till, s.till.purchase(Card(5555), 100))
    ),
    "purchase, balance differs": after(lambda s: setattr(s.card, "balance_cents", 99_000))(bought),
    "purchase, counter used by another identity": after(bought)(
        lambda s: s.post(s.till, s.till.purchase(Card(1001), 100))
    ),
    "fork that proves itself": after(bought)(lambda s: proved_fork(s, s.other)),
    "fork that proves the grey beside it": after(grey)(lambda s: proved_fork(s, s.card)),
    "grey that forks": after(bought)(lambda s: fork(s, s.till.grey_body(s.other, 70), 70)),
    "event or doubt that forks": after(bought)(lambda s: fork(s, Power(1))),
    "refusal, access, door, aborted, technical": after()(lambda s: s.post(s.till, s.till.event(Power(1)))),
    "the same record again": after(bought)(lambda s: s.post(s.till, s.till.records[1])),
    "memory card: purchase within the limit": after()(lambda s: s.post(s.till, s.pay(900))),
    "memory card: purchase above the limit": after()(over_limit),
    "memory card: late purchase that pushes a later one over the limit": after(memory_ahead)(late_memory),
    "memory card: load, its order in flight": after(lambda s: s.order(card=3001))(
        lambda s: s.post(s.station, s.station.does(Load, s.memory, 500, reference=1, order=1, proof=NO_PROOF))
    ),
    "memory card: refund or meal": after()(
        lambda s: s.post(s.till, s.till.does(Booking, s.memory, 5, reference=1, proof=NO_PROOF))
    ),
    "memory card: grey": after()(lambda s: s.post(s.till, s.till.grey(s.memory, 5))),
    "PBOC purse: purchase": after()(lambda s: s.post(s.till, s.pboc(300))),
    "PBOC purse: load, its order in flight": after(lambda s: s.order(card=4001))(
        lambda s: s.post(s.till, s.pboc_load())
    ),
    "PBOC purse: completion of a load, its order in flight": after(lambda s: s.order(card=4001))(
        lambda s: s.post(s.second, s.pboc_load_carried())
    ),
    "memory card: purchase of an epoch that was closed before": after(
        lambda s: s.canteen.operate("register", terminals=[s.till.registered(closed=True)])
    )(lambda s: s.post(s.till, s.pay(5))),
    "seal does not hold": after()(lambda s: s.post(s.till, flipped(s.purchase()))),
    "card proof does not hold": after()(lambda s: s.post(s.till, s.till.purchase(s.card, 5, proof=bytes(8)))),
    "format, currency, or money from a proxy": after()(
        lambda s: s.post(s.till, s.till.purchase(s.card, 5, currency=840))
    ),
    "type not known here": after()(
        lambda s: s.post(s.till, s.till.seal_up(Unknown(0x90, 0, bytes(8)), kind=0x90))
    ),
    "terminal or epoch not known": after()(lambda s: s.post(s.stranger, s.stranger.purchase(s.card, 5))),
    "card issued with a balance": after()(lambda s: s.canteen.operate("card_issue", cards=[Card(1003).registered()])),
    "top-up ordered": after()(lambda s: s.order()),
    "top-up ordered, its load is there already": after(lambda s: s.post(s.station, s.load()))(lambda s: s.order()),
    "two persons: grey purchase spent": after(grey)(decide("suspense", "spent")),
    "two persons: grey booking spent": after(grey_booking)(decide("suspense", "spent")),
    "two persons: grey not spent": after(grey)(decide("suspense", "not spent")),
    "two persons: above the limit, spent": after(over_limit)(decide("suspense", "spent")),
    "two persons: above the limit, not spent": after(over_limit)(decide("suspense", "not spent")),
    "two persons: doubtful refund happened": after(doubtful_refund)(decide("suspense", "spent", 2)),
    "two persons: doubtful refund did not happen": after(doubtful_refund)(decide("suspense", "not spent", 2)),
    "two persons: order executed": after(lambda s: s.order())(decide("load", "executed")),
    "two persons: order not executed": after(lambda s: s.order())(decide("load", "not executed")),
    "two persons: quarantined purchase tried again": after(
        lambda s: s.post(s.stranger, s.stranger.purchase(s.card, 5)),
        lambda s: s.canteen.operate("register", terminals=[s.stranger.registered()]),
    )(decide("quarantine", "retry")),
    "two persons: quarantined record rejected": after(
        lambda s: s.post(s.stranger, s.stranger.purchase(s.card, 5))
    )(decide("quarantine", "reject")),
    'proof of a grey after "spent"': after(grey, decide("suspense", "spent"))(proof_of_grey),
    'proof of a grey after "not spent"': after(grey, decide("suspense", "not spent"))(proof_of_grey),
    'proof of a load after "executed"': after(lambda s: s.order(), decide("load", "executed"))(
        lambda s: s.post(s.station, s.load())
    ),
    'proof of a load after "not executed"': after(lambda s: s.order(), decide("load", "not executed"))(
        lambda s: s.post(s.station, s.load())
    ),
    "card lost, released, cancelled": after()(lose),
    "day closed": after()(close),
}  # fmt: skip


def test_every_line_of_the_page_is_played_here() -> None:
    assert list(LINES) == list(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_moves_what_its_line_says(event: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.start()
    EVENTS[event](scene)
    result, source, target = LINES[event]
    now = scene.canteen.balances()
    moved = {
        account: now.get(account, 0) - scene.before.get(account, 0) for account in now.keys() | scene.before.keys()
    }
    moved = {account: cents for account, cents in moved.items() if cents and account != 3 << SUBJECT_BITS}
    for cell, sign in ((source, -1), (target, 1)):
        names = {NAMES[account >> SUBJECT_BITS] for account, cents in moved.items() if cents * sign > 0}
        assert names == ({name.strip() for name in cell.split(",")} - {"–"}), event
    assert sum(moved.values()) == 0
    if result:
        assert f"`{scene.result:02X}`" == result
    assert_sound(scene.canteen)
    scene.canteen.close()


def test_the_page_names_every_account_and_every_result() -> None:
    assert set(NAMES) == set(AccountKind)
    for result in PostingResult:
        assert f"`{int(result):02X}`" in PAGE, result
