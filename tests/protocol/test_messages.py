"""Messages inside sealed frames: the second implementation's bytes, hostile bytes, edges (docs/protocol.md §6)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import ByeCode, ListForm, ListKind, ListStatus, MessageType, SealStatus, TombstoneReason
from protocol.errors import Disposition, Malformed, OutOfRange
from protocol.mac import MacKey
from protocol.messages import (
    CLOCK_NEVER_SET,
    LIST_STALE,
    MEMORY_80_PERCENT,
    MEMORY_FULL,
    NO_SEAL,
    Ack,
    Baseline,
    BaselineEntry,
    ByeDown,
    ByeUp,
    DownMessage,
    Heartbeat,
    ListChunk,
    ListOffer,
    ListState,
    Recollect,
    SealAnswer,
    SealQuery,
    Time,
    Tombstone,
    Upload,
    UpMessage,
    decode_down,
    decode_up,
)
from tests.hostile import HostileKit, outcome
from tests.protocol.vectors import Vector, good, refused

Message = UpMessage | DownMessage


def from_vector(g: dict[str, Any]) -> Message:
    """The message that a vector's facts describe, built with our own classes."""
    return down_from_vector(g) if g["type"] & 0x80 else up_from_vector(g)


def up_from_vector(g: dict[str, Any]) -> UpMessage:
    match g["type"]:
        case MessageType.BASELINE:
            entries = [
                BaselineEntry(
                    entry["epoch"],
                    entry["oldest_held"],
                    entry["first_unacknowledged"],
                    entry["next"],
                    bytes.fromhex(entry["seal_before_first_unacknowledged"]),
                )
                for entry in g["entries"]
            ]
            seal = bytes.fromhex(g["seal"])
            return Baseline(g["boot"], g["terminal"], g["uptime_ds"], g["clock_ms"], entries, seal)
        case MessageType.UPLOAD:
            return Upload.of([bytes.fromhex(record) for record in g["records"]], live=g["flags"] == 1)
        case MessageType.SEAL_ANSWER:
            return SealAnswer(SealStatus(g["status"]), g["epoch"], g["sequence"], bytes.fromhex(g["seal"]))
        case MessageType.TOMBSTONE:
            reason = TombstoneReason(g["reason"])
            seal = bytes.fromhex(g["seal"])
            return Tombstone(reason, g["epoch"], g["terminal"], g["first"], g["last"], seal)
        case MessageType.HEARTBEAT:
            return Heartbeat(
                g["epoch"],
                g["boot"],
                g["uptime_ds"],
                g["clock_ms"],
                g["next"],
                g["first_unacknowledged"],
                g["flags"],
            )
        case MessageType.LIST_STATE:
            return ListState(
                ListKind(g["list_kind"]),
                ListStatus(g["status"]),
                g["staged_generation"],
                g["staged_counter"],
                g["staged_bytes"],
                bytes.fromhex(g["signed_head_held"]),
            )
        case MessageType.BYE_UP:
            return ByeUp(ByeCode(g["code"]))
    raise AssertionError(f"no class for type {g['type']}")


def down_from_vector(g: dict[str, Any]) -> DownMessage:
    match g["type"]:
        case MessageType.SEAL_QUERY:
            return SealQuery(g["epoch"], g["sequence"])
        case MessageType.ACK:
            ranges = tuple((r["first"], r["last"]) for r in g["ranges"])
            return Ack(g["epoch"], g["durable"], g["settled"], g["credit"], g["flags"] == 1, ranges)
        case MessageType.RECOLLECT:
            return Recollect(g["epoch"], g["first"], g["last"])
        case MessageType.TIME:
            return Time(g["boot"], g["uptime_ds"], g["utc_ms"], g["flags"] == 1)
        case MessageType.LIST_OFFER:
            return ListOffer(
                ListForm(g["form"]),
                g["base_generation"],
                g["base_counter"],
                g["transfer_bytes"],
                bytes.fromhex(g["signed_head"]),
                bytes.fromhex(g["certificate"]),
                bytes.fromhex(g["data"]),
            )
        case MessageType.LIST_CHUNK:
            kind = ListKind(g["list_kind"])
            return ListChunk(kind, g["generation"], g["counter"], g["offset"], bytes.fromhex(g["data"]))
        case MessageType.BYE_DOWN:
            return ByeDown(ByeCode(g["code"]))
    raise AssertionError(f"no class for type {g['type']}")


