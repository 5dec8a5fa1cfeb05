"""What an attacker on the wires tries (the five of "Mellon", Black Hat 2023, and kin): each is refused."""

import random

import pytest

from protocol.osdp.codes import CommandCode, NakCode, ReplyCode
from protocol.osdp.commands import CapabilityRequest, Challenge, KeySet, Output, OutputRecord, Poll
from protocol.osdp.packet import close_packet, decode_packet, encode_packet, packet_start
from protocol.osdp.panel import ControlPanel
from protocol.osdp.panel_events import CommandDone, KeyProved, ReaderConfig, ReaderEvent, ReaderOnline, SecurityFailed
from protocol.osdp.replies import Capabilities, CardRead, card_read
from protocol.osdp.secure_channel import SCBK_DEFAULT, SessionKeys
from terminal_sim.osdp_reader import CAPABILITIES, OsdpReader
from tests.osdp.line import Line

KEY = bytes(range(16))
NEXT_KEY = bytes(range(100, 116))


def line_of(config: ReaderConfig, reader: OsdpReader) -> Line:
    panel = ControlPanel(random.Random(1).randbytes, baud=115200)
    panel.add(config, 0)
    return Line(panel, [reader])


def reader_of(key: bytes | None = KEY, install_until_ms: int | None = None) -> OsdpReader:
    return OsdpReader(0, random.Random(2).randbytes, base_key=key, install_until_ms=install_until_ms, baud=115200)


def secure_line() -> Line:
    line = line_of(ReaderConfig("r", 0, 115200, base_key=KEY), reader_of())
    assert line.run(2000, lambda: bool(line.of(ReaderOnline)))
    return line


def said(reader: OsdpReader, wire: bytes, now_ms: int = 0) -> tuple[int, bytes]:
    """Code and data of the reader's answer."""
    reader.line.receive(wire, now_ms)
    answer = decode_packet(reader.line.take_output()[1:])
    return answer.code, answer.data


# -- 1. the default key, outside the install window ----------------------------------------------------------


@pytest.mark.parametrize("install_until_ms", [None, 1000], ids=["no window", "window over"])
def test_a_reader_proves_its_own_key_when_asked_for_the_default_key_outside_its_window(
    install_until_ms: int | None,
) -> None:
    reader = reader_of(install_until_ms=install_until_ms)
    reader.line.receive(challenge(), 1000)
    answer = decode_packet(reader.line.take_output()[1:])
    assert (answer.code, answer.block) == (ReplyCode.CCRYPT, b"\x12\x01")
    own, default = (SessionKeys.derive(key, bytes(8)) for key in (KEY, SCBK_DEFAULT))
    assert answer.data[16:] == own.client_cryptogram(bytes(8), answer.data[8:16])
    assert answer.data[16:] != default.client_cryptogram(bytes(8), answer.data[8:16])


@pytest.mark.parametrize("install_until_ms", [None, 1000], ids=["no window", "window over"])
def test_a_reader_without_a_key_refuses_the_default_key_outside_its_install_window(
    install_until_ms: int | None,
) -> None:
    reader = reader_of(None, install_until_ms=install_until_ms)
    assert said(reader, challenge(), 1000) == (ReplyCode.NAK, bytes((NakCode.SECURITY_CONDITIONS,)))


def challenge() -> bytes:
    """CHLNG by the default key."""
    return encode_packet(0, 0, CommandCode.CHLNG, Challenge(bytes(8)).encode(), reply=False, block=b"\x11\0")


@pytest.mark.parametrize("window_ms", [None, 0], ids=["no window", "window over"])
def test_a_panel_never_tries_the_default_key_outside_the_install_window(window_ms: int | None) -> None:
    line = line_of(
        ReaderConfig("r", 0, 115200, base_key=KEY, install_until_ms=window_ms), reader_of(None, install_until_ms=60_000)
    )
    line.run(20_000)
    assert not line.of(ReaderOnline)
    assert line.of(SecurityFailed)
    assert not any(b"\x03\x11\x00" in data for way, data in line.wire if way == "command")


