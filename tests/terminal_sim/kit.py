"""A terminal on a bench: flash, secrets, cards, oracle and clock, made from a seed. No test lives here."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from protocol.cards.aes import AesCardImage, CardKeys
from protocol.cards.memory_format import SectorMasters, formatted_image
from protocol.cards.memory_layout import Application, MemoryFacts
from protocol.cards.memory_sam import SoftwareMemorySam
from protocol.cards.pboc_image import PbocCardImage, PbocCardKeys
from protocol.cards.pboc_macs import (
    as_proof,
    load_tac,
    pboc_key,
    pboc_moment,
    split_load_reference,
    terminal6,
    verify_pboc_tac,
)
from protocol.cards.pboc_sam import PbocTerminalMasters, SoftwarePbocSam
from protocol.codes import CardKind, ListKind, ProofSuite, RecordType, Suite
from protocol.deny_list import DenyList
from protocol.documents import canonical
from protocol.keys import card_key, link_key, seal_key
from protocol.mac import MacKey
from protocol.ports import Timer
from protocol.proofs import ChainCheck, genesis_seal, verify_card_proof, verify_chain
from protocol.record_bodies import Load
from protocol.records import Completion, Purchase, RecordHead, decode_body, read_head
from protocol.sam import SoftwareSam, TerminalMasters
from protocol.signed import Certificate, CertificateUse, SoftwareSigner, issue_certificate, sign_head
from terminal_sim.card import CardField, Disturbance, MemoryCards
from terminal_sim.card_kinds import Card, MemoryCard
from terminal_sim.errors import RecordGone, SectorDead
from terminal_sim.firmware import PosTerminal, TapResult
from terminal_sim.flash import SECTOR_BYTES, VirtualFlash
from terminal_sim.layout import JOURNAL_SECTORS, LIST_AREAS, FlashLayout
from terminal_sim.oracle import Oracle
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import DriftingRtc

SITE: Final = 77
TERMINAL: Final = 4001
MERCHANT: Final = 9
LINK_MASTER: Final = bytes(range(16))
SEAL_MASTER: Final = bytes(range(16, 32))
AUTHENTICATE_MASTER: Final = bytes(range(32, 48))
DEBIT_MASTER: Final = bytes(range(48, 64))
TAC_MASTER: Final = bytes(range(64, 80))
SECTOR_MASTERS: Final = {
    each: SectorMasters(bytes([0x10 * each + 1] * 16), bytes([0x10 * each + 2] * 16)) for each in Application
}
PBOC_MASTERS: Final = {
    name: bytes(range(start, start + 16))
    for name, start in (("internal", 0), ("purchase", 16), ("maintenance", 32), ("load", 48), ("tac", 64))
}
ROOT_SEED: Final = bytes(range(32))
LEDGER_SEED: Final = bytes(range(100, 132))
LISTS_SEED: Final = bytes(range(140, 172))
FIRST_CARD: Final = 1000
OPENING_CENTS: Final = 100_000


DOCUMENT_SECTORS: Final = 2


def flash_layout(*, ring_sectors: int = 4, list_sectors: int = 2, documents: int = 1) -> FlashLayout:
    lists = LIST_AREAS * (list_sectors + documents * DOCUMENT_SECTORS)
    sectors = JOURNAL_SECTORS + lists + ring_sectors
    return FlashLayout(sectors * SECTOR_BYTES, list_sectors, DOCUMENT_SECTORS, documents)


class BenchRandom:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)


class BenchClock:
    """Time that only a test moves; timers are not for the bench."""

    def __init__(self) -> None:
        self.time_ms = 0

    def now_ms(self) -> int:
        return 1_790_000_000_000 + self.time_ms

    def monotonic_ms(self) -> int:
        return self.time_ms

    def call_at(self, monotonic_ms: int, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError


def no_log(event: str, /, **facts: object) -> None:
    pass


def terminal_secrets(
    *, terminal: int = TERMINAL, epoch: int = 1, suite: int = Suite.A, proof_suite: int = ProofSuite.AES_CMAC
) -> TerminalSecrets:
    return TerminalSecrets(
        site=SITE,
        terminal=terminal,
        epoch=epoch,
        key_version=1,
        link_key=link_key(LINK_MASTER, terminal=terminal, epoch=epoch, key_version=1, suite=suite),
        seal_key=seal_key(SEAL_MASTER, terminal=terminal, epoch=epoch, proof_suite=proof_suite),
        enrolment_id=bytes((epoch,)) * 8,
        merchant=MERCHANT,
        root_public=SoftwareSigner(ROOT_SEED).public_key,
        sam=SoftwareSam({1: TerminalMasters(AUTHENTICATE_MASTER, DEBIT_MASTER)}),
        memory_sam=SoftwareMemorySam({1: {Application.PURSE: SECTOR_MASTERS[Application.PURSE].a}}),
        pboc_sam=SoftwarePbocSam(
            {1: PbocTerminalMasters(*(PBOC_MASTERS[name] for name in ("internal", "purchase", "maintenance")))}
        ),
        suite=suite,
        proof_suite=proof_suite,
    )


def card_image(number: int = FIRST_CARD, *, balance_cents: int = OPENING_CENTS, key_version: int = 1) -> AesCardImage:
    uid = b"\x04" + number.to_bytes(6, "big")
    masters = (AUTHENTICATE_MASTER, DEBIT_MASTER, bytes(16), bytes(16), TAC_MASTER)
    return AesCardImage(
        uid=uid,
        number=number,
        key_version=key_version,
        currency=156,
        keys=CardKeys(*(card_key(master, uid) for master in masters)),
        balance_cents=balance_cents,
    )


def card_of(kind: CardKind, number: int = FIRST_CARD, *, balance_cents: int = OPENING_CENTS) -> Card:
    """A card of any kind with nothing on its conscience."""
    uid = b"\x04" + number.to_bytes(6, "big")
    if kind is CardKind.MEMORY:
        image = formatted_image(uid, MemoryFacts(number, 1, 156), SECTOR_MASTERS, balance_cents=balance_cents)
        return MemoryCard(image)
    if kind is CardKind.PBOC:
        keys = PbocCardKeys(**{name: pboc_key(master, uid) for name, master in PBOC_MASTERS.items()})
        return PbocCardImage(uid, number, 1, 156, keys, balance_cents)
    return card_image(number, balance_cents=balance_cents)


def aes_card(bench: Bench, number: int) -> AesCardImage:
    found = bench.cards.load(number)
    assert isinstance(found, AesCardImage)
    return found


def ledger_certificate() -> Certificate:
    public_key = SoftwareSigner(LEDGER_SEED).public_key
    return issue_certificate(ROOT_SEED, key_id=1, site=SITE, valid_from_ms=0, valid_to_ms=2**62, public_key=public_key)


def signed_list(counter: int, cards: list[int]) -> tuple[bytes, bytes]:
    """(head, content) of a deny list."""
    content = DenyList(cards).content()
    head = sign_head(
        LEDGER_SEED, key_id=1, site=SITE, list_kind=1, generation=1, counter=counter, issued_ms=1, content=content
    )
    return head.encode(), content


def lists_certificate() -> Certificate:
    public_key = SoftwareSigner(LISTS_SEED).public_key
    use = CertificateUse.OFFLINE
    return issue_certificate(
        ROOT_SEED, key_id=1, site=SITE, valid_from_ms=0, valid_to_ms=2**62, public_key=public_key, use=use
    )


def signed_document(kind: ListKind, counter: int, document: dict[str, object]) -> tuple[bytes, bytes]:
    """(head, content) of parameters or permissions."""
    content = canonical(document)
    head = sign_head(
        LISTS_SEED, key_id=1, site=SITE, list_kind=kind, generation=1, counter=counter, issued_ms=1, content=content
    )
    return head.encode(), content


@dataclass
class Bench:
    """One terminal that can lose power at any byte."""

    layout: FlashLayout = field(default_factory=flash_layout)
    secrets: TerminalSecrets = field(default_factory=terminal_secrets)
    seed: int = 1

    def __post_init__(self) -> None:
        self.flash = VirtualFlash(self.layout.size_bytes)
        self.random = BenchRandom(self.seed)
        self.clock = BenchClock()
        self.rtc = DriftingRtc(self.clock, offset_ms=0, has_battery=True)
        self.cards = MemoryCards()
        self.oracle = Oracle({self.secrets.terminal: self.secrets.merchant})

    def issue(
        self, number: int = FIRST_CARD, *, balance_cents: int = OPENING_CENTS, kind: CardKind = CardKind.AES
    ) -> int:
        image = card_of(kind, number, balance_cents=balance_cents)
        self.cards.save(image)
        self.oracle.issued(image)
        return number

    def boot(self, *, power_on: bool = True) -> PosTerminal:
        if power_on:
            self.flash.power_on()
        made = PosTerminal(self.flash, self.secrets, rtc=self.rtc, random=self.random, log=no_log, layout=self.layout)
        self.terminal = made
        return made

    def field(self, card: int, disturbance: Disturbance | None = None) -> CardField:
        return CardField(
            self.cards,
            card,
            self.random,
            disturbance=disturbance,
            on_write=self.oracle.card_written,
            payee=lambda: self.terminal.charging,
        )

    def tap(
        self, terminal: PosTerminal, card: int, amount_cents: int, disturbance: Disturbance | None = None
    ) -> TapResult:
        result = terminal.tap(self.field(card, disturbance), amount_cents)
        self.oracle.answered(self.secrets.terminal, self.secrets.epoch, result)
        return result

    def re_enrol(self, epoch: int) -> None:
        self.secrets = replace(terminal_secrets(epoch=epoch), terminal=self.secrets.terminal)


def records_of(terminal: PosTerminal, epoch: int | None = None) -> list[bytes]:
    """Every readable record of an epoch, in order."""
    assert terminal.memory is not None
    ring = terminal.memory.ring
    epoch = terminal.secrets.epoch if epoch is None else epoch
    marks = ring.epochs[epoch]
    found = []
    for sequence in range(marks.oldest, marks.next):
        try:
            found.append(ring.read(epoch, sequence))
        except (SectorDead, RecordGone):
            continue
    return found


def check_chain(terminal: PosTerminal) -> list[bytes]:
    """Seals, links, identities and card proofs of everything held; returns the records."""
    records = records_of(terminal)
    secrets = terminal.secrets
    key = secrets.sealing()
    first = read_head(records[0]).sequence if records else 1
    before = genesis_seal(key, secrets.terminal, secrets.epoch, secrets.enrolment_id) if first == 1 else None
    checked = verify_chain(key, b"".join(records), before)
    assert checked == ChainCheck(len(records), checked.last_seal, None)
    for offset, record in enumerate(records):
        head, body = read_head(record), decode_body(record)
        assert (head.sequence, head.proof_suite) == (first + offset, secrets.proof_suite)
        if isinstance(body, Purchase | Load | Completion):
            assert proof_verifies(head, body), body
    return records


def proof_verifies(head: RecordHead, body: Purchase | Load | Completion) -> bool:
    """Whether the record carries what a card of its kind owes (R4), by this site's masters."""
    if body.card_kind == CardKind.MEMORY:
        return not isinstance(body, Completion) and body.proof == bytes(8)
    if body.card_kind == CardKind.AES:
        return verify_card_proof(MacKey(card_key(TAC_MASTER, body.uid)), head, body)
    type_: int = body.original_type if isinstance(body, Completion) else head.type
    if not isinstance(body, Completion):
        who, clock_ms = (head.terminal, head.epoch, head.sequence), head.clock_ms
    else:
        who, clock_ms = (body.original_terminal, body.original_epoch, body.original_sequence), body.reference
    terminal, epoch, sequence = who
    dtk = pboc_key(PBOC_MASTERS["tac"], body.uid)
    if type_ == RecordType.LOAD:
        clock_ms = split_load_reference(clock_ms)[1] if isinstance(body, Completion) else clock_ms
        made = load_tac(
            dtk,
            balance_after_cents=body.balance_after_cents,
            counter=body.counter - 1,
            amount_cents=body.amount_cents,
            terminal=terminal6(terminal, epoch),
            moment=pboc_moment(clock_ms),
        )
        return body.proof == as_proof(made)
    return verify_pboc_tac(
        dtk,
        body.proof,
        amount_cents=body.amount_cents,
        terminal=terminal,
        epoch=epoch,
        sequence=sequence,
        moment=pboc_moment(clock_ms),
    )
