"""Every decoder of foreign bytes, with true bytes to bend and what must hold of whatever it accepts.

A decoder takes bytes and returns a value, or raises a `RemoteError`; anything else is a fault of ours. What it accepts
and can encode must come out of its own encoding unchanged, else two parties may disagree on the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ledger_sync.ledger.admin import parse_request
from ledger_sync.ledger.heads import read_heads
from ledger_sync.spool.identity import read_id_file
from protocol import link_messages, messages, rows
from protocol.cards import apdu, memory_apdu, memory_layout, pboc_apdu
from protocol.cards.image import AesCardImage
from protocol.cards.meals import CardMeals, decode_tokens
from protocol.cards.memory_image import MemoryCardImage
from protocol.cards.pboc_image import PbocCardImage
from protocol.codes import CardKind
from protocol.deny_list import DenyList, apply_delta
from protocol.documents import read_any, read_canonical
from protocol.errors import RemoteError
from protocol.handshake import Challenge, Hello, decode_refuse
from protocol.keystore import open_keystore
from protocol.link_batch import BatchName
from protocol.parameters import decode_parameters
from protocol.permissions import Permissions
from protocol.records import decode_body, read_head, summarise, walk
from protocol.registry import Registry
from protocol.signed import Certificate, SignedHead
from terminal_sim.load_station import parse_orders
from tests.fuzz.corpus import pieces
from tests.protocol import card_till, door_kit, samples
from tests.terminal_sim.kit import card_of

ROOT: Final = Path(__file__).parents[2]
REGISTRY: Final = (
    b'{"registry": "onecard", "schema": 1, "site": 42, "terminals": 1}\n'
    b'{"terminal": 66051, "class": "terminal", "kind": "pos", "epoch": 2, "suite": "A", "key_version": 1, '
    b'"enrolment_id": "0011223344556677", "merchant": 9001, "name": "till 4", '
    b'"closed": [{"epoch": 1, "enrolment_id": "8899aabbccddeeff"}]}\n'
)
ORDERS: Final = b'{"order":1,"card":1000001,"amount_cents":5000,"station":1900,"serial":1}\n'
ID_FILE: Final = b'{"spool_id": "000102030405060708090a0b0c0d0e0f", "birth_ms": 1790000000000}\n'
REQUEST: Final = b'{"verb":"lost","card":1000001,"operator":"wang"}'


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder.

    Attributes:
        frames_share: how often it is tried, relative to the others; below 1 where one trial is dear.
        encode: of an accepted value, back to bytes that decode to an equal value; None where there is no encoder.
        accepts_any: it refuses nothing (it reports damage in its value), so that no refusal is expected of it.
    """

    name: str
    decode: Callable[[bytes], Any]
    corpus: Callable[[], tuple[bytes, ...]]
    encode: Callable[[Any], bytes] | None = None
    frames_share: float = 1.0
    accepts_any: bool = False


def _of(*stems: str) -> Callable[[], tuple[bytes, ...]]:
    return lambda: pieces(*stems)


def _encoded(value: Any) -> bytes:
    return bytes(value.encode())


def _record(data: bytes) -> tuple[Any, Any]:
    """A record alone: head, then body by its type."""
    for record in walk(data):
        return read_head(record), decode_body(record)
    return None, None


def _frame_of_records(data: bytes) -> tuple[int, int, int, int]:
    found = summarise(data)
    # The one pass over columns must agree with the reading of each record by itself.
    heads = [read_head(record) for record in walk(data)]
    assert found.count == len(heads), "summarise counts another number of records than there are"
    assert [head.boot for head in heads] == list(found.boots)
    assert (heads[0].sequence, heads[-1].sequence) == (found.first, found.last)
    return found.terminal, found.epoch, found.first, found.last


@cache
def _base_list() -> DenyList:
    return DenyList(range(1_000_000, 1_000_040, 3), lots=[4, 9])


def _card_answer(data: bytes) -> list[object]:
    """An answer of a card is tried as every answer there is: each parser by itself must stay within its errors."""
    found: list[object] = []
    refusal: RemoteError | None = None
    for parse in _CARD_PARSERS:
        try:
            found.append(parse(data))
        except RemoteError as error:
            refusal = error
    if not found and refusal is not None:
        raise refusal
    return found


