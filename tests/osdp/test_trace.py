"""Traces in the format of other implementations, and the line a person reads."""

import pytest

from protocol.errors import DamagedData
from protocol.osdp import commands, replies
from protocol.osdp.describe import describe
from protocol.osdp.packet import decode_packet, encode_packet
from protocol.osdp.secure_channel import SCBK_DEFAULT, Channel, SessionKeys
from protocol.osdp.trace import TraceEntry, read_entry, write_entry
from tests.hostile import HostileKit

LINE = (
    '{"timeSec": "1790000000", "timeNano": "123000000", "io": "trace", "data": "53-00-09-00-04-61-00-C0-66",'
    ' "osdpTraceVersion": "1", "osdpSource": "onecard"}\n'
)
ENTRY = TraceEntry(1_790_000_000_123_000_000, "trace", bytes.fromhex("53000900046100c066"))


def command(address: int, sequence: int, what: commands.Command) -> bytes:
    return encode_packet(address, sequence, what.CODE, what.encode(), reply=False)


def reply(address: int, sequence: int, what: replies.Reply) -> bytes:
    return encode_packet(address, sequence, what.CODE, what.encode(), reply=True)


def test_a_line_is_written_and_read() -> None:
    assert write_entry(ENTRY) == LINE
    assert read_entry(LINE) == ENTRY
    assert describe(decode_packet(read_entry(LINE).data)) == "panel -> 0  #0 ID: 1 bytes"


def test_lines_of_other_writers_are_read() -> None:
    line = '{"timeSec":"1","timeNano":"2","io":"input","data":"ff 53 00","osdpSource":"OSDP.Net"}'
    assert read_entry(line) == TraceEntry(1_000_000_002, "input", b"\xff\x53\x00", "OSDP.Net")


@pytest.mark.parametrize(
    "line",
    [
        *("", "[]", "{}", "[" * 9999),
        LINE.replace("trace", "up", 1),
        LINE.replace("53-00", "5-300"),
        LINE.replace('"1790000000"', "1"),
    ],
)
def test_what_is_no_trace_is_refused(line: str) -> None:
    with pytest.raises(DamagedData):
        read_entry(line)


def test_hostile_lines() -> None:
    kit = HostileKit(LINE.encode(), read_entry, bytes_max=12_000)
    kit.decodes_from_any_buffer()
    kit.refuses_oversize()
    kit.survives_garbage()


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (command(3, 1, commands.SetCommunication(4, 9600)), "panel -> 3  #1 COMSET: address 4, 9600 baud"),
        (command(3, 1, commands.KeySet(b"K" * 16)), "panel -> 3  #1 KEYSET: a key in clear"),
        (command(3, 1, commands.FileTransfer(1, 9, 4, b"abc")), "panel -> 3  #1 FILETRANSFER: 3 bytes at 4 of 9"),
        (reply(3, 2, replies.Nak(6)), "3 -> panel  #2 NAK: security_conditions"),
        (reply(3, 2, replies.card_read("1" * 26)), "3 -> panel  #2 RAW: a card of 26 bits"),
        (reply(3, 2, replies.Keypad(0, b"4711")), "3 -> panel  #2 KEYPAD: 4 characters"),
        (reply(3, 0, replies.LocalStatus(True, False)), "3 -> panel  #0 LSTATR: tampered, power good"),
        (reply(3, 0, replies.FileState(1, 20, 0, 0)), "3 -> panel  #0 FTSTAT: status 0, delay 20 ms"),
        (
            encode_packet(3, 0, 0x76, bytes(8), reply=False, block=b"\x11\0"),
            "panel -> 3  #0 CHLNG, default key: 8 bytes",
        ),
        (encode_packet(127, 0, 0x60, b"", reply=False, uses_crc=False), "panel -> all  #0 POLL, checksum"),
        (encode_packet(3, 0, 0x99, b"", reply=False), "panel -> 3  #0 99?"),
        (encode_packet(3, 0, 0x50, b"\1", reply=True), "3 -> panel  #0 RAW: RAW: 1 bytes, 4 at least"),
    ],
)
def test_a_person_reads_one_line(wire: bytes, text: str) -> None:
    assert describe(decode_packet(wire)) == text


def test_sealed_packets_say_so() -> None:
    panel = Channel(SessionKeys.derive(SCBK_DEFAULT, bytes(8)), bytes(16), reader=False)
    assert describe(decode_packet(panel.seal(5, 1, 0x60, b""))) == "panel -> 5  #1 POLL, sealed"
    assert (
        describe(decode_packet(panel.seal(5, 2, 0x69, bytes(14)))) == "panel -> 5  #2 LED, sealed, 16 bytes encrypted"
    )
