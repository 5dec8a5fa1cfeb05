"""Bugs planted in memory, each of which the harness must catch: a harness that cannot fail proves nothing.

A `Plant` patches the product, plays its play, and names the words by which the harness says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from frontend_server.distribution import Distribution
from frontend_server.intake import IntakeQueue, Submitter
from frontend_server.server import FrontendServer
from frontend_server.terminal import TerminalConnection
from ledger_sync.ledger.books import CardState
from ledger_sync.ledger.judge import Judge
from ledger_sync.ledger.look_ups import LookUps
from ledger_sync.ledger.service import LedgerService
from ledger_sync.link.outbox import Outbox
from ledger_sync.spool import Outcome, OutcomeKind, RecordsIntake, Spool
from ledger_sync.spool.accept import Acceptor
from ledger_sync.spool.batches import Batch
from ledger_sync.spool.intake import Intake
from protocol.link_messages import CHAIN_START, Receipt
from protocol.list_transfer import ListVersion
from protocol.ranges import Decision, EpochRanges, LoginAction, LoginDecision, Range, Verdict
from protocol.records import summarise, walk
from terminal_sim import connection
from terminal_sim.lists import DenyListMemory
from terminal_sim.memory import Memory
from tests.simulation.plays import play_dead_sector, play_lost_card, play_restored_ledger, play_rolled_back
from tests.simulation.runner import run_seed

SELLING_MS: Final = 20_000

T = TypeVar("T")


def _acknowledge_before_commit(patch: pytest.MonkeyPatch) -> None:
    submit = IntakeQueue.submit

    def submits(queue: IntakeQueue, owner: Submitter, item: Intake, *, is_live: bool = False) -> None:
        if not isinstance(item, RecordsIntake):
            submit(queue, owner, item, is_live=is_live)
            return
        queue._writer.submit(item, lambda _: None)
        owner.stored(item, Outcome(OutcomeKind.ACCEPTED, summarise(item.payload).last, 0, ()))
        owner.acknowledge()

    patch.setattr(IntakeQueue, "submit", submits)


def _settle_on_send(patch: pytest.MonkeyPatch) -> None:
    send = Outbox._take

    def sends(outbox: Outbox, batch: Batch) -> None:
        send(outbox, batch)

        def settle(spool: Spool) -> bool:
            generation, position = spool.known_ledger()
            return spool.settle(Receipt(batch.name, generation, position + 1, CHAIN_START, 0, 0, 0, 0))

        outbox._spool.run(settle, lambda _, __: None)

    patch.setattr(Outbox, "_take", sends)


def _dedupe_by_watermark_alone(patch: pytest.MonkeyPatch) -> None:
    classify = EpochRanges.classify

    def classifies(ranges: EpochRanges, first: int, last: int, previous_seal: bytes, last_seal: bytes) -> Decision:
        if any(held.first <= first and last <= held.last for held in ranges):
            return Decision(Verdict.INSIDE)
        return classify(ranges, first, last, previous_seal, last_seal)

    def logs_in(_: EpochRanges, first_unacknowledged: int, __: int, ___: bytes) -> LoginDecision:
        return LoginDecision(LoginAction.DURABLE, first_unacknowledged - 1)

    patch.setattr(EpochRanges, "classify", classifies)
    patch.setattr(EpochRanges, "login", logs_in)


def _forget_a_gap(patch: pytest.MonkeyPatch) -> None:
    def durable_is_the_highest(
        ranges: EpochRanges, first_unacknowledged: int
    ) -> tuple[int, tuple[tuple[int, int], ...]]:
        held: list[Range] = list(ranges)
        return max([first_unacknowledged - 1, *(each.last for each in held)]), ()

    patch.setattr(EpochRanges, "ack_view", durable_is_the_highest)
    patch.setattr(TerminalConnection, "on_tombstone", lambda *_: None)
    patch.setitem(_takes_when_ready(), 0x04, lambda *_: None)


def _takes_when_ready() -> dict[int, Any]:
    from frontend_server.terminal import TAKES, Phase

    found = TAKES[Phase.READY]
    assert isinstance(found, dict)
    return found


def _skip_the_tail_of_a_frame(patch: pytest.MonkeyPatch) -> None:
    add_row = Acceptor._add_row

    def adds(acceptor: Acceptor, intake: RecordsIntake, *rest: Any) -> None:
        records = list(walk(intake.payload))
        if len(records) > 1:
            intake = replace(intake, payload=b"".join(records[:-1]))
            rest = (*rest[:3], rest[3][:-1])
        add_row(acceptor, intake, *rest)

    patch.setattr(Acceptor, "_add_row", adds)


def _ignore_a_restored_ledger(patch: pytest.MonkeyPatch) -> None:
    def takes_note_only(spool: Spool, generation: int, position: int) -> int:
        with spool.transaction() as handles:
            for name, value in (("known_generation", generation), ("known_position", position)):
                handles.connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        return 0

    patch.setattr(Spool, "unsettle_above", takes_note_only)


def _debit_without_a_mark_in_flash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "mark_debit_sent", lambda _: None)


def _older_list_after_a_boot(patch: pytest.MonkeyPatch) -> None:
    def finds_the_older(memory: DenyListMemory) -> Any:
        found = [held for held in map(memory._read_slot, memory._slots) if held is not None]
        return min(found, key=lambda held: held.head[12:20], default=None)

    patch.setattr(DenyListMemory, "_find_held", finds_the_older)


def _ledger_forgets_what_it_posted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LookUps, "prefetch", lambda *_: None)


def _lists_wait_for_the_next_log_in(patch: pytest.MonkeyPatch) -> None:
    push = FrontendServer._push

    def pushes_the_first(server: FrontendServer, version: ListVersion) -> None:
        if version.head.version == (1, 1):
            push(server, version)

    patch.setattr(FrontendServer, "_push", pushes_the_first)


def _credit_nothing_while_the_disk_refuses(patch: pytest.MonkeyPatch) -> None:
    """As it was: nobody told the terminal when there was room again."""
    credit = IntakeQueue.credit

    def nothing_while_it_refuses(queue: IntakeQueue, *, is_live: bool) -> int:
        return 0 if queue._refusing else credit(queue, is_live=is_live)

    patch.setattr(IntakeQueue, "credit", nothing_while_it_refuses)


def _wait_for_a_silent_front_end(patch: pytest.MonkeyPatch) -> None:
    """As it was: a terminal whose way up works and whose way down is lost waits for ever."""
    patch.setattr(connection, "SILENCE_MS_MAX", 10**9)


def _never_ask_again_for_a_damaged_list(patch: pytest.MonkeyPatch) -> None:
    """As it was: the front-end kept the older list until the next one was issued."""
    patch.setattr(Distribution, "_ask_again", lambda *_: None)


def _forget_the_counter_of_a_resolved_grey(patch: pytest.MonkeyPatch) -> None:
    """As it was: the card's highest counter lived in memory alone until its mirror moved again."""
    see_proof = Judge._see_proof

    def sees(judge: Judge, card: CardState, *rest: Any) -> None:
        was_changed = card.number in judge._books.changed_cards
        see_proof(judge, card, *rest)
        if not was_changed:
            judge._books.changed_cards.pop(card.number, None)

    patch.setattr(Judge, "_see_proof", sees)