_CARD_PARSERS: Final[tuple[Callable[[bytes], object], ...]] = (
    apdu.parse_select,
    apdu.parse_authenticate,
    apdu.parse_debit,
    memory_apdu.parse_uid,
    memory_apdu.parse_auth,
    memory_apdu.parse_block,
    pboc_apdu.parse_purchase_ready,
    pboc_apdu.parse_load_ready,
    pboc_apdu.parse_debit,
    pboc_apdu.parse_proof,
    pboc_apdu.LogEntry.decode,
    apdu.CardProof.decode,
    CardMeals.decode,
    decode_tokens,
)


def _blocks(data: bytes) -> list[object]:
    """A block of a memory card, read as each kind of block."""
    block = data[:16].ljust(16, b"\0")
    return [
        memory_layout.decode_access(block[6:10]),
        memory_layout.decode_value(block),
        memory_layout.Marker.decode(block),
    ]


def _heads() -> tuple[bytes, ...]:
    return tuple((ROOT / "tests" / "ledger" / "data" / "ledger_v2.heads").read_bytes().splitlines(keepends=True)[:20])


def _parameters() -> tuple[bytes, ...]:
    return ((ROOT / "docs" / "examples" / "parameters.json").read_bytes().strip(),)


def _permissions() -> tuple[bytes, ...]:
    return (door_kit.site(door_kit.door()).encode(), *_parameters())


def _card_images() -> tuple[bytes, ...]:
    pboc = card_of(CardKind.PBOC)
    assert isinstance(pboc, PbocCardImage)
    return (samples.card_image().encode(), card_till.memory_image().encode(), pboc.encode())


def _link() -> tuple[bytes, ...]:
    """Link messages without the length in front, which is the stream's."""
    whole = pieces("11_link")
    return tuple(each[4:] if int.from_bytes(each[:4], "big") == len(each) - 4 else each for each in whole)


def _crc_mended(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Card images end in a CRC-32, behind which no mutation would ever come: it is put right first."""

    def mended(data: bytes) -> Any:
        return decode(data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "big"))

    return mended


SECRET: Final = b"an unlock secret for tests"  # that of the vectors

TARGETS: Final = {
    target.name: target
    for target in (
        Target("message up", messages.decode_up, _of("06_messages", "07_records"), _encoded),
        Target("message down", messages.decode_down, _of("06_messages", "10_lists"), _encoded),
        Target("hello", Hello.decode, _of("04_handshake"), _encoded),
        Target("challenge", Challenge.decode, _of("04_handshake"), _encoded),
        Target("refuse", decode_refuse, _of("04_handshake")),
        Target("record", _record, _of("07_records", "07b_records_sm4", "07c_record_kinds")),
        Target("records of a frame", _frame_of_records, _of("07_records", "07c_record_kinds", "08_ranges")),
        Target("packed row", rows.decode, _of("11_link"), _encoded),
        Target("link message up", link_messages.decode_up, _link),
        Target("link message down", link_messages.decode_down, _link),
        Target("batch name", BatchName.decode, _link),
        Target("certificate", Certificate.decode, _of("10_lists"), _encoded),
        Target("signed head", SignedHead.decode, _of("10_lists"), _encoded),
        Target("deny list", DenyList.from_content, _of("10_lists"), lambda found: found.content()),
        Target("deny list delta", lambda data: apply_delta(_base_list(), data), _of("10_lists")),
        Target("document", read_any, _parameters),
        Target("canonical document", read_canonical, _parameters),
        Target("parameters", decode_parameters, _parameters, lambda found: found.content()),
        Target("permissions", Permissions.decode, _permissions, _encoded),
        Target("registry", Registry.parse, lambda: (REGISTRY,), lambda found: found.dump()),
        Target("card answers", _card_answer, _of("12_card")),
        Target("memory card blocks", _blocks, _of("12_card"), accepts_any=True),
        Target("AES card image", _crc_mended(AesCardImage.decode), _card_images, _encoded),
        Target("memory card image", _crc_mended(MemoryCardImage.decode), _card_images, _encoded),
        Target("PBOC card image", _crc_mended(PbocCardImage.decode), _card_images, _encoded),
        Target("load orders", parse_orders, lambda: (ORDERS,)),
        Target("heads file", lambda data: read_heads(data, None), _heads, accepts_any=True),
        Target("spool id file", read_id_file, lambda: (ID_FILE,), accepts_any=True),
        Target("operator's request", parse_request, lambda: (REQUEST,), accepts_any=True),
        Target("keystore", lambda data: open_keystore(data, SECRET), _of("13_keystore"), frames_share=0.002),
    )
}
