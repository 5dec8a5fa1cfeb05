"""Packets and their stream, against the examples of the standard's Annex E and hostile bytes."""

import pytest

from protocol.errors import LineNoise, Malformed, OutOfRange, TooLong, UnknownFrame
from protocol.osdp.limits import PACKET_BYTES_MAX
from protocol.osdp.packet import Packet, PacketDecoder, close_packet, decode_packet, encode_packet, packet_start
from tests.hostile import HostileKit, HostileStream

# Annex E: COMSET to everybody (address 0, 9600 baud) and ID to address 0, with CRC and with checksum.
COMSET_CRC = bytes.fromhex("537f0d00046e00802500006e38")
ID_CRC = bytes.fromhex("53000900046100c066")
COMSET_SUM = bytes.fromhex("537f0c00006e00802500000f")
ID_SUM = bytes.fromhex("5300080000610044")
SEALED = close_packet(packet_start(5, 2, 0x50, bytes(range(16)), reply=True, block=b"\x18"), b"MAC4")


@pytest.mark.parametrize(
    ("wire", "address", "code", "data", "uses_crc"),
    [
        (COMSET_CRC, 0x7F, 0x6E, "0080250000", True),
        (ID_CRC, 0, 0x61, "00", True),
        (COMSET_SUM, 0x7F, 0x6E, "0080250000", False),
        (ID_SUM, 0, 0x61, "00", False),
    ],
)
def test_the_examples_of_annex_e_are_made_and_read(
    wire: bytes, address: int, code: int, data: str, uses_crc: bool
) -> None:
    assert encode_packet(address, 0, code, bytes.fromhex(data), reply=False, uses_crc=uses_crc) == wire
    expected = Packet(address, False, 0, code, bytes.fromhex(data), uses_crc=uses_crc)
    assert decode_packet(wire) == expected


def test_the_crc_is_recomputed_bit_by_bit() -> None:
    crc = 0x1D0F
    for byte in ID_CRC[:-2]:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    assert crc.to_bytes(2, "little") == ID_CRC[-2:]


def test_a_security_block_and_its_mac_are_taken_apart() -> None:
    start = packet_start(5, 3, 0x50, b"data", reply=True, block=b"\x16")
    wire = close_packet(start, b"MAC4")
    assert wire.hex() == "538512000f0216" + "50" + b"dataMAC4".hex() + wire[-2:].hex()
    packet = decode_packet(wire)
    assert (packet.block_type, packet.data, packet.mac, packet.signed) == (0x16, b"data", b"MAC4", start)


@pytest.mark.parametrize("wire", [ID_CRC, COMSET_CRC, SEALED], ids=["id", "comset", "sealed"])
def test_hostile_bytes_for_one_packet(wire: bytes) -> None:
    HostileKit(wire, decode_packet, bytes_max=PACKET_BYTES_MAX, authenticated=True).run_all()


def test_hostile_bytes_for_a_packet_with_a_checksum() -> None:
    HostileKit(COMSET_SUM, decode_packet, bytes_max=PACKET_BYTES_MAX).run_all()


def test_hostile_bytes_for_a_stream() -> None:
    HostileStream(ID_CRC + SEALED, lambda: PacketDecoder().feed, authenticated=True).run_all()


@pytest.mark.parametrize("noise", [b"\0" * 64, b"\xff" * 64, b"\x53" * 11, b"\x53\x00\x80\x00", ID_CRC[:-1]])
def test_a_packet_behind_noise_is_found_at_once_or_when_the_line_falls_silent(noise: bytes) -> None:
    decoder = PacketDecoder()
    packets = decoder.feed(noise + COMSET_CRC) or decoder.line_silent()
    assert [packet.code for packet in packets] == [0x6E]
    assert not decoder.unfinished


def test_a_packet_inside_the_data_of_another_is_never_taken_for_one() -> None:
    outer = encode_packet(1, 1, 0x7C, COMSET_CRC, reply=False)
    decoder = PacketDecoder()
    found = [packet for byte in outer for packet in decoder.feed(bytes((byte,)))]
    assert [packet.code for packet in found] == [0x7C]


def test_noise_is_counted_and_marks_are_not() -> None:
    decoder = PacketDecoder()
    assert decoder.feed(b"\xff\xffabc" + ID_CRC[:-1] + b"\0" + ID_CRC) != []
    assert (decoder.noise_packets, decoder.garbage_bytes) == (1, 3 + len(ID_CRC))


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (close_packet(bytes.fromhex("530009001461" + "00")), UnknownFrame),
        (close_packet(bytes.fromhex("53000a000c01" + "6000")), Malformed),
        (close_packet(bytes.fromhex("530009000c02" + "15")), Malformed),
        (ID_CRC[:-1] + b"\0", LineNoise),
        (bytes(PACKET_BYTES_MAX + 1), TooLong),
    ],
)
def test_what_no_version_has_is_refused(wire: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_packet(wire)


def test_a_field_that_does_not_fit_is_our_own_fault() -> None:
    for address, data in ((128, b""), (0, bytes(PACKET_BYTES_MAX))):
        with pytest.raises(OutOfRange):
            encode_packet(address, 0, 0x60, data, reply=False)


def test_a_repr_shows_no_data() -> None:
    assert "data=16 bytes" in repr(decode_packet(encode_packet(5, 2, 0x50, bytes(16), reply=True)))


def test_a_sealed_packet_without_room_for_a_mac_has_none() -> None:
    """What one panel in use begins with: a sealed poll before there is a session; it is owed a NAK, not silence."""
    packet = decode_packet(close_packet(bytes.fromhex("53070a000c021560")))
    assert (packet.code, packet.block, packet.mac, packet.data) == (0x60, b"\x15", b"", b"")
