"""Both cores on one line: discovery, sessions, faults, files, keys, settings."""

import random
from collections.abc import Callable

import pytest

from protocol.errors import OutOfRange, StateMisuse
from protocol.osdp import commands
from protocol.osdp.codes import LedColor
from protocol.osdp.commands import LedRecord, LedState, OutputRecord
from protocol.osdp.link_state import LinkState
from protocol.osdp.panel import ControlPanel
from protocol.osdp.panel_events import (
    CommandDone,
    CommandFailed,
    CommunicationSet,
    KeyAccepted,
    KeyProved,
    ReaderConfig,
    ReaderEvent,
    ReaderOffline,
    ReaderOnline,
    SecurityFailed,
)
from protocol.osdp.replies import LocalStatus
from terminal_sim.osdp_reader import OsdpReader
from tests.osdp.line import Faults, Line

KEY = bytes(range(16))
NEXT_KEY = bytes(range(100, 116))


def draws(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def joined(
    count: int = 1, *, baud: int = 115200, mute: int = 0, key: bytes | None = KEY, seed: int = 1, **line: object
) -> Line:
    panel = ControlPanel(draws(seed), baud=baud)
    readers = []
    for address in range(count + mute):
        panel.add(ReaderConfig(f"r{address}", address, baud, base_key=key, in_clear=key is None), 0)
        if address < count:
            readers.append(OsdpReader(address, draws(seed + address + 1), base_key=key, baud=baud))
    return Line(panel, readers, seed=seed, **line)  # type: ignore[arg-type]  # faults and switches of a Line


def online(line: Line, count: int = 1) -> Line:
    assert line.run(3000, lambda: len(line.of(ReaderOnline)) >= count)
    return line


@pytest.mark.parametrize("key", [KEY, None], ids=["secure", "in clear"])
def test_a_reader_is_found_and_its_cards_come_through(key: bytes | None) -> None:
    line = online(joined(key=key))
    (found,) = line.of(ReaderOnline)
    assert isinstance(found, ReaderOnline)
    assert (found.secure, found.by_default_key) == (key is not None, False)
    assert found.identity.serial == bytes(4)
    line.readers[0].tap("10110011100")
    line.readers[0].press("42")
    line.readers[0].tamper(open_case=True)
    line.run(100)
    assert line.cards() == [("r0", "10110011100")]
    assert LocalStatus(tampered=True, power_failed=False) in [event.reply for event in line.of(ReaderEvent)]  # type: ignore[union-attr]
    assert line.readers[0].line.events_waiting == 0


def test_nothing_but_discovery_goes_in_clear_over_a_secure_line() -> None:
    line = online(joined())
    line.readers[0].tap("1" * 26)
    line.panel.submit("r0", commands.Text(0, 1, 0, 1, 1, b"SECRET TEXT"))
    line.run(200)
    assert line.readers[0].text == b"SECRET TEXT"
    assert not any(b"SECRET" in data or b"\xff\xff\xff\xc0" in data for _, data in line.wire)


def test_every_command_reaches_the_reader() -> None:
    line = online(joined())
    reader, panel = line.readers[0], line.panel
    sent = [
        commands.Output((OutputRecord(0, 5, 30),)),
        commands.Led((LedRecord(0, 0, permanent=LedState(1, 1, 0, LedColor.GREEN)),)),
        commands.Buzzer(0, 2, 1, 1, 1),
        commands.Text(0, 1, 0, 1, 1, b"WELCOME"),
        commands.LocalStatusRequest(),
        commands.InputStatusRequest(),
        commands.OutputStatusRequest(),
        commands.ReaderStatusRequest(),
        commands.Manufacturer(b"\1\2\3", b"hello"),
        commands.PanelReceiveSize(1440),
        commands.KeepActive(500),
        commands.Abort(),
    ]
    tickets = [panel.submit("r0", command) for command in sent]
    line.run(500)
    done = line.of(CommandDone)
    assert [event.ticket for event in done] == tickets  # type: ignore[union-attr]
    assert (reader.outputs[0], reader.led_color[0], reader.sounds, reader.text) == (1, LedColor.GREEN, 1, b"WELCOME")


def test_a_nak_fails_that_command_alone() -> None:
    line = online(joined())
    panel = line.panel
    bad = panel.submit("r0", commands.Output((OutputRecord(9, 2),)))
    good = panel.submit("r0", commands.Buzzer(0, 2, 1, 1, 1))
    line.run(200)
    assert [(event.ticket, event.reason) for event in line.of(CommandFailed)] == [(bad, "refused: record")]  # type: ignore[union-attr]
    assert [event.ticket for event in line.of(CommandDone)] == [good]  # type: ignore[union-attr]
    assert not line.of(ReaderOffline)


def test_a_busy_reader_is_asked_again_with_the_same_bytes() -> None:
    line = online(joined())
    line.readers[0].busy_times = 3
    ticket = line.panel.submit("r0", commands.Buzzer(0, 2, 1, 1, 1))
    mark = len(line.wire)
    line.run(200)
    assert [event.ticket for event in line.of(CommandDone)] == [ticket]  # type: ignore[union-attr]
    sent = [data for direction, data in line.wire[mark:] if direction == "command"]
    assert any(sent[at] == sent[at + 1] == sent[at + 2] == sent[at + 3] for at in range(len(sent) - 3))
    assert (line.readers[0].sounds, line.panel.link("r0").counters.busy) == (1, 3)


def test_a_reader_without_a_lamp_is_not_asked_to_light_it() -> None:
    line = online(joined())
    link = line.panel.link("r0")
    link.capabilities = type(link.capabilities)(((9, 1, 1),))
    line.panel.submit("r0", commands.Led((LedRecord(),)))
    line.run(100)
    assert [event.reason for event in line.of(CommandFailed)] == ["the reader has no led"]  # type: ignore[union-attr]


def test_an_expired_command_is_never_sent() -> None:
    line = online(joined(), 1)
    line.panel.submit("r0", commands.Output((OutputRecord(0, 5, 30),)), expires_ms=line.now_ms)
    line.run(200)
    assert [event.reason for event in line.of(CommandFailed)] == ["expired"]  # type: ignore[union-attr]
    assert line.readers[0].outputs[0] == 0


def test_a_command_that_expires_while_unanswered_ends_its_session() -> None:
    line = online(joined())
    line.tamper = lambda direction, data: data if direction == "reply" else b""
    line.panel.submit("r0", commands.Output((OutputRecord(0, 5, 30),)), expires_ms=line.now_ms + 300)
    line.run(1200)
    line.tamper = None
    line.run(1000)
    (failed,) = line.of(CommandFailed)
    assert isinstance(failed, CommandFailed)
    assert failed.unknown
    assert line.readers[0].outputs[0] == 0
    assert len(line.of(ReaderOnline)) == 2


def test_no_sequence_number_goes_out_before_the_event_is_durable() -> None:
    line = joined(2, confirms=False)
    line = online(line, 2)
    line.readers[0].tap("1" * 26)
    line.run(50)
    (event,) = line.of(ReaderEvent)
    assert isinstance(event, ReaderEvent)
    mark = len(line.wire)
    line.run(500)
    addresses = [data[2] for direction, data in line.wire[mark:] if direction == "command"]
    assert set(addresses) == {1}, "the neighbour is polled on, the reader itself is not"
    assert line.readers[0].line.events_waiting == 1
    line.panel.confirm("r0", event.number + 1, line.now_ms)  # another event's number changes nothing
    line.run(50)
    assert line.readers[0].line.events_waiting == 1
    line.panel.confirm("r0", event.number, line.now_ms)
    line.run(50)
    assert line.readers[0].line.events_waiting == 0


@pytest.mark.parametrize("key", [KEY, None], ids=["secure", "in clear"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("replies_alone", [True, False])
def test_with_one_percent_lost_no_card_read_is_lost_or_doubled(
    key: bytes | None, seed: int, replies_alone: bool
) -> None:
    line = online(joined(3, key=key, seed=seed), 3)
    line.faults = Faults(drop=0.01, only_replies=replies_alone)
    tapped = []
    for number in range(120):
        reader = line.random.randrange(3)
        bits = format(number + 1, "026b")
        line.readers[reader].tap(bits)
        tapped.append((f"r{reader}", bits))
        line.run(line.random.randint(1, 60))
    line.run(2000)
    assert sorted(line.cards()) == sorted(tapped)
    assert len(line.of(ReaderOnline)) == 3, "no session was lost over it"
    assert sum(line.panel.link(f"r{one}").counters.repeats for one in range(3)) > 3


@pytest.mark.parametrize("seed", range(4))
def test_under_every_fault_at_once_no_card_read_is_lost_and_none_doubled_without_a_word(seed: int) -> None:
    line = online(joined(3, seed=seed, echo=True), 3)
    line.faults = Faults(drop=0.02, double=0.02, flip=0.02, delay=0.02)
    tapped = []
    for number in range(60):
        reader = number % 3
        bits = format(number + 1, "026b")
        line.readers[reader].tap(bits)
        tapped.append((f"r{reader}", bits))
        line.run(100)
    line.faults = Faults()
    line.run(20_000)
    assert set(line.cards()) == set(tapped)
    sure = line.cards(unsure=False)
    assert len(sure) == len(set(sure))


def test_a_lost_reply_is_recovered_within_three_rounds() -> None:
    line = online(joined(4), 4)
    line.run(200)
    for direction in ("command", "reply"):
        gone: list[bytes] = []

        def lose_one(way: str, data: bytes, direction: str = direction, gone: list[bytes] = gone) -> bytes:
            if way == direction and not gone and data[2] & 0x7F == 2:
                gone.append(data)
                return b""
            return data

        line.readers[2].tap(format(5, "026b"))
        line.tamper = lose_one
        mark = len(line.wire)
        count = len(line.cards())
        assert line.run(1000, lambda count=count: len(line.cards()) > count)  # type: ignore[misc]  # bound now
        rounds = sum(data[2] == 1 for way, data in line.wire[mark:] if way == "command")
        assert gone
        assert rounds <= 3


@pytest.mark.parametrize("count", [7, 8])
def test_one_dead_reader_costs_its_neighbours_no_more_than_60_ms(count: int) -> None:
    """Bytes are paced at 115200 baud; readers answer after 1 ms."""
    line = online(joined(count, mute=1), count)
    for number in range(count):
        line.panel.link(f"r{number}").counters.gap_ms_max = 0
    line.run(30_000)
    gaps = [line.panel.link(f"r{number}").counters.gap_ms_max for number in range(count)]
    print("longest gaps, ms:", gaps)
    assert max(gaps) <= 60
    assert line.panel.link(f"r{count}").state is LinkState.OFFLINE


def test_a_reader_that_dies_costs_its_neighbours_no_more_than_60_ms_either() -> None:
    line = online(joined(6, turnaround_ms=1), 6)
    line.run(200)
    for number in range(5):
        line.panel.link(f"r{number}").counters.gap_ms_max = 0
    dead = line.readers.pop()
    line.run(30_000)
    assert max(line.panel.link(f"r{number}").counters.gap_ms_max for number in range(5)) <= 60
    assert [event.reason for event in line.of(ReaderOffline)] == ["silent"]  # type: ignore[union-attr]
    dead.line.restart()
    line.readers.append(dead)
    assert line.run(6000, lambda: len(line.of(ReaderOnline)) == 7)


def test_many_dead_readers_take_a_tenth_of_the_line_at_most() -> None:
    line = online(joined(1, mute=30), 1)
    line.run(2000)
    before = sum(line.panel.link(f"r{number}").counters.silences for number in range(1, 31))
    line.run(30_000)
    probes = sum(line.panel.link(f"r{number}").counters.silences for number in range(1, 31)) - before
    assert 0 < probes * 22 <= 3000


def test_a_reader_that_restarts_is_back_at_once_with_its_event() -> None:
    line = online(joined())
    line.readers[0].tap("1" * 26)
    line.readers[0].line.restart()
    assert line.run(500, lambda: len(line.of(ReaderOnline)) == 2 and len(line.cards()) == 1)


@pytest.mark.parametrize("interleaves", [True, False])
def test_a_file_of_64_kib_arrives_while_neighbours_are_polled(interleaves: bool) -> None:
    line = online(joined(2), 2)
    data = random.Random(7).randbytes(65_536)
    line.readers[0].file_delay_ms = 5
    line.readers[0].file_interleaves = interleaves
    line.panel.link("r1").counters.gap_ms_max = 0
    ticket = line.panel.send_file("r0", 1, data, line.now_ms)
    with pytest.raises(StateMisuse):
        line.panel.send_file("r0", 1, data, line.now_ms)
    line.readers[1].tap("1" * 26)
    assert line.run(60_000, lambda: bool(line.of(CommandDone)))
    assert line.readers[0].files == {1: data}
    assert [event.ticket for event in line.of(CommandDone)] == [ticket]  # type: ignore[union-attr]
    assert line.cards() == [("r1", "1" * 26)]
    assert line.panel.link("r1").counters.gap_ms_max < 150


def test_a_file_survives_a_bad_line_and_a_cancelled_one_ends() -> None:
    line = online(joined(1, seed=5))
    line.faults = Faults(drop=0.03, flip=0.02)
    data = random.Random(8).randbytes(20_000)
    line.panel.send_file("r0", 2, data, line.now_ms)
    assert line.run(60_000, lambda: bool(line.of(CommandDone)))
    assert line.readers[0].files == {2: data}
    line.faults = Faults()
    line.panel.send_file("r0", 3, data, line.now_ms)
    line.run(50)
    line.panel.cancel_file("r0")
    line.run(500)
    assert [event.reason for event in line.of(CommandFailed)] == ["cancelled"]  # type: ignore[union-attr]
    assert 3 not in line.readers[0].files


def test_a_reader_moves_to_another_address_and_speed() -> None:
    line = online(joined(2, baud=9600), 2)
    line.panel.submit("r0", commands.SetCommunication(9, 115200))
    assert line.run(3000, lambda: bool(line.of(CommunicationSet)))
    assert line.of(CommunicationSet) == [CommunicationSet("r0", 9, 115200, rolled_back=False)]
    line.readers[0].tap("1" * 26)
    line.readers[1].tap("0" * 25 + "1")
    line.run(1000)
    assert sorted(line.cards()) == [("r0", "1" * 26), ("r1", "0" * 25 + "1")]
    with pytest.raises(OutOfRange):
        line.panel.submit("r0", commands.SetCommunication(1, 9600))


def test_a_reader_that_does_not_come_up_at_its_new_speed_is_found_at_the_old_one() -> None:
    line = online(joined(1, baud=9600))
    reader = line.readers[0]
    line.panel.submit("r0", commands.SetCommunication(0, 38400))
    assert line.run(2000, lambda: reader.line.setup.baud == 38400)
    reader.line.setup.baud = 9600  # its own roll-back
    assert line.run(8000, lambda: bool(line.of(CommunicationSet)))
    assert line.of(CommunicationSet) == [CommunicationSet("r0", 0, 9600, rolled_back=True)]


def test_a_reader_whose_answer_to_comset_was_lost_is_found_where_it_went() -> None:
    line = online(joined(1, baud=9600))
    line.tamper = lambda direction, data: (
        b"" if direction == "reply" and line.readers[0].line.setup.baud != 9600 else data
    )
    line.panel.submit("r0", commands.SetCommunication(3, 19200))
    line.run(500)
    line.tamper = None
    assert line.run(8000, lambda: bool(line.of(CommunicationSet)))
    assert line.of(CommunicationSet) == [CommunicationSet("r0", 3, 19200, rolled_back=False)]


def test_a_reader_that_keeps_its_settings_stays_where_it_is() -> None:
    line = online(joined())
    line.readers[0].takes_communication = False
    line.panel.submit("r0", commands.SetCommunication(5, 9600))
    line.run(2000)
    assert line.panel.link("r0").config.address == 0
    assert line.panel.link("r0").state is LinkState.ONLINE


def test_a_key_is_changed_and_the_old_one_opens_nothing_any_more() -> None:
    line = online(joined())
    line.panel.rotate_key("r0", NEXT_KEY)
    assert line.run(1000, lambda: bool(line.of(KeyProved)))
    assert len(line.of(KeyAccepted)) == 1
    assert (line.readers[0].stored_key, line.panel.link("r0").config.base_key) == (NEXT_KEY, NEXT_KEY)
    assert not any(NEXT_KEY in data for _, data in line.wire)


@pytest.mark.parametrize("cut_after", range(16))
def test_a_key_change_cut_at_any_step_ends_with_one_key_at_both_ends(cut_after: int) -> None:
    """Line and panel are cut after every message; the panel starts again from the two keys that it had stored."""
    line = online(joined())
    line.panel.rotate_key("r0", NEXT_KEY)
    line.faults = Faults(cut_after=line.passed + cut_after)
    line.run(1000)
    reader = line.readers[0]
    if cut_after % 2:
        reader.line.restart()
    panel = ControlPanel(draws(99), baud=115200)
    proved = bool(line.of(KeyProved))
    panel.add(
        ReaderConfig("r0", 0, 115200, base_key=NEXT_KEY if proved else KEY, next_key=None if proved else NEXT_KEY),
        line.now_ms,
    )
    again = Line(panel, line.readers, seed=2, now_ms=line.now_ms)
    assert again.run(20_000, lambda: proved or bool(again.of(KeyProved)))
    again.run(1000)
    assert reader.stored_key == NEXT_KEY == panel.link("r0").config.base_key
    assert not again.of(SecurityFailed)


def test_a_new_reader_gets_its_first_key_in_the_install_window() -> None:
    panel = ControlPanel(draws(1), baud=115200)
    panel.add(ReaderConfig("r0", 0, 115200, next_key=NEXT_KEY, install_until_ms=60_000), 0)
    line = Line(panel, [OsdpReader(0, draws(2), install_until_ms=60_000, baud=115200)])
    assert line.run(5000, lambda: bool(line.of(KeyProved)))
    assert line.readers[0].stored_key == NEXT_KEY
    first, last = line.of(ReaderOnline)
    assert (first.by_default_key, last.by_default_key) == (True, False)  # type: ignore[union-attr]


def test_readers_come_and_go_while_the_bus_runs() -> None:
    line = online(joined(2), 2)
    queued = line.panel.submit("r1", commands.Buzzer(0, 2, 1, 1, 1))
    line.events += line.panel.disable("r1", line.now_ms)
    line.run(300)
    assert queued not in [event.ticket for event in line.of(CommandDone)]  # type: ignore[union-attr]
    line.panel.enable("r1", line.now_ms)
    assert line.run(2000, lambda: bool(line.of(CommandDone)))
    line.panel.remove("r1", line.now_ms)
    line.readers.append(OsdpReader(5, draws(9), base_key=KEY, baud=115200))
    line.panel.add(ReaderConfig("r5", 5, 115200, base_key=KEY), line.now_ms)
    count = len(line.of(ReaderOnline))
    assert line.run(2000, lambda: len(line.of(ReaderOnline)) > count)
    with pytest.raises(OutOfRange):
        line.panel.add(ReaderConfig("again", 5, 115200, base_key=KEY), line.now_ms)
