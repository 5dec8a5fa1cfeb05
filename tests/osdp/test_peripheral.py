"""The reader's core, byte for byte: sequence numbers, repeated commands, refusals, silence."""

import random

import pytest

from protocol.errors import OutOfRange
from protocol.osdp.codes import CommandCode, NakCode, ReplyCode
from protocol.osdp.packet import Packet, decode_packet, encode_packet
from protocol.osdp.peripheral import ReaderSetup
from protocol.osdp.replies import Ack, card_read
from terminal_sim.osdp_reader import CAPABILITIES, IDENTITY, OsdpReader


def reader_in_clear(address: int = 2) -> OsdpReader:
    return OsdpReader(address, random.Random(1).randbytes)


def command(sequence: int, code: int = CommandCode.POLL, data: bytes = b"", address: int = 2) -> bytes:
    return encode_packet(address, sequence, code, data, reply=False)


def answers(reader: OsdpReader, data: bytes, now_ms: int = 0) -> list[Packet]:
    reader.line.receive(data, now_ms)
    wire = reader.line.take_output()
    return [decode_packet(part) for part in wire.split(b"\xff\x53") for part in [b"\x53" + part] if len(part) > 1]


def answer(reader: OsdpReader, data: bytes, now_ms: int = 0) -> tuple[int, int, bytes]:
    (packet,) = answers(reader, data, now_ms)
    return packet.sequence, packet.code, packet.data


def test_an_identity_request_is_answered_by_these_bytes() -> None:
    reader = OsdpReader(0, random.Random(1).randbytes)
    reader.line.receive(bytes.fromhex("ff53000900046100c066"), 0)
    expected = encode_packet(0, 0, 0x45, IDENTITY.encode(), reply=True)
    assert expected.hex() == "5380140004450ca51d010100000000010000" + expected[-2:].hex()
    assert reader.line.take_output() == b"\xff" + expected
    assert reader.line.take_output() == b""


def test_a_repeated_command_is_answered_by_the_same_bytes_and_tells_nothing_twice() -> None:
    reader = reader_in_clear()
    answers(reader, command(0))
    reader.tap("1" * 26)
    reader.tap("0" * 26)
    reader.line.receive(command(1), 0)
    first = reader.line.take_output()
    reader.line.receive(command(1), 0)
    assert reader.line.take_output() == first
    assert (reader.line.events_waiting, reader.line.counters.repeated) == (2, 1)
    assert answer(reader, command(2)) == (2, ReplyCode.RAW, card_read("0" * 26).encode())
    assert answer(reader, command(3)) == (3, ReplyCode.ACK, b"")
    assert answer(reader, command(1)) == (1, ReplyCode.ACK, b"")
    assert reader.line.events_waiting == 0


def test_a_repeated_switch_is_switched_once() -> None:
    reader = reader_in_clear()
    answers(reader, command(0))
    sounding = command(1, CommandCode.BUZ, bytes((0, 2, 1, 1, 1)))
    assert answer(reader, sounding) == answer(reader, sounding) == (1, ReplyCode.ACK, b"")
    assert reader.sounds == 1


def test_an_event_comes_again_when_the_panel_starts_again_before_it_has_acknowledged_it() -> None:
    reader = reader_in_clear()
    answers(reader, command(0))
    reader.tap("1" * 26)
    told = card_read("1" * 26).encode()
    assert answer(reader, command(1)) == (1, ReplyCode.RAW, told)
    assert answer(reader, command(0)) == (0, ReplyCode.RAW, told)
    assert answer(reader, command(1)) == (1, ReplyCode.ACK, b"")