def decoder_of(data: bytes) -> Callable[[Any], Message]:
    return decode_down if data and data[0] & 0x80 else decode_up


def vector(name: str) -> bytes:
    (found,) = [v for v in good("06_messages") if v.name == name]
    return found.data


@pytest.mark.parametrize("vector", good("06_messages"), ids=str)
def test_messages_have_the_second_implementations_bytes_both_ways(vector: Vector) -> None:
    message = from_vector(vector.given)
    assert message.encode() == vector.data
    assert decoder_of(vector.data)(vector.data) == message


@pytest.mark.parametrize("vector", refused("06_messages"), ids=str)
def test_what_the_second_implementation_refuses_is_malformed(vector: Vector) -> None:
    for decode in (decode_up, decode_down):
        with pytest.raises(Malformed) as caught:
            decode(vector.data)
        assert caught.value.disposition is Disposition.BYE


@pytest.mark.parametrize("vector", [v for v in good("06_messages") if "sealed_over" in v.expected], ids=str)
def test_seals_cover_what_the_second_implementation_seals(vector: Vector) -> None:
    message = decode_up(vector.data)
    assert isinstance(message, Baseline | Tombstone)
    assert message.seal_input() == vector.bytes_of("sealed_over")
    assert MacKey(vector.bytes_of("seal_key")).mac8(message.seal_input()) == message.seal


def test_every_message_type_of_the_page_has_a_vector() -> None:
    reserved = {MessageType.COMMAND, MessageType.COMMAND_RESULT}
    assert {v.data[0] for v in good("06_messages")} == {int(t) for t in MessageType} - reserved


@pytest.mark.parametrize("type_", [t for t in range(256) if t not in {int(m) for m in MessageType}])
def test_unknown_types_are_malformed_in_both_directions(type_: int) -> None:
    for decode in (decode_up, decode_down):
        with pytest.raises(Malformed):
            decode(bytes([type_]) + bytes(15))


def test_a_message_of_the_other_direction_is_malformed() -> None:
    for v in good("06_messages"):
        with pytest.raises(Malformed):
            (decode_up if decoder_of(v.data) is decode_down else decode_down)(v.data)


FIXED = [
    "SEAL_ANSWER, held",
    "TOMBSTONE, flash unreadable",
    "HEARTBEAT",
    "LIST_STATE, staging",
    "BYE up, going down",
    "SEAL_QUERY",
    "RECOLLECT",
    "TIME",
    "BYE down, code 02",
]


@pytest.mark.parametrize("name", FIXED)
def test_hostile_bytes_for_messages_of_one_length(name: str) -> None:
    data = vector(name)
    HostileKit(data, decoder_of(data), bytes_max=4096).run_all()


@pytest.mark.parametrize("name", ["BASELINE, one epoch", "BASELINE, four epochs"])
def test_hostile_baselines(name: str) -> None:
    HostileKit(vector(name), decode_up, bytes_max=4096, length_fields=[(1, 1)]).run_all()


@pytest.mark.parametrize("name", ["UPLOAD, one record, live", "UPLOAD, the whole chain"])
def test_hostile_uploads(name: str) -> None:
    lengths = [(1, 1), (2, 1), (5, 1)]
    HostileKit(vector(name), decode_up, bytes_max=4 + 63 * 112, length_fields=lengths).run_all()


@pytest.mark.parametrize("name", ["ACK, no ranges", "ACK, four ranges"])
def test_hostile_acks(name: str) -> None:
    HostileKit(vector(name), decode_down, bytes_max=4096, length_fields=[(1, 1)]).run_all()


def test_hostile_list_offers_whose_data_may_be_any_length() -> None:
    data = vector("LIST_OFFER, snapshot, first 16 bytes")
    HostileKit(data, decode_down, takes_tail=True, length_fields=[(12, 4)]).run_all()
    for length in range(264):
        assert repr(outcome(decode_down, data[:length], "offer")) == "REFUSED"
    complete = vector("LIST_OFFER, delta, complete")
    HostileKit(complete, decode_down, valid_lengths=range(264, len(complete)), length_fields=[(12, 4)]).run_all()


def test_hostile_list_chunks_whose_data_may_be_any_length_but_none() -> None:
    data = vector("LIST_CHUNK, the rest of the snapshot")
    HostileKit(data, decode_down, takes_tail=True).run_all()
    for length in range(17):
        assert repr(outcome(decode_down, data[:length], "chunk")) == "REFUSED"