def test_a_session_under_the_default_key_ends_with_the_window() -> None:
    line = line_of(ReaderConfig("r", 0, 115200, install_until_ms=3000), reader_of(None, install_until_ms=60_000))
    assert line.run(2900, lambda: bool(line.of(ReaderOnline)))
    line.run(3200 - line.now_ms)
    mark = len(line.wire)
    line.run(20_000)
    assert not line.panel.link("r").channel
    assert all(decode_packet(data[1:]).code in {0x61, 0x62} for way, data in line.wire[mark:] if way == "command")


# -- 2. capability downgrade ---------------------------------------------------------------------------------


def test_a_reader_that_says_it_has_no_secure_channel_is_not_spoken_to_in_clear() -> None:
    reader = reader_of(None)
    reader.line.setup.capabilities = Capabilities(tuple(one for one in CAPABILITIES.entries if one[0] != 9))
    line = line_of(ReaderConfig("r", 0, 115200, base_key=KEY), reader)
    reader.tap("1" * 26)
    line.panel.submit("r", Output((OutputRecord(0, 2),)))
    line.run(20_000)
    codes = {decode_packet(data[1:]).code for way, data in line.wire if way == "command"}
    assert codes == {CommandCode.ID, CommandCode.CAP, CommandCode.CHLNG}
    assert (line.of(ReaderEvent), line.of(CommandDone)) == ([], [])
    assert len(line.of(SecurityFailed)) == 1


def test_a_card_read_in_clear_is_not_taken_in_a_secure_session() -> None:
    line = secure_line()

    def forge(way: str, data: bytes) -> bytes:
        if way == "command":
            return data
        sequence = decode_packet(data[1:]).sequence
        forged = card_read("1" * 26).encode()
        return b"\xff" + encode_packet(0, sequence, ReplyCode.RAW, forged, reply=True)

    line.tamper = forge
    line.run(3000)
    assert not line.of(ReaderEvent)
    assert line.panel.link("r").counters.refused > 0


def test_a_reader_with_a_key_does_nothing_in_clear() -> None:
    reader = reader_of()
    opening = Output((OutputRecord(0, 2),))
    for command in (Poll(), opening):
        wire = encode_packet(0, 0, command.CODE, command.encode(), reply=False)
        assert said(reader, wire) == (ReplyCode.NAK, bytes((NakCode.NO_SECURE_CHANNEL,)))
    assert reader.outputs[0] == 0
    wire = encode_packet(0, 0, CapabilityRequest.CODE, b"\0", reply=False)
    assert said(reader, wire)[0] == ReplyCode.PDCAP


# -- 3. replay -----------------------------------------------------------------------------------------------


def test_a_recorded_card_read_opens_nothing_a_second_time() -> None:
    line = secure_line()
    line.readers[0].tap("1" * 26)
    line.run(100)
    (recorded,) = [data for way, data in line.wire if way == "reply" and decode_packet(data[1:]).code == ReplyCode.RAW]
    assert len(line.of(ReaderEvent)) == 1
    sequence = decode_packet(recorded[1:]).sequence
    line.tamper = lambda way, data: (
        recorded if way == "reply" and decode_packet(data[1:]).sequence == sequence else data
    )
    line.run(3000)
    line.tamper = None
    line.run(3000)
    assert len(line.of(ReaderEvent)) == 1
    assert line.panel.link("r").counters.refused > 0
    assert len(line.of(ReaderOnline)) > 1, "a wrong MAC makes a new session"


def test_a_recorded_open_command_opens_nothing_a_second_time() -> None:
    line = secure_line()
    reader = line.readers[0]
    line.panel.submit("r", Output((OutputRecord(0, 2),)))
    line.run(100)
    (recorded,) = [data for way, data in line.wire if way == "command" and decode_packet(data[1:]).code == 0x68]
    assert reader.outputs[0] == 1
    reader.outputs[0] = 0
    for _ in range(6):
        line.run(10)
        reader.line.receive(recorded, line.now_ms)
        reader.line.take_output()
    assert reader.outputs[0] == 0


