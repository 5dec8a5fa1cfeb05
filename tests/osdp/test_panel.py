"""The panel's core against answers written by hand: what it sends, repeats, waits for and does not believe."""

import random

import pytest

from protocol.errors import OutOfRange, StateMisuse
from protocol.osdp.codes import FileStatus
from protocol.osdp.commands import Buzzer, KeySet, SetCommunication
from protocol.osdp.file_send import FileSender, fragment_bytes
from protocol.osdp.link_state import TRANSITIONS, LinkState, LinkStep
from protocol.osdp.packet import decode_packet, encode_packet
from protocol.osdp.panel import ControlPanel
from protocol.osdp.panel_events import CommandDone, CommandFailed, ReaderConfig, ReaderEvent, ReaderOnline
from protocol.osdp.replies import FileState, card_read
from terminal_sim.osdp_reader import CAPABILITIES, IDENTITY

PDID = IDENTITY.encode()


def panel_of(*addresses: int, **config: object) -> ControlPanel:
    panel = ControlPanel(random.Random(1).randbytes)
    for address in addresses:
        panel.add(ReaderConfig(f"r{address}", address, in_clear=True, **config), 0)  # type: ignore[arg-type]
    return panel


def reply(sequence: int, code: int, data: bytes = b"", *, address: int = 0, uses_crc: bool = True) -> bytes:
    return b"\xff" + encode_packet(address, sequence, code, data, reply=True, uses_crc=uses_crc)


def asked(panel: ControlPanel, now_ms: int) -> bytes:
    panel.tick(now_ms)
    return panel.take_output()


def online(panel: ControlPanel) -> int:
    """The time when its only reader is online and the first poll is on its way."""
    assert asked(panel, 0) == bytes.fromhex("ff53000900046100c066")
    panel.receive(reply(0, 0x45, PDID), 30)
    assert asked(panel, 40)[5:7] == b"\x05\x62"
    (event,) = panel.receive(reply(1, 0x46, CAPABILITIES.encode()), 80)
    assert isinstance(event, ReaderOnline)
    assert asked(panel, 90) == b"\xff" + encode_packet(0, 2, 0x60, b"", reply=False)
    return 90


def test_a_command_is_repeated_byte_for_byte_and_the_number_is_never_raised_without_an_answer() -> None:
    panel = panel_of(0)
    now_ms = online(panel)
    poll = b"\xff" + encode_packet(0, 2, 0x60, b"", reply=False)
    repeats = 0
    while repeats < 8:
        deadline = panel.next_deadline_ms()
        assert deadline is not None
        now_ms = deadline
        again = asked(panel, now_ms)
        assert again in {b"", poll}
        repeats += again == poll
    panel.receive(reply(2, 0x40), now_ms)
    assert asked(panel, now_ms + 10)[5] & 3 == 3


def test_a_reply_in_pieces_is_waited_for() -> None:
    panel = panel_of(0)
    asked(panel, 0)
    data = reply(0, 0x45, PDID)
    panel.receive(data[:4], 205)
    panel.tick(220)
    assert panel.take_output() == b""
    panel.receive(data[4:], 221)
    assert asked(panel, 230)[6] == 0x62


@pytest.mark.parametrize(
    "late",
    [
        reply(1, 0x50, card_read("1" * 26).encode()),
        reply(2, 0x50, card_read("1" * 26).encode(), address=1),
        encode_packet(0, 2, 0x60, b"", reply=False),
        reply(2, 0x50, card_read("1" * 26).encode(), uses_crc=False),
        reply(2, 0x50, card_read("1" * 26).encode())[:-1] + b"\0",
    ],
    ids=["late", "another reader's", "our own echo", "another check", "noise"],
)
def test_what_is_not_the_answer_is_not_taken_for_it(late: bytes) -> None:
    panel = panel_of(0)
    now_ms = online(panel)
    assert panel.receive(late, now_ms + 5) == []
    (event,) = panel.receive(reply(2, 0x50, card_read("0" * 26).encode()), now_ms + 9)
    assert isinstance(event, ReaderEvent)
    assert event.reply == card_read("0" * 26)