def record(sequence: int, *, size: int = 64, epoch: int = 3, terminal: int = 9) -> bytes:
    head = bytes([0x60, size, 1, 0]) + epoch.to_bytes(2, "big") + bytes(2)
    head += terminal.to_bytes(4, "big") + sequence.to_bytes(4, "big")
    seals = bytes([sequence & 0xFF]) * 8 + bytes([sequence + 1 & 0xFF]) * 8
    return head + bytes(size - len(head) - 16) + seals


class TestUpload:
    def test_ends_and_seals_are_read_out_of_the_first_and_last_record(self) -> None:
        upload = Upload.of([record(5), record(6, size=112), record(7, size=96)], live=True)
        assert (upload.terminal, upload.epoch, upload.first, upload.last) == (9, 3, 5, 7)
        assert (upload.previous_seal, upload.last_seal) == (b"\x05" * 8, b"\x08" * 8)
        assert decode_up(upload.encode()) == upload
        assert upload.encode()[:4] == b"\x02\x03\x60\x01"

    def test_sixty_three_short_records_fit_one_tcp_body_and_no_more_fit_a_frame(self) -> None:
        assert len(Upload.of([record(n) for n in range(1, 64)]).encode()) == 4036
        with pytest.raises(OutOfRange):
            Upload.of([record(n) for n in range(1, 65)])

    @pytest.mark.parametrize(
        "records",
        [
            [],
            [record(1), record(3)],
            [record(2), record(1)],
            [record(1), record(1)],
            [record(0)],
            [record(1), record(2, epoch=4)],
            [record(1), record(2, terminal=8)],
            [record(1, epoch=0)],
            [record(1, terminal=0)],
            [record(1, size=48)],
            [record(1, size=128)],
            [record(1, size=72)],
            [record(1)[:63]],
        ],
    )
    def test_records_that_cannot_stand_in_one_frame_are_our_own_error(self, records: list[bytes]) -> None:
        with pytest.raises(OutOfRange):
            Upload.of(records)

    @pytest.mark.parametrize("count", [0, 1, 3, 63, 64, 255])
    def test_a_count_that_the_sequences_deny_is_malformed(self, count: int) -> None:
        data = bytearray(Upload.of([record(1), record(2)]).encode())
        data[1] = count
        with pytest.raises(Malformed):
            decode_up(data)

    def test_sequences_do_not_wrap_round(self) -> None:
        data = bytearray(Upload.of([record(1), record(2)]).encode())
        data[4 + 12 : 4 + 16] = b"\xff\xff\xff\xff"
        data[68 + 12 : 68 + 16] = bytes(4)
        with pytest.raises(Malformed):
            decode_up(data)

    def test_lengths_between_the_ends_must_add_up_to_what_records_can_have(self) -> None:
        good_body = Upload.of([record(1), record(2), record(3)]).encode()
        for middle in (48, 128):
            changed = good_body[: 4 + 64] + bytes(middle) + good_body[4 + 128 :]
            with pytest.raises(Malformed):
                decode_up(changed)

    def test_the_upload_keeps_no_view_into_the_callers_buffer(self) -> None:
        buffer = bytearray(Upload.of([record(1)]).encode())
        upload = decode_up(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        assert upload == Upload.of([record(1)])

    def test_records_are_not_shown(self) -> None:
        assert "records" not in repr(Upload.of([record(1)]))


def entry(epoch: int, oldest: int = 1, first: int = 1, next_: int = 1) -> BaselineEntry:
    return BaselineEntry(epoch, oldest, first, next_, bytes(8))


class TestBaseline:
    def test_entries_ascend_and_there_are_one_to_four(self) -> None:
        for entries in ([], [entry(n) for n in range(1, 6)]):
            with pytest.raises(OutOfRange):
                Baseline(1, 9, 0, 0, entries).encode()
        for epochs in ((0,), (2, 2), (3, 2)):
            with pytest.raises(Malformed):
                decode_up(Baseline(1, 9, 0, 0, [entry(n) for n in epochs]).encode())

    @pytest.mark.parametrize("facts", [(0, 1, 1), (2, 1, 3), (1, 3, 2), (0, 0, 0), (5, 5, 4)])
    def test_sequences_out_of_order_are_malformed(self, facts: tuple[int, int, int]) -> None:
        with pytest.raises(Malformed):
            decode_up(Baseline(1, 9, 0, 0, [entry(3, *facts)]).encode())

    def test_the_seal_is_not_part_of_what_it_seals(self) -> None:
        baseline = Baseline(1, 9, 0, 0, [entry(3)])
        before = baseline.seal_input()
        baseline.seal = b"\x55" * 8
        assert baseline.seal_input() == before
        assert baseline.encode() == before[2:] + b"\x55" * 8


class TestAck:
    @pytest.mark.parametrize(
        "ranges",
        [((11, 12),), ((10, 12),), ((13, 12),), ((12, 14), (14, 15)), ((20, 21), (15, 16)), ((12, 12), (12, 12))],
    )
    def test_ranges_that_do_not_ascend_above_durable_are_malformed(self, ranges: tuple[tuple[int, int], ...]) -> None:
        with pytest.raises(Malformed):
            decode_down(Ack(3, 10, 0, 4, ranges=ranges).encode())

    def test_adjacent_ranges_and_the_first_possible_one_are_taken(self) -> None:
        ack = Ack(3, 10, 2, 16, kept_as_suspect=True, ranges=((12, 13), (14, 0xFFFFFFFF)))
        assert decode_down(ack.encode()) == ack

    def test_too_many_ranges_or_too_much_credit_are_our_own_error(self) -> None:
        for ack in (Ack(3, 0, 0, 17), Ack(3, 0, 0, 0, ranges=tuple((2 * n, 2 * n) for n in range(1, 6)))):
            with pytest.raises(OutOfRange):
                ack.encode()


@given(
    st.integers(1, 65535),
    st.integers(0, 65535),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 2**64 - 1),
    st.integers(1, 0xFFFFFFFF),
    st.integers(0, 15),
)
def test_any_heartbeat_comes_back_as_it_went(
    epoch: int, boot: int, uptime_ds: int, clock_ms: int, next_: int, flags: int
) -> None:
    heartbeat = Heartbeat(epoch, boot, uptime_ds, clock_ms, next_, 1, flags)
    assert decode_up(heartbeat.encode()) == heartbeat


