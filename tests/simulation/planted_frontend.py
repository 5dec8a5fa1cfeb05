"""Planted bugs of front-end, spool and wire: each a patch in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from frontend_server import distribution
from frontend_server.distribution import Distribution
from frontend_server.intake import IntakeQueue, Submitter
from frontend_server.list_cache import next_version
from frontend_server.server import FrontendServer
from frontend_server.terminal import TAKES, Phase, TerminalConnection
from ledger_sync.link.outbox import Outbox
from ledger_sync.spool import Outcome, OutcomeKind, RecordsIntake, Spool, store
from ledger_sync.spool.accept import Acceptor
from ledger_sync.spool.batches import Batch, Batches
from ledger_sync.spool.fold import COUNTED
from ledger_sync.spool.intake import Intake
from ledger_sync.spool.schema import open_writer
from protocol import aead, session
from protocol.codes import RecordType, Suite
from protocol.link_messages import CHAIN_START, Receipt
from protocol.list_transfer import ListVersion
from protocol.ranges import Decision, EpochRanges, LoginAction, LoginDecision, Range, Verdict
from protocol.records import summarise, walk


def acknowledge_before_commit(patch: pytest.MonkeyPatch) -> None:
    submit = IntakeQueue.submit

    def submits(queue: IntakeQueue, owner: Submitter, item: Intake, **more: Any) -> None:
        if not isinstance(item, RecordsIntake):
            submit(queue, owner, item, **more)
            return
        queue._writer.submit(item, lambda _: None)
        owner.stored(item, Outcome(OutcomeKind.ACCEPTED, summarise(item.payload).last, 0, ()))
        owner.acknowledge()

    patch.setattr(IntakeQueue, "submit", submits)


def settle_on_send(patch: pytest.MonkeyPatch) -> None:
    send = Outbox._take

    def sends(outbox: Outbox, batch: Batch) -> None:
        send(outbox, batch)

        def settle(spool: Spool) -> bool:
            generation, position = spool.known_ledger()
            return spool.settle(Receipt(batch.name, generation, position + 1, CHAIN_START, 0, 0, 0, 0))

        outbox._spool.run(settle, lambda _, __: None)

    patch.setattr(Outbox, "_take", sends)


def receipt_matched_by_number_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batches, "fits", lambda batches, receipt: receipt.name.last_row <= batches.last_row())


def dedupe_by_watermark_alone(patch: pytest.MonkeyPatch) -> None:
    classify = EpochRanges.classify

    def classifies(ranges: EpochRanges, first: int, last: int, previous_seal: bytes, last_seal: bytes) -> Decision:
        if any(held.first <= first and last <= held.last for held in ranges):
            return Decision(Verdict.INSIDE)
        return classify(ranges, first, last, previous_seal, last_seal)

    def logs_in(_: EpochRanges, first_unacknowledged: int, __: int, ___: bytes) -> LoginDecision:
        return LoginDecision(LoginAction.DURABLE, first_unacknowledged - 1)

    patch.setattr(EpochRanges, "classify", classifies)
    patch.setattr(EpochRanges, "login", logs_in)


def forget_a_gap(patch: pytest.MonkeyPatch) -> None:
    def durable_is_the_highest(
        ranges: EpochRanges, first_unacknowledged: int
    ) -> tuple[int, tuple[tuple[int, int], ...]]:
        held: list[Range] = list(ranges)
        return max([first_unacknowledged - 1, *(each.last for each in held)]), ()

    ready: Any = TAKES[Phase.READY]
    patch.setattr(EpochRanges, "ack_view", durable_is_the_highest)
    patch.setattr(TerminalConnection, "on_tombstone", lambda *_: None)
    patch.setitem(ready, 0x04, lambda *_: None)


def skip_the_tail_of_a_frame(patch: pytest.MonkeyPatch) -> None:
    add_row = Acceptor._add_row

    def adds(acceptor: Acceptor, intake: RecordsIntake, *rest: Any) -> None:
        records = list(walk(intake.payload))
        if len(records) > 1:
            intake = replace(intake, payload=b"".join(records[:-1]))
            rest = (*rest[:3], rest[3][:-1])
        add_row(acceptor, intake, *rest)

    patch.setattr(Acceptor, "_add_row", adds)
    patch.setattr(Acceptor, "_backlog", lambda *_: None)  # the short way adds rows of its own


def drop_every_fifth_frame(patch: pytest.MonkeyPatch) -> None:
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


def count_only_purchases_at_intake(patch: pytest.MonkeyPatch) -> None:
    finish = Acceptor.finish

    def finishes(acceptor: Acceptor) -> None:
        acceptor._counted[:] = [each for each in acceptor._counted if COUNTED.unpack(each)[3] == RecordType.PURCHASE]
        finish(acceptor)

    patch.setattr(Acceptor, "finish", finishes)


def _spool_with(synchronous: str, patch: pytest.MonkeyPatch) -> None:
    opens = open_writer

    def opened(*arguments: Any, synchronous: str, **named: Any) -> Any:
        connection = opens(*arguments, synchronous=synchronous, **named)
        connection.execute(f"PRAGMA synchronous = {mode}")
        return connection

    mode = synchronous
    patch.setattr(store, "open_writer", opened)


def spool_not_synced_at_commit(patch: pytest.MonkeyPatch) -> None:
    _spool_with("NORMAL", patch)


def spool_never_synced(patch: pytest.MonkeyPatch) -> None:
    _spool_with("OFF", patch)


def ignore_a_restored_ledger(patch: pytest.MonkeyPatch) -> None:
    def takes_note_only(spool: Spool, generation: int, position: int) -> int:
        with spool.transaction() as handles:
            for name, value in (("known_generation", generation), ("known_position", position)):
                handles.connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        return 0

    patch.setattr(Spool, "unsettle_above", takes_note_only)


def send_each_row_once(patch: pytest.MonkeyPatch) -> None:
    """A new connection to the ledger goes on behind what was sent on the one before."""

    def resets(outbox: Outbox, *, is_open: bool) -> None:
        outbox._life += 1
        outbox._outstanding.clear()
        outbox.is_open = is_open

    patch.setattr(Outbox, "reset", resets)


def lists_wait_for_the_next_log_in(patch: pytest.MonkeyPatch) -> None:
    push = FrontendServer._push

    def pushes_the_first(server: FrontendServer, version: ListVersion) -> None:
        if version.head.version == (1, 1):
            push(server, version)

    patch.setattr(FrontendServer, "_push", pushes_the_first)


def accept_an_older_list(patch: pytest.MonkeyPatch) -> None:
    """The front-end takes whatever list was once signed."""
    patch.setattr(Distribution, "_is_welcome", lambda *_: True)


def apply_a_delta_on_the_wrong_base(patch: pytest.MonkeyPatch) -> None:
    make, make_next = Distribution._make, next_version

    def makes(taken: Distribution, kind: Any, offered: Any) -> None:
        held = taken._held.get(kind)
        if held is not None and offered.base != (0, 0):
            offered = replace(offered, base=held.head.version)
        make(taken, kind, offered)

    def blindly(held: Any, head: Any, certificate: Any, *, base: Any, data: bytes) -> ListVersion:
        head_of_anything: Any = _Anything(head)
        made = make_next(held, head_of_anything, certificate, base=base, data=data)
        return ListVersion(head, certificate, made.content, {}, made.older_certificates)

    patch.setattr(Distribution, "_make", makes)
    patch.setattr(distribution, "next_version", blindly)


class _Anything:
    """A head that names whatever content there is."""

    def __init__(self, head: Any) -> None:
        self._head = head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def names(self, _: bytes) -> bool:
        return True


def credit_nothing_while_the_disk_refuses(patch: pytest.MonkeyPatch) -> None:
    """As it was: nobody told the terminal when there was room again."""
    credit = IntakeQueue.credit

    def nothing_while_it_refuses(queue: IntakeQueue, *, is_live: bool) -> int:
        return 0 if queue._refusing else credit(queue, is_live=is_live)

    patch.setattr(IntakeQueue, "credit", nothing_while_it_refuses)


def never_ask_again_for_a_damaged_list(patch: pytest.MonkeyPatch) -> None:
    """As it was: the front-end kept the older list until the next one was issued."""
    patch.setattr(Distribution, "_ask_again", lambda *_: None)


def accept_any_proof_of_a_terminal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "compare_digest", lambda _, __: True)


def skip_the_tag(patch: pytest.MonkeyPatch) -> None:
    """A frame of suite A whose tag does not verify is believed all the same."""
    make = aead._cipher

    def makes(key: bytes, salt: bytes, medium: Any, suite: int) -> tuple[Any, bytes]:
        cipher, salt = make(key, salt, medium, suite)
        return (_Credulous(cipher, key) if suite == Suite.A else cipher), salt

    patch.setattr(aead, "_cipher", makes)


class _Credulous:
    """CCM without its second C."""

    def __init__(self, cipher: Any, key: bytes) -> None:
        self._cipher = cipher
        self._key = key
        self.encrypt = cipher.encrypt

    def decrypt(self, nonce: bytes, data: bytes, header: bytes) -> bytes:
        try:
            return bytes(self._cipher.decrypt(nonce, data, header))
        except InvalidTag:
            length_bytes = 15 - len(nonce)
            block = bytes((length_bytes - 1,)) + nonce + (1).to_bytes(length_bytes, "big")
            decryptor = Cipher(algorithms.AES(self._key), modes.CTR(block)).decryptor()
            return decryptor.update(data[:-16])
