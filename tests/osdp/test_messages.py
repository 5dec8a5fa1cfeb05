"""Every command and reply: literal bytes in both directions, then hostile ones."""

from collections.abc import Callable

import pytest

from protocol.errors import Malformed, OutOfRange, UnexpectedMessage
from protocol.osdp import commands, replies
from protocol.osdp.codes import CapabilityCode
from protocol.osdp.commands import Command, LedRecord, LedState, OutputRecord, decode_command
from protocol.osdp.replies import Reply, decode_reply
from tests.hostile import HostileKit

COMMANDS: list[tuple[Command, str]] = [
    (commands.Poll(), ""),
    (commands.IdentityRequest(), "00"),
    (commands.CapabilityRequest(), "00"),
    (commands.LocalStatusRequest(), ""),
    (commands.InputStatusRequest(), ""),
    (commands.OutputStatusRequest(), ""),
    (commands.ReaderStatusRequest(), ""),
    (commands.Output((OutputRecord(0, 5, 30), OutputRecord(1, 2))), "00051e0001020000"),
    (
        commands.Led((LedRecord(0, 1, LedState(2, 3, 4, 1, 2), 0x0102, LedState(1, 5, 6, 3, 4)),)),
        "0001020304010202010105060304",
    ),
    (commands.Buzzer(0, 2, 3, 1, 2), "0002030102"),
    (commands.Text(0, 3, 5, 1, 2, b"OPEN"), "000305010204" + b"OPEN".hex()),
    (commands.SetCommunication(9, 115200), "0900c20100"),
    (commands.KeySet(bytes(range(16))), "0110" + bytes(range(16)).hex()),
    (commands.Challenge(bytes(range(8))), bytes(range(8)).hex()),
    (commands.ServerCryptogram(bytes(range(16))), bytes(range(16)).hex()),
    (commands.PanelReceiveSize(1440), "a005"),
    (commands.FileTransfer(1, 0x11223344, 0x100, b"abc"), "014433221100010000" + "0300616263"),
    (commands.Manufacturer(b"\1\2\3", b"go"), "010203676f"),
    (commands.ExtendedWrite(1, b"\2"), "0102"),
    (commands.Abort(), ""),
    (commands.KeepActive(1000), "e803"),
]
REPLIES: list[tuple[Reply, str]] = [
    (replies.Ack(), ""),
    (replies.Busy(), ""),
    (replies.Nak(6), "06"),
    (replies.Identity(b"\xca\xfe\xba", 1, 2, b"\1\2\3\4", (5, 6, 7)), "cafeba010201020304050607"),
    (replies.Capabilities(((9, 1, 1), (10, 0x80, 0x02))), "0901010a8002"),
    (replies.LocalStatus(tampered=True, power_failed=False), "0100"),
    (replies.InputStatus(b"\0\1"), "0001"),
    (replies.OutputStatus(b"\1"), "01"),
    (replies.ReaderStatus(b"\2"), "02"),
    (replies.CardRead(0, 1, 26, bytes.fromhex("a1b2c3c0")), "00011a00a1b2c3c0"),
    (replies.FormattedRead(0, 1, b"12345"), "0001053132333435"),
    (replies.Keypad(0, b"42\r"), "000334320d"),
    (replies.Communication(3, 9600), "0380250000"),
    (replies.ClientCryptogram(b"U" * 8, b"R" * 8, b"C" * 16), (b"U" * 8 + b"R" * 8 + b"C" * 16).hex()),
    (replies.InitialReplyMac(b"M" * 16), b"M".hex() * 16),
    (replies.FileState(1, 0x0102, -2, 256), "010201feff0001"),
    (replies.ManufacturerReply(b"\1\2\3", b""), "010203"),
    (replies.ExtendedRead(0, b"\1"), "0001"),
]
# Data without a length of its own ends where the packet ends: a longer or shorter one is another value.
OPEN_ENDED = (commands.Output, commands.Led, commands.Manufacturer, commands.ExtendedWrite)
OPEN_ENDED_REPLIES = (replies.Nak, replies.Capabilities, replies.InputStatus, replies.OutputStatus)
ALSO_OPEN_ENDED = (replies.ReaderStatus, replies.ManufacturerReply, replies.ExtendedRead)
IDS: Callable[[object], str | None] = lambda one: type(one).__name__ if not isinstance(one, str) else ""  # noqa: E731


@pytest.mark.parametrize(("command", "wire"), COMMANDS, ids=IDS)
def test_a_command_is_these_bytes(command: Command, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert command.encode() == data
    assert decode_command(command.CODE, data) == command
    if not data:
        with pytest.raises(Malformed):
            decode_command(command.CODE, b"\0")
        return
    HostileKit(
        data, lambda given: decode_command(command.CODE, given), takes_tail=isinstance(command, OPEN_ENDED)
    ).run_all()


@pytest.mark.parametrize(("reply", "wire"), REPLIES, ids=IDS)
def test_a_reply_is_these_bytes(reply: Reply, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert reply.encode() == data
    assert decode_reply(reply.CODE, data) == reply
    if not data:
        with pytest.raises(Malformed):
            decode_reply(reply.CODE, b"\0")
        return
    open_ended = isinstance(reply, (*OPEN_ENDED_REPLIES, *ALSO_OPEN_ENDED))
    HostileKit(data, lambda given: decode_reply(reply.CODE, given), takes_tail=open_ended).run_all()


def test_every_command_and_reply_has_its_bytes_here() -> None:
    assert {type(command) for command, _ in COMMANDS} == set(commands.COMMANDS.values())
    assert {type(reply) for reply, _ in REPLIES} == set(replies.REPLIES.values())


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(UnexpectedMessage):
        decode_command(0x99, b"")
    with pytest.raises(UnexpectedMessage):
        decode_reply(0x99, b"")


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (0x6E, "7f80250000"),  # the address of everybody is nobody's own
        (0x75, "0210" + "00" * 16),
        (0x7C, "010400000003000000" + "0200" + "6162"),  # reaches past the end of the file
    ],
)
def test_values_that_no_reader_may_take_are_refused(code: int, data: str) -> None:
    with pytest.raises(Malformed):
        decode_command(code, bytes.fromhex(data))


def test_neither_keys_nor_card_data_show_in_a_repr() -> None:
    shown = repr([commands.KeySet(b"K" * 16), replies.card_read("10101010"), replies.Keypad(0, b"4711")])
    assert "KKK" not in shown
    assert "\\xaa" not in shown
    assert "4711" not in shown


def test_the_bits_of_a_card_are_left_aligned() -> None:
    assert replies.card_read("1" + "0" * 25 + "1").card == bytes.fromhex("80000020")
    with pytest.raises(OutOfRange):
        replies.card_read("")


def test_capabilities_are_asked_by_function() -> None:
    stated = replies.Capabilities(((9, 1, 1), (10, 0x80, 0x02), (4, 2, 3)))
    assert stated.receive_bytes == 0x0280
    assert (stated.level(CapabilityCode.LED), stated.count(CapabilityCode.LED)) == (2, 3)
    assert stated.level(CapabilityCode.TEXT) == 0
    assert replies.Capabilities(((9, 1, 1),)).receive_bytes is None
    assert (replies.Nak(6).name, replies.Nak(77).name) == ("security_conditions", "77")