def test_a_recorded_handshake_proves_nothing_a_second_time() -> None:
    line = secure_line()
    handshake = [data for way, data in line.wire if way == "command"][:4]
    reader = reader_of()
    reader.random_bytes = random.Random(77).randbytes
    answers = [said(reader, data)[0] for data in handshake]
    assert answers == [ReplyCode.PDID, ReplyCode.PDCAP, ReplyCode.CCRYPT, ReplyCode.NAK]
    assert not reader.line.secure


# -- 4. keyset capture ---------------------------------------------------------------------------------------


def test_no_key_goes_to_a_reader_that_asks_for_it_under_the_default_key() -> None:
    """The attacker's device stands in for the reader after its installation, and would read KEYSET."""
    line = line_of(
        ReaderConfig("r", 0, 115200, base_key=KEY, next_key=NEXT_KEY), reader_of(None, install_until_ms=60_000)
    )
    line.run(30_000)
    assert not line.of(KeyProved)
    assert not any(decode_packet(data[1:]).code == CommandCode.KEYSET for way, data in line.wire if way == "command")


def test_a_recorded_key_change_gives_the_key_to_nobody_with_the_default_key() -> None:
    line = secure_line()
    line.panel.rotate_key("r", NEXT_KEY)
    assert line.run(1000, lambda: bool(line.of(KeyProved)))
    packets = [decode_packet(data[1:]) for _, data in line.wire]
    (keyset,) = [packet for packet in packets if packet.code == CommandCode.KEYSET and not packet.reply]
    assert keyset.block == b"\x17"
    challenge = next(packet for packet in packets if packet.code == CommandCode.CHLNG and not packet.reply)
    guessed = SessionKeys.derive(SCBK_DEFAULT, challenge.data)
    for mac in {packet.mac for packet in packets if packet.mac}:
        assert NEXT_KEY not in guessed.data_cipher(mac + bytes(12), encrypt=False).update(keyset.data)
    assert not any(NEXT_KEY in data for _, data in line.wire)


@pytest.mark.parametrize("block", [b"", b"\x15"], ids=["in clear", "with a MAC alone"])
def test_a_reader_takes_no_key_that_is_not_encrypted(block: bytes) -> None:
    reader = reader_of(None, install_until_ms=60_000)
    start = packet_start(0, 0, CommandCode.KEYSET, KeySet(NEXT_KEY).encode(), reply=False, block=block)
    assert said(reader, close_packet(start, bytes(4) if block else b""))[0] == ReplyCode.NAK
    assert reader.stored_key is None


# -- 5. tag truncation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(4))
def test_a_command_whose_mac_is_cut_short_is_refused(kept: int) -> None:
    """The length and the CRC are made right again behind a MAC of fewer bytes."""
    line = secure_line()
    line.tamper = lambda way, data: cut(data, kept) if way == "command" else data
    line.panel.submit("r", Output((OutputRecord(0, 2),)))
    line.run(400)
    assert line.readers[0].outputs[0] == 0
    assert not line.of(CommandDone)
    assert line.readers[0].line.counters.refused > 0


@pytest.mark.parametrize("kept", range(4))
def test_a_reply_whose_mac_is_cut_short_is_refused(kept: int) -> None:
    line = secure_line()
    line.readers[0].tap("1" * 26)
    line.tamper = lambda way, data: cut(data, kept) if way == "reply" else data
    line.run(400)
    assert not [event for event in line.of(ReaderEvent) if isinstance(event.reply, CardRead)]  # type: ignore[union-attr]


def cut(data: bytes, kept: int) -> bytes:
    """The packet with `kept` of the four bytes of its MAC, sound in every other way."""
    packet = decode_packet(data[1:])
    if not packet.mac:
        return data
    body = packet.signed + packet.mac[:kept]
    head = body[:2] + (len(body) + 2).to_bytes(2, "little") + body[4:]
    return b"\xff" + head + crc(head)


def crc(data: bytes) -> bytes:
    value = 0x1D0F
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ (0x1021 if value & 0x8000 else 0)) & 0xFFFF
    return value.to_bytes(2, "little")