def test_a_reader_that_knows_only_checksums_is_spoken_to_with_checksums() -> None:
    panel = panel_of(0)
    now_ms, sent = 0, b""
    for _ in range(12):
        now_ms += 100
        sent = asked(panel, now_ms)
        if sent and not decode_packet(sent[1:]).uses_crc:
            break
        panel.receive(reply(0, 0x41, b"\1", uses_crc=False), now_ms + 5)
    assert sent == bytes.fromhex("ff5300080000610044")
    panel.receive(reply(0, 0x45, PDID, uses_crc=False), now_ms + 20)
    assert not decode_packet(asked(panel, now_ms + 30)[1:]).uses_crc


def test_readers_take_turns_and_a_command_goes_before_a_poll() -> None:
    panel = panel_of(0, 1, 2)
    now_ms = 0
    answers = {0x61: (0x45, PDID), 0x62: (0x46, CAPABILITIES.encode())}
    order: list[tuple[int, int]] = []
    for _ in range(400):
        now_ms += 10
        sent = asked(panel, now_ms)
        if not sent:
            continue
        packet = decode_packet(sent[1:])
        order.append((packet.address, packet.code))
        if len(order) == 30:
            for _ in range(6):
                panel.submit("r2", Buzzer(0, 2, 1, 1, 1))
        code, data = answers.get(packet.code, (0x40, b""))
        panel.receive(reply(packet.sequence, code, data, address=packet.address), now_ms + 5)
    polled = [address for address, _ in order[12:29]]
    assert all({*polled[at : at + 3]} == {0, 1, 2} for at in range(len(polled) - 2))
    after = order[30:46]
    assert [code for _, code in after].index(0x6A) <= 1
    assert sum(code == 0x6A for _, code in after) == 6
    assert {0, 1} <= {address for address, _ in after[:6]}, "neighbours are polled on"


def test_an_unfit_answer_fails_its_command_alone() -> None:
    panel = panel_of(0)
    now_ms = online(panel)
    ticket = panel.submit("r0", Buzzer(0, 2, 1, 1, 1))
    panel.receive(reply(2, 0x40), now_ms + 5)
    assert asked(panel, now_ms + 10)[6] == 0x6A
    events = panel.receive(reply(3, 0x54, bytes(5)), now_ms + 15)
    assert events == [CommandFailed("r0", ticket, "answered by COM")]
    assert asked(panel, now_ms + 20)[6] == 0x60


def test_an_event_instead_of_an_ack_is_an_event_and_the_command_is_done() -> None:
    panel = panel_of(0)
    now_ms = online(panel)
    ticket = panel.submit("r0", Buzzer(0, 2, 1, 1, 1))
    panel.receive(reply(2, 0x40), now_ms + 5)
    asked(panel, now_ms + 10)
    events = panel.receive(reply(3, 0x49, b"\1"), now_ms + 15)
    assert [type(event) for event in events] == [ReaderEvent, CommandDone]
    assert isinstance(events[1], CommandDone)
    assert events[1].ticket == ticket
    assert asked(panel, now_ms + 20) == b"", "nothing goes out before the event is durable"


def test_a_reader_that_answers_late_is_waited_for_longer() -> None:
    panel = panel_of(0, 1)
    link = panel.link("r0")
    asked(panel, 0)
    asked(panel, 300)  # it was silent
    before = link.reply_ms
    panel.receive(reply(0, 0x45, PDID), 1000)
    assert link.reply_ms in {before, 2 * before}
    for now_ms in range(1000, 1400, 10):
        asked(panel, now_ms)
        panel.receive(reply(3, 0x40), now_ms)
    assert link.reply_ms == 200