@pytest.mark.parametrize("sequence", [1, 3])
def test_a_wrong_sequence_number_is_refused_and_changes_nothing(sequence: int) -> None:
    reader = reader_in_clear()
    for number in (0, 1):
        answers(reader, command(number))
    reader.tap("1" * 26)
    wrong = command(sequence, CommandCode.BUZ, bytes((0, 2, 1, 1, 1)))
    assert answer(reader, wrong) == (sequence, ReplyCode.NAK, bytes((NakCode.SEQUENCE,)))
    assert reader.sounds == 0
    assert answer(reader, command(2))[1] == ReplyCode.RAW


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (command(1, 0x99), NakCode.UNKNOWN_COMMAND),
        (command(1, CommandCode.BUZ, b"\0"), NakCode.LENGTH),
        (command(1, CommandCode.OUT, b"\x09\2\0\0"), NakCode.RECORD),
        (command(1, CommandCode.XWR, b"\1\2"), NakCode.UNKNOWN_COMMAND),
        (encode_packet(2, 1, 0x60, b"", reply=False, block=b"\x11\1"), NakCode.SECURITY_CONDITIONS),
        (encode_packet(2, 1, 0x76, bytes(8), reply=False), NakCode.SECURITY_CONDITIONS),
        (encode_packet(2, 1, 0x77, bytes(16), reply=False, block=b"\x13\1"), NakCode.SECURITY_CONDITIONS),
    ],
)
def test_a_command_that_it_cannot_do_is_refused_and_the_next_one_done(wire: bytes, reason: NakCode) -> None:
    reader = reader_in_clear()
    answers(reader, command(0))
    assert answer(reader, wire) == (1, ReplyCode.NAK, bytes((reason,)))
    assert answer(reader, command(2)) == (2, ReplyCode.ACK, b"")


def test_others_on_the_line_are_not_answered() -> None:
    reader = reader_in_clear()
    assert answers(reader, command(0, address=3)) == []
    assert answers(reader, encode_packet(2, 0, 0x40, b"", reply=True)) == []
    assert answers(reader, command(0)[:-1] + b"\0") == []
    (to_all,) = answers(reader, command(0, address=0x7F))
    assert (to_all.address, to_all.reply) == (2, True)


def test_a_checksum_is_answered_by_a_checksum() -> None:
    reader = reader_in_clear()
    (packet,) = answers(reader, encode_packet(2, 0, 0x60, b"", reply=False, uses_crc=False))
    assert not packet.uses_crc


def test_half_a_packet_is_given_up_after_twenty_milliseconds_of_silence() -> None:
    reader = reader_in_clear()
    assert answers(reader, command(0)[:5], 1000) == []
    assert reader.line.next_deadline_ms() == 1020
    reader.line.tick(1020)
    assert answer(reader, command(0), 1021) == (0, ReplyCode.ACK, b"")


def test_a_panel_that_is_silent_for_eight_seconds_is_forgotten() -> None:
    reader = reader_in_clear()
    answers(reader, command(0), 0)
    answers(reader, command(1), 500)
    assert (reader.line.online, reader.line.next_deadline_ms()) == (True, 8500)
    reader.line.tick(8499)
    assert reader.line.online
    reader.line.tick(8500)
    assert not reader.line.online
    assert answer(reader, command(2), 8501) == (2, ReplyCode.NAK, bytes((NakCode.SEQUENCE,)))


def test_a_repeated_challenge_gets_the_same_random_number() -> None:
    reader = OsdpReader(2, random.Random(1).randbytes, base_key=bytes(16))
    challenge = encode_packet(2, 0, 0x76, bytes(8), reply=False, block=b"\x11\1")
    assert answers(reader, challenge) == answers(reader, challenge)


def test_busy_moves_neither_sequence_nor_session() -> None:
    reader = reader_in_clear()
    answers(reader, command(0))
    reader.busy_times = 1
    sounding = command(1, CommandCode.BUZ, bytes((0, 2, 1, 1, 1)))
    assert answer(reader, sounding) == (0, ReplyCode.BUSY, b"")
    assert answer(reader, sounding) == (1, ReplyCode.ACK, b"")


def test_only_events_wait_and_no_more_than_a_reader_holds() -> None:
    reader = reader_in_clear()
    with pytest.raises(OutOfRange):
        reader.line.submit(Ack())
    for _ in range(64):
        reader.tap("1")
    with pytest.raises(OutOfRange):
        reader.tap("1")


def test_a_reader_with_no_possible_address_or_key_is_our_own_fault() -> None:
    for address, key in ((0x7F, None), (1, b"short")):
        with pytest.raises(OutOfRange):
            ReaderSetup(address, IDENTITY, CAPABILITIES, base_key=key)
