"""Records, cards and the JSON vectors that several tests of the protocol share; nothing here asserts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from protocol.cards.aes import AesCardCore, AesCardImage, CardKeys
from protocol.cards.apdu import DebitOrder, Identity
from protocol.codes import AbortReason, CardKind, RecordType
from protocol.keys import card_key
from protocol.mac import MacKey
from protocol.proofs import genesis_seal
from protocol.records import Aborted, Body, Grey, Purchase, RecordHead, Unknown, encode_record, seal_of
from protocol.sam import SoftwareSam, TerminalMasters

VECTORS: Final = Path(__file__).parent.parent / "vectors"
TERMINAL: Final = 66051
EPOCH: Final = 3
CARD: Final = 123456
CNY: Final = 156
UID: Final = bytes.fromhex("04782e21801d80")
SEAL_KEY: Final = MacKey(bytes.fromhex("29da4b284f38679670670dec80e3c9d6"))
ENROLMENT_ID: Final = bytes.fromhex("e0e1e2e3e4e5e6e7")
MASTERS: Final = {
    "authenticate": bytes.fromhex("202122232425262728292a2b2c2d2e2f"),
    "debit": bytes.fromhex("303132333435363738393a3b3c3d3e3f"),
    "refund": bytes.fromhex("404142434445464748494a4b4c4d4e4f"),
    "load": bytes.fromhex("505152535455565758595a5b5c5d5e5f"),
    "tac": bytes.fromhex("606162636465666768696a6b6c6d6e6f"),
}
TERMINAL_CHALLENGE: Final = bytes(range(0x90, 0xA0))
CARD_CHALLENGE: Final = bytes(range(0xB0, 0xC0))
ORDER: Final = DebitOrder(1250, CNY, Identity(TERMINAL, EPOCH, 1))


def vector_cases(section: str) -> list[dict[str, Any]]:
    """The cases of one file of tests/vectors, by the number of its section."""
    (path,) = VECTORS.glob(f"{section}_*.json")
    cases: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cases"]
    return cases


def head(kind: int, sequence: int, *, boot: int = 5, clock_ms: int = 0, terminal: int = TERMINAL) -> RecordHead:
    return RecordHead(
        type=kind,
        epoch=EPOCH,
        boot=boot,
        terminal=terminal,
        sequence=sequence,
        uptime_ds=1000 + sequence,
        clock_ms=clock_ms,
        running_count=sequence,
        running_sum_cents=500 * sequence,
    )


def purchase(amount_cents: int = 500) -> Purchase:
    return Purchase(
        merchant=501,
        card=CARD,
        uid=UID,
        key_version=1,
        amount_cents=amount_cents,
        balance_after_cents=-5,
        counter=101,
        currency=CNY,
        card_kind=CardKind.AES,
        proof=bytes(range(8)),
    )


def grey(amount_cents: int = 450) -> Grey:
    return Grey(
        merchant=501,
        card=CARD,
        uid=UID,
        key_version=1,
        amount_cents=amount_cents,
        balance_before_cents=7950,
        counter_before=102,
        currency=CNY,
        card_kind=CardKind.AES,
    )


def aborted() -> Aborted:
    return Aborted(attempted_type=RecordType.PURCHASE, reason=AbortReason.DENY_LIST, card=CARD)


def chain(*bodies: Body, first: int = 1, boot: int = 5) -> bytes:
    """Records of these bodies, sealed and linked from the genesis seal on."""
    seal, records = genesis_seal(SEAL_KEY, TERMINAL, EPOCH, ENROLMENT_ID), []
    for sequence, body in enumerate(bodies, first):
        kind = body.type if isinstance(body, Unknown) else body.TYPE
        stated = head(kind, sequence, boot=boot)
        stated.body_version = body.body_version if isinstance(body, Unknown) else 0
        record = encode_record(stated, body, seal, SEAL_KEY)
        seal = seal_of(record)
        records.append(record)
    return b"".join(records)


def card_image(*, balance_cents: int = 10_000, counter: int = 100) -> AesCardImage:
    return AesCardImage(
        uid=UID,
        number=CARD,
        key_version=1,
        currency=CNY,
        keys=CardKeys(**{purpose: card_key(master, UID) for purpose, master in MASTERS.items()}),
        balance_cents=balance_cents,
        counter=counter,
        valid_until_day=21915,
        group=4,
    )


def card(*, balance_cents: int = 10_000, counter: int = 100) -> AesCardCore:
    return AesCardCore(card_image(balance_cents=balance_cents, counter=counter))


def sam() -> SoftwareSam:
    return SoftwareSam({1: TerminalMasters(MASTERS["authenticate"], MASTERS["debit"])})