def test_heartbeat_flags_have_the_bits_of_the_page() -> None:
    assert (CLOCK_NEVER_SET, MEMORY_80_PERCENT, MEMORY_FULL, LIST_STALE) == (1, 2, 4, 8)


def test_a_seal_of_a_record_that_is_not_held_is_malformed() -> None:
    held = SealAnswer(SealStatus.HELD, 3, 5, NO_SEAL)
    assert decode_up(held.encode()) == held
    with pytest.raises(Malformed):
        decode_up(SealAnswer(SealStatus.OVERWRITTEN, 3, 5, b"\x01" * 8).encode())


def test_an_offer_of_a_snapshot_has_no_base_and_no_more_data_than_it_says() -> None:
    offer = ListOffer(ListForm.SNAPSHOT, 0, 0, 16, bytes(128), bytes(120), bytes(16))
    assert decode_down(offer.encode()) == offer
    for wrong in (replace(offer, base_counter=1), replace(offer, transfer_bytes=15)):
        with pytest.raises(Malformed):
            decode_down(wrong.encode())


@pytest.mark.parametrize(
    "message",
    [
        Time(65536, 0, 0),
        SealQuery(3, -1),
        Recollect(3, 1, 1 << 32),
        Heartbeat(0, 0, 0, 1 << 64, 0, 0),
        Baseline(1, 9, 0, 0, [entry(3)], seal=b"short"),
        Baseline(1, 9, 0, 0, [BaselineEntry(3, 1, 1, 1, bytes(9))]),
        Tombstone(TombstoneReason.UNREADABLE, 3, 9, 1, 1, seal=bytes(7)),
        SealAnswer(SealStatus.HELD, 3, 1, bytes(9)),
        ListState(ListKind.DENY, ListStatus.HOLDS, head=bytes(127)),
        ListOffer(ListForm.DELTA, 0, 0, 0, bytes(127), bytes(120)),
        ListOffer(ListForm.DELTA, 0, 0, 0, bytes(128), bytes(121)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_value_that_does_not_fit_its_field_is_our_own_error(message: Message) -> None:
    with pytest.raises(OutOfRange):
        message.encode()