def _forget_a_committed_list(patch: pytest.MonkeyPatch) -> None:
    """As it was: committed, then the heads file failed, and nobody was sent the version."""
    patch.setattr(LedgerService, "_broadcast_newest", lambda _: None)


def _drop_every_fifth_frame(patch: pytest.MonkeyPatch) -> None:
    """Taken for stored, and never handed to the disk."""
    accept = Acceptor._records
    count = 0

    def records(acceptor: Acceptor, intake: RecordsIntake) -> Outcome:
        nonlocal count
        count += 1
        if count % 5:
            return accept(acceptor, intake)
        return Outcome(OutcomeKind.ACCEPTED, summarise(intake.payload).last, 0, ())

    patch.setattr(Acceptor, "_records", records)


def _seed(number: int) -> Callable[[Path], object]:
    return lambda _: run_seed(number, selling_ms=SELLING_MS)


@dataclass(frozen=True, slots=True)
class Plant:
    """One sabotage, where it shows, and how the harness words it."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    play: Callable[[Path], object]
    says: str


PLANTS: Final = (
    Plant("acknowledge before commit", _acknowledge_before_commit, _seed(1), "is acknowledged and not in the spool"),
    Plant("settle on send", _settle_on_send, _seed(1), "is settled, and the ledger has not booked it"),
    Plant("dedupe by watermark alone", _dedupe_by_watermark_alone, play_rolled_back, "is stored as another record"),
    Plant("forget a gap", _forget_a_gap, play_dead_sector, "is acknowledged and not in the spool"),
    Plant("skip the tail of a frame", _skip_the_tail_of_a_frame, _seed(1), "is acknowledged and not in the spool"),
    Plant("drop every fifth frame", _drop_every_fifth_frame, _seed(1), "is acknowledged and not in the spool"),
    Plant("ignore a restored ledger", _ignore_a_restored_ledger, play_restored_ledger, "terminals and ledger differ"),
    Plant("no mark before the debit", _debit_without_a_mark_in_flash, _seed(1), "open items ['completion']"),
    Plant("an older list after a boot", _older_list_after_a_boot, _seed(1), ": list (1, "),
    Plant(
        "the ledger forgets what it posted", _ledger_forgets_what_it_posted, _seed(1), "is booked and in suspense too"
    ),
    Plant(
        "lists wait for the next log-in",
        _lists_wait_for_the_next_log_in,
        play_lost_card,
        "reported lost a second ago is sold",
    ),
    Plant("credit 0 while the disk refuses", _credit_nothing_while_the_disk_refuses, _seed(12), "not drained"),
    Plant("wait for a silent front-end", _wait_for_a_silent_front_end, _seed(24), "not drained"),
    Plant("never ask again for a damaged list", _never_ask_again_for_a_damaged_list, _seed(159), "not drained"),
    Plant("forget a counter", _forget_the_counter_of_a_resolved_grey, lambda _: run_seed(401), "top_counter"),
    Plant("forget a committed list", _forget_a_committed_list, lambda _: run_seed(532), "not drained"),
)