def test_our_own_misuse_is_told_at_once() -> None:
    panel = panel_of(0, 1)
    with pytest.raises(StateMisuse):
        panel.submit("r0", KeySet(bytes(16)))
    with pytest.raises(StateMisuse):
        panel.rotate_key("r0", bytes(16))
    for command in (SetCommunication(1, 9600), SetCommunication(5, 1234)):
        with pytest.raises(OutOfRange):
            panel.submit("r0", command)
    for _ in range(32):
        panel.submit("r0", Buzzer(0, 2, 1, 1, 1))
    with pytest.raises(StateMisuse):
        panel.submit("r0", Buzzer(0, 2, 1, 1, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": 0x7F, "in_clear": True},
        {"address": 1},
        {"address": 1, "in_clear": True, "base_key": bytes(16)},
        {"address": 1, "base_key": b"short"},
    ],
    ids=["address", "neither", "both", "key"],
)
def test_a_reader_is_keyed_or_in_clear_by_an_explicit_word(wrong: dict[str, object]) -> None:
    with pytest.raises(OutOfRange):
        ReaderConfig("r", **wrong)  # type: ignore[arg-type]


def test_the_table_has_a_way_back_from_everywhere_and_none_to_online_past_a_proof() -> None:
    for state in LinkState:
        if state is not LinkState.DISABLED:
            assert TRANSITIONS[state, LinkStep.GIVEN_UP] is LinkState.OFFLINE
        assert TRANSITIONS[state, LinkStep.DISABLE] is LinkState.DISABLED
    to_online = {step for (_, step), after in TRANSITIONS.items() if after is LinkState.ONLINE}
    assert to_online == {LinkStep.ESTABLISHED, LinkStep.CAPABLE_IN_CLEAR}


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packet_bytes", [128, 256, 1024, 1440])
def test_a_fragment_fits_the_packet_that_the_reader_takes(packet_bytes: int) -> None:
    data_bytes = 11 + fragment_bytes(packet_bytes)
    padded = (data_bytes // 16 + 1) * 16
    assert packet_bytes - 16 < 5 + 2 + 1 + padded + 4 + 2 <= packet_bytes


def test_a_file_goes_at_the_pace_and_in_the_pieces_that_the_reader_asks_for() -> None:
    sender = FileSender(1, 7, bytes(500), 128, 1000)
    assert len(sender.next_fragment().fragment) == 100
    assert sender.take(FileState(1, 250, FileStatus.GO_ON, 256), 2000) is None
    assert (sender.due_ms, sender.exclusive, sender.sent_bytes) == (2250, False, 100)
    assert len(sender.next_fragment().fragment) == 228
    assert sender.take(FileState(4, 0, FileStatus.GO_ON, 0), 2300) is None
    assert (sender.exclusive, sender.poll_first) == (True, True)
    sender.next_fragment()
    assert sender.take(FileState(1, 0, FileStatus.FINISHING, 0), 2400) is None
    last = sender.next_fragment()
    assert (last.offset, last.fragment, last.total_bytes) == (500, b"", 500)
    assert sender.take(FileState(1, 0, FileStatus.REBOOTING, 0), 2600) == ""


@pytest.mark.parametrize("status", [-1, -2, -3, 9, FileStatus.DONE])
def test_a_transfer_ends_where_the_reader_says_so_or_makes_no_sense(status: int) -> None:
    sender = FileSender(1, 7, bytes(500), 128, 0)
    sender.next_fragment()
    assert sender.take(FileState(1, 0, status, 0), 10)


def test_a_reader_that_never_finishes_is_not_waited_for_for_ever() -> None:
    sender = FileSender(1, 7, bytes(5), 128, 0)
    outcome, now_ms = None, 0
    while outcome is None:
        sender.next_fragment()
        now_ms += 1000
        outcome = sender.take(FileState(1, 0, FileStatus.FINISHING, 0), now_ms)
        assert now_ms < 100_000
    assert outcome == "the reader does not come to an end"
    with pytest.raises(OutOfRange):
        FileSender(1, 7, b"", 128, 0)
