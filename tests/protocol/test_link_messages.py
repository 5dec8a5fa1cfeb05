"""protocol.link_messages: what front-end and ledger say to each other (docs/protocol.md §11)."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import AnswerStatus, ListForm, RefusalCode, ReportKind
from protocol.errors import Malformed, OutOfRange, ProofError, RemoteError, StateMisuse, TooLong, UnknownFrame
from protocol.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX, LINK_MESSAGE_BYTES_MAX
from protocol.link_messages import (
    CHAIN_START,
    Answer,
    BatchMessage,
    BatchName,
    DownMessage,
    LinkDecoder,
    LinkHello,
    LinkWelcome,
    ListMessage,
    ListRequest,
    Ping,
    Pong,
    Receipt,
    ReceiptException,
    RecollectRequest,
    Refusal,
    Report,
    Request,
    UpMessage,
    batch_digest,
    chain_hash,
    decode_down,
    decode_up,
    encode_down,
    encode_up,
    name_batch,
    result_digest,
    verify_down,
    verify_up,
)
from protocol.mac import MacKey
from protocol.signed import SoftwareSigner
from tests.hostile import REFUSED, HostileKit, HostileStream, flipped, outcome

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "11_link.json").read_text(encoding="utf-8")
)["cases"]
VECTORS = {case["name"]: case for case in CASES}
KEYS = VECTORS["keys of all messages below"]["given"]
BATCH_KEY = MacKey(bytes.fromhex(KEYS["batch_key"]))
OTHER_KEY = MacKey(bytes(16))
SIGNER = SoftwareSigner(bytes.fromhex(KEYS["ledger_seed"]))
PUBLIC_KEY = SIGNER.public_key
SPOOL_ID = bytes(range(0xF0, 0x100))


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["bytes"])


def hexed(given: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(given[name])


def up_message(given: dict[str, Any]) -> UpMessage:
    """The message that the facts of a vector describe."""
    match given["type"]:
        case 0x01:
            return LinkHello(
                given["front_end"],
                hexed(given, "spool_id"),
                given["spool_birth_ms"],
                given["last_row"],
                hexed(given, "nonce"),
                given["known_ledger_generation"],
                given["known_position"],
            )
        case 0x02:
            rows = [(row["row_id"], bytes.fromhex(row["row"])) for row in given["rows"]]
            return BatchMessage(BatchName.decode(hexed(given, "batch_name")), list(rows))
        case 0x03:
            return ListRequest(given["list_kind"], given["held_generation"], given["held_counter"])
        case 0x04:
            return Report(given["terminal"], ReportKind(given["report_kind"]), given["text"])
        case 0x06:
            body = hexed(given, "request_body")
            return Request(hexed(given, "correlation"), given["expires_ms"], given["request_kind"], body)
        case _:
            return Ping(hexed(given, "nonce"))


def down_message(given: dict[str, Any]) -> DownMessage:
    """The message that the facts of a vector describe."""
    match given["type"]:
        case 0x81:
            return LinkWelcome(
                given["site"],
                given["generation"],
                given["position"],
                hexed(given, "nonce"),
                given["utc_ms"],
                hexed(given, "certificate"),
            )
        case 0x82:
            return Receipt(
                BatchName.decode(hexed(given, "batch_name")),
                given["ledger_generation"],
                given["chain_position"],
                hexed(given, "chain_hash"),
                given["records_posted"],
                given["duplicates"],
                given["quarantined"],
                given["sum_of_posted_amounts"],
                [ReceiptException(**exception) for exception in given["exceptions"]],
                given["exceptions_not_listed"],
            )
        case 0x83:
            return ListMessage(
                ListForm(given["form"]),
                given["base_generation"],
                given["base_counter"],
                hexed(given, "signed_head"),
                hexed(given, "certificate"),
                hexed(given, "data"),
            )
        case 0x84:
            return RecollectRequest(given["terminal"], given["epoch"], given["first"], given["last"])
        case 0x85:
            return Refusal(RefusalCode(given["code"]), given["first_row"])
        case 0x87:
            correlation, kind = hexed(given, "correlation"), given["request_kind"]
            status = AnswerStatus(given["status"])
            return Answer(correlation, given["expires_ms"], kind, status, hexed(given, "request_body"))
        case _:
            return Pong(hexed(given, "nonce"))


MESSAGES = [case for case in CASES if "type" in case["given"]]
UP = [case for case in MESSAGES if case["given"]["type"] < 0x80]
DOWN = [case for case in MESSAGES if case["given"]["type"] >= 0x80]
BATCH_VECTOR = vector("BATCH")


def batch_of_the_vector() -> BatchMessage:
    batch = decode_up(BATCH_VECTOR[4:])
    assert isinstance(batch, BatchMessage)
    return batch


BATCH = batch_of_the_vector()


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", UP, ids=named)
def test_message_up_is_byte_for_byte_the_vector(case: dict[str, Any]) -> None:
    message, data = up_message(case["given"]), bytes.fromhex(case["bytes"])
    assert encode_up(message, BATCH_KEY) == data
    assert decode_up(data[4:]) == message
    verify_up(data[4:], BATCH_KEY)
    with pytest.raises(ProofError):
        verify_up(data[4:], OTHER_KEY)


@pytest.mark.parametrize("case", DOWN, ids=named)
def test_message_down_is_byte_for_byte_the_vector(case: dict[str, Any]) -> None:
    message, data = down_message(case["given"]), bytes.fromhex(case["bytes"])
    assert encode_down(message, SIGNER) == data
    assert decode_down(data[4:]) == message
    verify_down(data[4:], PUBLIC_KEY)
    if not isinstance(message, ListMessage | Refusal):
        with pytest.raises(ProofError):
            verify_down(data[4:], SoftwareSigner(bytes(32)).public_key)


def taken(data: bytes) -> UpMessage | DownMessage:
    """What a stream decoder, the message decoder and the verifier together let through."""
    decoder = LinkDecoder()
    decoder.receive_data(data)
    (payload,) = decoder.payloads()
    if payload[1] < 0x80:
        return checked_up(payload)
    return checked_down(payload)


def checked_up(payload: bytes) -> UpMessage:
    message = decode_up(payload)
    verify_up(payload, BATCH_KEY)
    return message


def checked_down(payload: bytes) -> DownMessage:
    message = decode_down(payload)
    verify_down(payload, PUBLIC_KEY)
    return message


REFUSALS: dict[str, tuple[type[RemoteError], ...]] = {
    "malformed": (Malformed, UnknownFrame, TooLong),
    "MAC wrong": (ProofError,),
    "digest wrong": (ProofError,),
    "signature wrong": (ProofError,),
}


@pytest.mark.parametrize("case", [case for case in CASES if "error" in case], ids=named)
def test_message_that_the_vectors_refuse_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(REFUSALS[case["error"]]):
        taken(bytes.fromhex(case["bytes"]))


def test_batch_name_and_digest_are_byte_for_byte_the_vector() -> None:
    given = VECTORS["batch name"]["given"]
    name = BatchName.decode(vector("batch name"))
    assert name == BatchName(
        given["front_end"],
        hexed(given, "spool_id"),
        given["first_row"],
        given["last_row"],
        hexed(given, "digest"),
    )
    assert name.encode() == vector("batch name")
    assert batch_digest(BATCH.rows) == name.digest
    assert name_batch(7, SPOOL_ID, BATCH.rows) == name == BATCH.name


@pytest.mark.parametrize("position", [1, 2])
def test_chain_hash_is_byte_for_byte_the_vector(position: int) -> None:
    case = VECTORS[f"chain hash at position {position}"]
    results = result_digest(hexed(case["given"], "results"))
    assert results == hexed(case["expected"], "result_digest")
    previous = hexed(case["given"], "previous_chain_hash")
    assert chain_hash(previous, BatchName.decode(hexed(case["given"], "batch_name")), results) == bytes.fromhex(
        case["bytes"]
    )
    assert position != 1 or previous == CHAIN_START


def test_rows_of_a_decoded_batch_are_views_and_not_copies() -> None:
    payload = BATCH_VECTOR[4:]
    batch = decode_up(payload)
    assert isinstance(batch, BatchMessage)
    for row_id, row in batch.rows:
        assert isinstance(row, memoryview)
        assert row.obj is payload
        assert row_id in (101, 102, 104, 105)  # 103 was never committed: holes in the ids are allowed


def test_batch_whose_rows_were_changed_under_a_right_mac_is_refused() -> None:
    rows = [(101, bytes(32)), (102, bytes(32))]
    name = name_batch(7, SPOOL_ID, rows)
    honest = encode_up(BatchMessage(name, list(rows)), BATCH_KEY)
    forged = encode_up(BatchMessage(name, [(101, bytes(32)), (102, bytes(16) + b"\1" + bytes(15))]), BATCH_KEY)
    verify_up(honest[4:], BATCH_KEY)
    with pytest.raises(ProofError, match="digest"):
        verify_up(forged[4:], BATCH_KEY)


def raw_batch(name: BatchName, count: int, rows: bytes) -> bytes:
    return b"\x01\x02\0\0" + name.encode() + count.to_bytes(4, "big") + rows + bytes(16)


def row_bytes(row_id: int, row: bytes = bytes(32)) -> bytes:
    return row_id.to_bytes(8, "big") + row


NAME = BatchName(7, SPOOL_ID, 1, 2, bytes(32))


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (raw_batch(NAME, 0, b""), "0 rows"),
        (raw_batch(NAME, 2, row_bytes(2) + row_bytes(1)), "ascending"),
        (raw_batch(NAME, 2, row_bytes(1) + row_bytes(1)), "ascending"),
        (raw_batch(NAME, 2, row_bytes(1) + row_bytes(3)), "other rows"),
        (raw_batch(NAME, 1, row_bytes(1) + row_bytes(2)), "behind the last row"),
        (raw_batch(NAME, 3, row_bytes(1) + row_bytes(2)), "ends within"),
        (raw_batch(NAME, 2, row_bytes(1) + row_bytes(2)[:-1]), "ends within"),
        (raw_batch(NAME, 1, row_bytes(1, bytes(24) + b"\0\1" + bytes(6))), "ends within"),
        (raw_batch(NAME, 1, row_bytes(1, bytes(28) + b"\xff\xff\xff\xff")), "ends within"),
        (raw_batch(NAME, BATCH_ROWS_MAX + 1, b""), "at most"),
        (raw_batch(NAME, 0xFFFF_FFFF, b""), "at most"),
        (raw_batch(replace(NAME, first_row=3), 1, row_bytes(3)), "ends before"),
        (raw_batch(replace(NAME, frontend=0), 1, row_bytes(1)), "front-end 0"),
    ],
)
def test_batch_that_does_not_fit_its_name_or_counts_is_malformed(payload: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        decode_up(payload)


def test_largest_batch_fits_a_link_message_and_comes_back_equal() -> None:
    row = bytes(28) + (992).to_bytes(4, "big") + bytes(992)
    rows = [(row_id, row) for row_id in range(1, BATCH_ROWS_MAX + 1)]
    assert sum(len(one) for _, one in rows) == BATCH_BYTES_MAX
    batch = BatchMessage(name_batch(7, SPOOL_ID, rows), list(rows))
    data = encode_up(batch, BATCH_KEY)
    assert len(data) < LINK_MESSAGE_BYTES_MAX
    verify_up(data[4:], BATCH_KEY)
    assert decode_up(data[4:]) == batch
    with pytest.raises(OutOfRange, match="bytes of rows"):
        encode_up(BatchMessage(batch.name, [*rows[:-1], (BATCH_ROWS_MAX, row + b"\0")]), BATCH_KEY)


def test_receipt_with_the_most_exceptions_and_one_more() -> None:
    one = ReceiptException(66051, 3, 0x10, 7, 1)
    receipt = Receipt(NAME, 2, 1, bytes(32), 0, 0, 0, -(1 << 63), [one] * 2048, 65535)
    assert decode_down(encode_down(receipt, SIGNER)[4:]) == receipt
    with pytest.raises(OutOfRange, match="at most 2048"):
        encode_down(replace(receipt, exceptions=[one] * 2049), SIGNER)


@pytest.mark.parametrize(
    ("name", "offset", "byte"),
    [
        ("REQUEST, echo", 25, 1),  # reserved
        ("REQUEST, echo", 27, 9),  # length
        ("ANSWER, echo", 25, 3),  # status
        ("ANSWER, echo", 27, 7),
    ],
)
def test_a_request_or_answer_whose_fields_disagree_is_malformed(name: str, offset: int, byte: int) -> None:
    data = bytearray(vector(name)[4:])
    data[4 + offset] = byte
    with pytest.raises(Malformed):
        decode_up(data) if name.startswith("REQUEST") else decode_down(data)


def test_a_request_body_longer_than_may_be_is_malformed_however_it_is_stated() -> None:
    head = bytes.fromhex("01060000") + bytes(16) + bytes(8) + b"\1\0" + (1025).to_bytes(2, "big")
    with pytest.raises(Malformed):
        decode_up(head + bytes(1025) + bytes(16))
    assert decode_up(head[:-2] + (1024).to_bytes(2, "big") + bytes(1024) + bytes(16)) == Request(
        bytes(16), 0, 1, bytes(1024)
    )


@pytest.mark.parametrize(
    "message",
    [
        LinkHello(1 << 32, SPOOL_ID, 0, 0, bytes(16), 0, 0),
        LinkHello(7, SPOOL_ID[:-1], 0, 0, bytes(16), 0, 0),
        LinkHello(7, SPOOL_ID, 0, 0, bytes(17), 0, 0),
        ListRequest(256, 0, 0),
        Report(1, ReportKind.FORK, "断" * 171),
        Ping(bytes(15)),
        Request(bytes(15), 0, 1, b""),
        Request(bytes(16), 1 << 64, 1, b""),
        Request(bytes(16), 0, 256, b""),
        Request(bytes(16), 0, 1, bytes(1025)),
        BatchMessage(NAME, []),
    ],
)
def test_value_that_does_not_fit_its_field_is_our_own_error(message: UpMessage) -> None:
    with pytest.raises(OutOfRange):
        encode_up(message, BATCH_KEY)


def test_list_longer_than_a_link_message_is_our_own_error() -> None:
    with pytest.raises(OutOfRange):
        encode_down(ListMessage(ListForm.SNAPSHOT, 0, 0, bytes(128), bytes(120), bytes(LINK_MESSAGE_BYTES_MAX)), SIGNER)


@pytest.mark.parametrize(
    ("name", "offset", "value"),
    [
        ("LINK_HELLO", 4, bytes(4)),  # front-end 0
        ("LIST_REQUEST", 5, b"\1"),  # reserved
        ("REPORT, fork", 4, bytes(4)),  # terminal 0
        ("REPORT, fork", 8, b"\5"),  # kind
        ("REPORT, fork", 9, b"\1"),  # reserved
        ("REPORT, fork", 14, b"\xff"),  # no UTF-8
        ("LINK_WELCOME", 4, bytes(4)),  # site 0
        ("RECEIPT", 4 + 136 + 7, b"\1"),  # reserved byte of an exception
        ("LIST, snapshot", 4, b"\3"),  # form
        ("LIST, snapshot", 11, b"\1"),  # a snapshot with a base
        ("LIST, delta", 5, b"\1"),  # reserved
        ("RECOLLECT_REQUEST", 10, b"\1"),  # reserved
        ("RECOLLECT_REQUEST", 12, b"\0\0\0\0"),  # sequence 0
        ("RECOLLECT_REQUEST", 12, b"\0\0\0\xff"),  # first above last
        ("REFUSAL, try later", 4, b"\5"),  # code
        ("REFUSAL, try later", 5, b"\1"),  # reserved
    ],
)
def test_field_that_the_layout_forbids_is_malformed(name: str, offset: int, value: bytes) -> None:
    payload = bytearray(vector(name)[4:])
    payload[offset : offset + len(value)] = value
    with pytest.raises(Malformed):
        (decode_up if payload[1] < 0x80 else decode_down)(payload)


def test_a_message_is_never_taken_in_the_wrong_direction() -> None:
    for case in MESSAGES:
        payload = bytes.fromhex(case["bytes"])[4:]
        up: list[Callable[[bytes], object]] = [decode_up, lambda data: verify_up(data, BATCH_KEY)]
        down: list[Callable[[bytes], object]] = [decode_down, lambda data: verify_down(data, PUBLIC_KEY)]
        for read in up if payload[1] >= 0x80 else down:
            with pytest.raises(UnknownFrame, match="goes"):
                read(payload)


def test_every_flipped_bit_of_a_proved_message_is_refused() -> None:
    for name in ("LINK_HELLO", "PING", "REPORT, fork", "BATCH"):
        payload = vector(name)[4:]
        for offset, bit, changed in flipped(payload):
            why = f"{name} {offset}.{bit}"
            assert outcome(checked_up, changed, why) is REFUSED, why
    payload = vector("RECEIPT")[4:]
    for offset, bit, changed in flipped(payload):
        assert outcome(checked_down, changed, "RECEIPT") is REFUSED, (offset, bit)


@pytest.mark.parametrize("case", MESSAGES, ids=named)
def test_hostile_bytes_in_every_message(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["bytes"])[4:]
    is_up = payload[1] < 0x80
    proof = 16 if is_up else 0 if payload[1] in (0x83, 0x85) else 64
    end = len(payload) - proof
    kit = HostileKit(
        payload,
        decode_up if is_up else decode_down,
        bytes_max=LINK_MESSAGE_BYTES_MAX,
        ignored=range(end, len(payload)),  # the proof, which decoding leaves to verify_up and verify_down
        length_fields={0x02: [(72, 4)], 0x04: [(12, 2)], 0x82: [(136, 2)], 0x83: [(16, 4)]}.get(payload[1], ()),
    )
    kit.run_all()
    verify = (lambda data: verify_up(data, BATCH_KEY)) if is_up else (lambda data: verify_down(data, PUBLIC_KEY))
    for length in range(len(payload)):
        outcome(verify, payload[:length], f"truncated to {length}")


def new_feed() -> Any:
    decoder = LinkDecoder()

    def feed(data: bytes) -> list[bytes]:
        decoder.receive_data(data)
        return list(decoder.payloads())

    return feed


def test_hostile_bytes_in_the_stream() -> None:
    for name in ("PING", "REPORT, fork", "RECEIPT"):
        stream = HostileStream(vector(name) + vector("PONG"), new_feed)
        stream.decodes_from_any_buffer()
        stream.decodes_byte_by_byte()
        stream.decodes_at_every_split()
        stream.decodes_five_in_one()
        stream.waits_when_truncated_at_every_offset()
        stream.survives_every_flipped_bit()
        stream.survives_garbage()
        assert len(new_feed()(stream.vector)) == 2


@given(st.lists(st.binary(min_size=4, max_size=40), max_size=6), st.integers(0, 3), st.integers(0, 1 << 32))
def test_what_comes_out_does_not_depend_on_how_the_stream_was_cut(payloads: list[bytes], wrong: int, seed: int) -> None:
    stream = b"".join(len(one).to_bytes(4, "big") + one for one in payloads)
    stream += (b"", b"\0\0\0\3", b"\0\x20\0\1", b"\xff\xff\xff\xff")[wrong]
    source = random.Random(seed)
    decoder, found, failed = LinkDecoder(), [], False
    start = 0
    while start < len(stream) and not failed:
        end = start + source.randint(1, 9)
        decoder.receive_data(stream[start:end])
        start = end
        try:
            for one in decoder.payloads():
                found.append(one)  # noqa: PERF402 - extend would lose what came before the error
        except RemoteError:
            failed = True
            with pytest.raises(StateMisuse):
                decoder.receive_data(b"\0")
            assert list(decoder.payloads()) == []
    assert found == payloads
    assert failed == bool(wrong)


def test_a_claimed_length_is_refused_before_its_bytes_arrive() -> None:
    decoder = LinkDecoder()
    decoder.receive_data((LINK_MESSAGE_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(TooLong):
        list(decoder.payloads())
    decoder = LinkDecoder()
    decoder.receive_data(LINK_MESSAGE_BYTES_MAX.to_bytes(4, "big") + b"\1")
    assert list(decoder.payloads()) == []


def test_iteration_left_early_goes_on_where_it_stopped() -> None:
    decoder = LinkDecoder()
    decoder.receive_data(vector("PING") * 3)
    assert next(decoder.payloads()) == vector("PING")[4:]
    assert len(list(decoder.payloads())) == 2


def test_proof_covers_context_and_payload_as_the_page_says() -> None:
    payload = vector("PING")[4:]
    assert BATCH_KEY.mac(b"onecard.link.v1\0" + payload[:-16]) == payload[-16:]
    digest_input = b"".join(row_id.to_bytes(8, "big") + bytes(row) for row_id, row in BATCH.rows)
    assert sha256(digest_input).digest() == BATCH.name.digest
