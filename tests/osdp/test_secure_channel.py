"""The secure channel: Annex E of the standard as facts, recomputed by another library; hostile packets."""

from dataclasses import replace

import pytest
from Crypto.Cipher import AES

from protocol.errors import Malformed, OutOfRange, RemoteError, TagError
from protocol.osdp.packet import close_packet, decode_packet, encode_packet, packet_start
from protocol.osdp.secure_channel import SCBK_DEFAULT, Channel, SessionKeys, pad, unpad
from tests.hostile import HostileKit

# Annex E, key SCBK-D.
PANEL_RANDOM = bytes.fromhex("b0b1b2b3b4b5b6b7")
READER_RANDOM = bytes.fromhex("a0a1a2a3a4a5a6a7")
ENC = bytes.fromhex("bf8dc2a8329acb8c67c6d0cd9a451682")
MAC_1 = bytes.fromhex("5e86c676603bdee2d8beafe178637332")
MAC_2 = bytes.fromhex("6fda86e857777e81132035758239172e")
CLIENT = bytes.fromhex("fde5d2f428ec16312471ea3c02bd7796")
SERVER = bytes.fromhex("26d3356e07762d262801fc8e6665a891")
INITIAL = bytes.fromhex("b2a30057eb98ba2229ec1f875662b524")
KEYS = SessionKeys(ENC, MAC_1, MAC_2)


def both() -> tuple[Channel, Channel]:
    return Channel(KEYS, INITIAL, reader=False), Channel(KEYS, INITIAL, reader=True)


def mac_by_hand(chained: bytes, signed: bytes) -> bytes:
    """The chain of blocks written out with pycryptodome, one block at a time."""
    if len(signed) % 16:
        signed += b"\x80" + bytes(15 - len(signed) % 16)
    blocks = [signed[at : at + 16] for at in range(0, len(signed), 16)]
    for number, block in enumerate(blocks, 1):
        key = MAC_2 if number == len(blocks) else MAC_1
        chained = AES.new(key, AES.MODE_ECB).encrypt(bytes(a ^ b for a, b in zip(block, chained, strict=True)))
    return chained


def test_the_session_keys_of_annex_e() -> None:
    assert SCBK_DEFAULT == b"0123456789:;<=>?"
    assert SessionKeys.derive(SCBK_DEFAULT, PANEL_RANDOM) == KEYS
    by_hand = AES.new(SCBK_DEFAULT, AES.MODE_ECB).encrypt(bytes.fromhex("0182b0b1b2b3b4b5") + bytes(8))
    assert by_hand == ENC


def test_the_cryptograms_and_the_first_reply_mac_of_annex_e() -> None:
    assert KEYS.client_cryptogram(PANEL_RANDOM, READER_RANDOM) == CLIENT
    assert KEYS.server_cryptogram(PANEL_RANDOM, READER_RANDOM) == SERVER
    assert KEYS.initial_reply_mac(SERVER) == INITIAL
    assert AES.new(ENC, AES.MODE_ECB).decrypt(CLIENT) == PANEL_RANDOM + READER_RANDOM


@pytest.mark.parametrize("data", [b"", b"\1", bytes(15), bytes(16), bytes(range(70))], ids=len)
def test_a_chain_of_exchanges_is_what_another_library_makes_of_it(data: bytes) -> None:
    panel, reader = both()
    chained = INITIAL
    for sequence in (1, 2, 3, 1):
        wire = panel.seal(4, sequence, 0x69, data)
        packet = decode_packet(wire)
        last, chained = chained, mac_by_hand(chained, packet.signed)
        assert packet.mac == chained[:4]
        assert packet.block == (b"\x17" if data else b"\x15")
        if data:
            plain = AES.new(ENC, AES.MODE_CBC, bytes(byte ^ 0xFF for byte in last)).decrypt(packet.data)
            assert plain == data + b"\x80" + bytes(-(len(data) + 1) % 16)
        opened = reader.open(packet)
        assert opened.data == data
        reader.accept(opened)
        answer = decode_packet(reader.seal(4, sequence, 0x40, data))
        chained = mac_by_hand(chained, answer.signed)
        assert answer.mac == chained[:4]
        assert answer.block == (b"\x18" if data else b"\x16")
        opened = panel.open(answer)
        panel.accept(opened)
        assert opened.data == data


def test_a_packet_that_is_not_acted_upon_leaves_the_chain_as_it_was() -> None:
    panel, reader = both()
    packet = decode_packet(panel.seal(4, 1, 0x60, b""))
    assert reader.open(packet) == reader.open(packet)
    reader.accept(reader.open(packet))
    answer = decode_packet(reader.seal(4, 1, 0x40, b""))
    assert panel.open(answer).data == b""
    panel.accept(panel.open(answer))
    panel.seal(4, 2, 0x60, b"")
    with pytest.raises(TagError):  # the chain has moved on: no second time
        panel.open(answer)


def test_hostile_bytes_behind_a_right_crc_are_refused() -> None:
    """Every bit is bent and the CRC made right again: what is left to refuse it is the MAC."""
    panel, _ = both()
    wire = panel.seal(4, 1, 0x68, b"\0\5\x1e\0")

    def open_it(body: bytes) -> object:
        packet = decode_packet(close_packet(bytes(body)))
        if packet.reply:
            raise TagError("a reply")
        return both()[1].open(packet).data

    HostileKit(wire[:-2], open_it, authenticated=True).run_all()


@pytest.mark.parametrize("mac_bytes", [0, 1, 2, 3])
def test_a_shortened_mac_is_refused_whatever_it_begins_with(mac_bytes: int) -> None:
    panel, reader = both()
    packet = decode_packet(panel.seal(4, 1, 0x60, b""))
    with pytest.raises(TagError):
        reader.open(replace(packet, mac=packet.mac[:mac_bytes]))
    reader.open(packet)  # it was right


def test_a_packet_in_clear_or_of_the_handshake_opens_no_channel() -> None:
    _, reader = both()
    for block in (b"", b"\x11\x01", b"\x13\x01"):
        with pytest.raises(TagError):
            reader.open(decode_packet(encode_packet(4, 1, 0x60, b"", reply=False, block=block)))


def test_a_reply_is_not_taken_for_a_command() -> None:
    panel, reader = both()
    reader.accept(reader.open(decode_packet(panel.seal(4, 1, 0x60, b""))))
    with pytest.raises(TagError):
        both()[1].open(decode_packet(reader.seal(4, 1, 0x40, b"")))


def test_encrypted_data_that_is_no_whole_block_is_refused_after_its_mac() -> None:
    _, reader = both()
    start = packet_start(4, 1, 0x69, b"\1" * 15, reply=False, block=b"\x17")
    with pytest.raises(Malformed):
        reader.open(decode_packet(close_packet(start, mac_by_hand(INITIAL, start)[:4])))


@pytest.mark.parametrize("padded", [b"", bytes(16), b"\1" * 16, b"\x80" + bytes(16)], ids=["", "0", "1", "long"])
def test_padding_that_is_none_is_refused(padded: bytes) -> None:
    with pytest.raises(RemoteError):
        unpad(padded)


@pytest.mark.parametrize("count", range(34))
def test_padding_comes_off_again(count: int) -> None:
    data = bytes(count - 1) + b"\x80" if count else b""
    assert unpad(pad(data)) == data
    assert len(pad(data)) % 16 == 0


def test_keys_do_not_show() -> None:
    assert repr(KEYS) == "SessionKeys(…)"
    assert repr(both()) == "(Channel(panel), Channel(reader))"
    with pytest.raises(OutOfRange):
        SessionKeys.derive(b"short", PANEL_RANDOM)
