"""protocol.list_transfer: a deny list on its way into a terminal (docs/protocol.md §10, R27, R28)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import ListForm, ListKind, ListStatus, ReportKind
from protocol.deny_list import DenyList, make_delta
from protocol.errors import Malformed, OutOfRange, StateMisuse
from protocol.limits import LIST_CHUNKS_OUTSTANDING_MAX
from protocol.list_transfer import (
    Alarm,
    AlarmKind,
    Apply,
    ListReceiver,
    ListSender,
    ListVersion,
    SenderOutput,
    SenderState,
    StageAppend,
    StageBegin,
    StageClear,
    Staged,
)
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import NO_HEAD, SignedHead, SoftwareSigner, issue_certificate, sign_head

SITE = 42
ROOT = SoftwareSigner(b"R" * 32)
LEDGER_SEED = b"L" * 32
CERTIFICATE = issue_certificate(
    ROOT,
    key_id=9,
    site=SITE,
    valid_from_ms=0,
    valid_to_ms=100,
    public_key=SoftwareSigner(LEDGER_SEED).public_key,
)
BODY_BYTES = 320  # the smallest allowed: 56 bytes of data in an offer, 304 in a chunk


def head_of(content: bytes, version: tuple[int, int], *, seed: bytes = LEDGER_SEED, **changes: Any) -> SignedHead:
    facts = {"key_id": 9, "site": SITE, "list_kind": ListKind.DENY, "issued_ms": 5, **changes}
    return sign_head(seed, generation=version[0], counter=version[1], content=content, **facts)


def list_version(deny: DenyList, version: tuple[int, int], *bases: tuple[DenyList, tuple[int, int]]) -> ListVersion:
    content = deny.content()
    deltas = {base_version: make_delta(base, deny) for base, base_version in bases}
    return ListVersion(head_of(content, version), CERTIFICATE, content, deltas)


OLD = DenyList(range(1, 401), [3])
NEW = OLD.with_changes([5000, 5001], [7])
V1 = list_version(OLD, (1, 1))
V2 = list_version(NEW, (1, 2), (OLD, (1, 1)))


@dataclass
class Flash:
    """A terminal's memory: does what the events say, in order, and can be cut after any of them."""

    held: bytes = NO_HEAD
    content: bytes = b""
    header: bytes | None = None
    data: bytearray = field(default_factory=bytearray)

    def held_content(self) -> bytes:
        return self.content

    def staged_data(self) -> bytes:
        return bytes(self.data)

    def write(self, event: Any) -> None:
        match event:
            case StageBegin(header):
                self.header, self.data = header, bytearray()
            case StageAppend(offset, data):
                assert offset == len(self.data)
                self.data += data
            case Apply(head, content):
                self.held, self.content = head, content
            case StageClear():
                self.header, self.data = None, bytearray()

    def boot(self, *, room_bytes: int = 1 << 20, root_public: bytes = ROOT.public_key) -> ListReceiver:
        staged = None if self.header is None else Staged(self.header, len(self.data))
        return ListReceiver(
            site=SITE, root_public=root_public, room_bytes=room_bytes, store=self, held=self.held, staged=staged
        )


class Terminal:
    def __init__(self, flash: Flash | None = None, **options: Any) -> None:
        self.flash = flash or Flash()
        self.receiver = self.flash.boot(**options)

    def take(self, message: SenderOutput) -> list[ListState]:
        """Carry out every event; the states to send come back."""
        states = []
        for event in self.events(message):
            if isinstance(event, ListState):
                states.append(event)
            else:
                self.flash.write(event)
        return states

    def events(self, message: SenderOutput) -> list[Any]:
        if isinstance(message, ListOffer):
            return self.receiver.receive_offer(message)
        assert isinstance(message, ListChunk)
        return self.receiver.receive_chunk(message)


def holding(version: ListVersion) -> Flash:
    return Flash(held=version.head_bytes, content=version.content)


def run_session(terminal: Terminal, sender: ListSender) -> list[Alarm]:
    """Carry everything both ways until nothing moves; the wire's bytes are those of the messages."""
    alarms: list[Alarm] = []
    queue: list[SenderOutput] = sender.on_state(terminal.receiver.state())
    for _ in range(10_000):
        if not queue:
            return alarms
        message = queue.pop(0)
        if isinstance(message, Alarm):
            alarms.append(message)
            continue
        assert len(message.encode()) <= BODY_BYTES
        for state in terminal.take(type(message).decode(message.encode())):
            queue += sender.on_state(ListState.decode(state.encode()))
    raise AssertionError("the transfer does not end")


def new_sender(version: ListVersion = V2) -> ListSender:
    return ListSender(version, body_bytes_max=BODY_BYTES)


def offer(version: ListVersion = V2, **changes: Any) -> ListOffer:
    made = ListOffer(
        ListForm.SNAPSHOT,
        0,
        0,
        len(version.content),
        version.head_bytes,
        version.certificate_bytes,
        version.content,
    )
    return replace(made, **changes)


def statuses(events: list[Any]) -> list[int]:
    return [event.status for event in events if isinstance(event, ListState)]


class TestReceiver:
    def test_snapshot_in_one_offer_is_staged_applied_and_reported_in_that_order(self) -> None:
        events = Terminal().receiver.receive_offer(offer())
        assert [type(event) for event in events] == [StageBegin, StageAppend, Apply, StageClear, ListState]
        assert events[2] == Apply(V2.head_bytes, V2.content)
        assert events[4] == ListState(ListKind.DENY, ListStatus.HOLDS, 0, 0, 0, V2.head_bytes)

    def test_delta_gives_the_content_that_the_head_names(self) -> None:
        delta = V2.deltas[1, 1]
        terminal = Terminal(holding(V1))
        states = terminal.take(
            offer(form=ListForm.DELTA, base_generation=1, base_counter=1, transfer_bytes=len(delta), data=delta)
        )
        assert [state.status for state in states] == [ListStatus.HOLDS]
        assert terminal.flash == holding(V2)

    def test_equal_head_is_answered_by_holds_and_nothing_is_staged(self) -> None:
        assert Terminal(holding(V2)).receiver.receive_offer(offer()) == [
            ListState(ListKind.DENY, ListStatus.HOLDS, 0, 0, 0, V2.head_bytes)
        ]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"head": head_of(V2.content, (1, 2), seed=b"X" * 32).encode()},
            {"head": head_of(V2.content, (1, 2), key_id=10).encode()},
            {"head": head_of(V2.content, (1, 2), site=43).encode()},
            {"head": head_of(V2.content, (1, 2), list_kind=ListKind.PARAMETERS).encode()},
            {"head": head_of(V2.content, (1, 2), issued_ms=101).encode()},
            {"head": NO_HEAD},
            {"certificate": bytes(120)},
            {"certificate": CERTIFICATE.encode()[:-1] + b"\0"},
        ],
    )
    def test_anything_wrong_with_the_signatures_is_bad_signature_before_all_else(self, wrong: dict[str, Any]) -> None:
        receiver = Terminal(room_bytes=0).receiver
        assert statuses(receiver.receive_offer(offer(**wrong))) == [ListStatus.BAD_SIGNATURE]

    def test_terminal_with_another_root_takes_nothing(self) -> None:
        receiver = Terminal(root_public=SoftwareSigner(b"Z" * 32).public_key).receiver
        assert statuses(receiver.receive_offer(offer())) == [ListStatus.BAD_SIGNATURE]

    def test_lower_or_equal_version_is_not_higher_even_without_room(self) -> None:
        receiver = Terminal(holding(V2), room_bytes=0).receiver
        other = ListVersion(head_of(OLD.content(), (1, 2)), CERTIFICATE, OLD.content())
        for version in (V1, other):
            assert statuses(receiver.receive_offer(offer(version))) == [ListStatus.NOT_HIGHER]

    def test_generation_outranks_counter(self) -> None:
        terminal = Terminal(holding(list_version(OLD, (1, 900))))
        assert terminal.take(offer(list_version(NEW, (2, 1))))[-1].status == ListStatus.HOLDS

    def test_delta_on_another_base_is_refused_before_room_is_asked(self) -> None:
        for flash in (Flash(), holding(list_version(OLD, (1, 0)))):
            receiver = Terminal(flash, room_bytes=0).receiver
            for base in ((1, 1), (0, 0)):
                made = offer(form=ListForm.DELTA, base_generation=base[0], base_counter=base[1])
                assert statuses(receiver.receive_offer(made)) == [ListStatus.BASE_NOT_HELD]

    def test_list_without_room_is_refused_and_nothing_is_staged(self) -> None:
        receiver = Terminal(room_bytes=len(V2.content) - 1).receiver
        assert [type(event) for event in receiver.receive_offer(offer())] == [ListState]
        assert statuses(receiver.receive_offer(offer())) == [ListStatus.NO_ROOM]

    def test_wrong_content_empties_staging_and_the_held_list_stays(self) -> None:
        for data in (V2.content[:-1] + b"\x09", V1.content):
            terminal = Terminal(holding(V1))
            (state,) = terminal.take(offer(data=data, transfer_bytes=len(data)))
            assert state.status == ListStatus.DIGEST_WRONG
            assert (state.staged_bytes, state.head) == (0, V1.head_bytes)
            assert terminal.flash == holding(V1)

    def test_signed_content_that_is_no_list_never_replaces_one_that_is(self) -> None:
        nonsense = ListVersion(head_of(b"nonsense", (1, 3)), CERTIFICATE, b"nonsense")
        terminal = Terminal(holding(V1))
        assert terminal.take(offer(nonsense))[-1].status == ListStatus.DIGEST_WRONG
        assert terminal.flash == holding(V1)

    def test_offer_with_more_data_than_its_transfer_is_malformed(self) -> None:
        with pytest.raises(Malformed):
            Terminal().receiver.receive_offer(offer(transfer_bytes=10))

    def test_chunk_beyond_the_transfer_is_malformed(self) -> None:
        terminal = Terminal()
        terminal.take(offer(data=V2.content[:100]))
        with pytest.raises(Malformed):
            terminal.receiver.receive_chunk(ListChunk(ListKind.DENY, 1, 2, 100, V2.content[100:] + b"\0"))

    def test_chunks_out_of_place_or_of_another_version_are_answered_and_ignored(self) -> None:
        terminal = Terminal()
        terminal.take(offer(data=V2.content[:100]))
        expected = ListState(ListKind.DENY, ListStatus.STAGING, 1, 2, 100, NO_HEAD)
        for version, at in (((1, 2), 0), ((1, 2), 99), ((1, 2), 101), ((1, 1), 100), ((2, 2), 100)):
            chunk = ListChunk(ListKind.DENY, *version, at, b"abcd")
            assert terminal.receiver.receive_chunk(chunk) == [expected]

    def test_offer_of_what_is_being_staged_goes_on_where_staging_stopped(self) -> None:
        terminal = Terminal()
        terminal.take(offer(data=V2.content[:500]))
        again = Terminal(terminal.flash)
        assert again.receiver.state() == ListState(ListKind.DENY, ListStatus.STAGING, 1, 2, 500, NO_HEAD)
        (state,) = again.take(offer(data=V2.content[:56]))
        assert (state.status, state.staged_bytes) == (ListStatus.STAGING, 500)
        rest = ListChunk(ListKind.DENY, 1, 2, 500, V2.content[500:])
        assert again.take(rest)[-1].status == ListStatus.HOLDS

    def test_chunk_before_any_offer_of_this_boot_proves_nothing_and_is_ignored(self) -> None:
        terminal = Terminal()
        terminal.take(offer(data=V2.content[:500]))
        again = Terminal(terminal.flash)
        rest = ListChunk(ListKind.DENY, 1, 2, 500, V2.content[500:])
        assert [type(event) for event in again.receiver.receive_chunk(rest)] == [ListState]
        assert again.flash.held == NO_HEAD

    def test_staging_that_disagrees_with_the_offer_starts_again(self) -> None:
        terminal = Terminal()
        terminal.take(offer(data=V2.content[:500]))
        terminal.flash.data[3] ^= 1
        again = Terminal(terminal.flash)
        (state,) = again.take(offer(data=V2.content[:56]))
        assert state.staged_bytes == 56

    def test_complete_staging_found_at_boot_is_applied_by_the_next_offer(self) -> None:
        terminal = Terminal()
        for event in terminal.events(offer()):
            if not isinstance(event, Apply | StageClear):
                terminal.flash.write(event)
        again = Terminal(terminal.flash)
        assert again.take(offer(data=b""))[-1].status == ListStatus.HOLDS
        assert again.flash == holding(V2)

    @pytest.mark.parametrize("header", [b"", bytes(144), b"\x01" * 144, bytes(143)])
    def test_damaged_staging_at_boot_is_forgotten(self, header: bytes) -> None:
        terminal = Terminal(Flash(header=header, data=bytearray(700)))
        assert terminal.receiver.state().status in (ListStatus.HOLDS, ListStatus.STAGING)
        assert terminal.take(offer())[-1].status == ListStatus.HOLDS
        assert terminal.flash == holding(V2)


class TestSender:
    def test_nothing_is_offered_to_a_terminal_that_holds_the_head(self) -> None:
        sender = new_sender()
        assert sender.on_state(Terminal(holding(V2)).receiver.state()) == []
        assert sender.state is SenderState.CURRENT

    def test_small_delta_goes_whole_inside_the_offer(self) -> None:
        (made,) = new_sender().on_state(Terminal(holding(V1)).receiver.state())
        assert isinstance(made, ListOffer)
        assert (made.form, made.base_generation, made.base_counter) == (ListForm.DELTA, 1, 1)
        assert made.data == V2.deltas[1, 1]

    def test_terminal_without_a_list_gets_a_snapshot(self) -> None:
        terminal, sender = Terminal(), new_sender()
        assert run_session(terminal, sender) == []
        assert terminal.flash == holding(V2)
        assert sender.state is SenderState.CURRENT

    def test_at_most_four_messages_are_unanswered(self) -> None:
        sender, terminal = new_sender(), Terminal()
        outstanding = list(sender.on_state(terminal.receiver.state()))
        most = 0
        while outstanding:
            most = max(most, len(outstanding))
            for state in terminal.take(outstanding.pop(0)):
                outstanding += sender.on_state(state)
        assert most == LIST_CHUNKS_OUTSTANDING_MAX
        assert terminal.flash == holding(V2)

    @pytest.mark.parametrize("status", [ListStatus.BASE_NOT_HELD, ListStatus.DIGEST_WRONG])
    def test_delta_refused_is_followed_by_a_snapshot(self, status: ListStatus) -> None:
        sender, receiver = new_sender(), Terminal(holding(V1)).receiver
        sender.on_state(receiver.state())
        (made,) = sender.on_state(receiver.state(status))
        assert isinstance(made, ListOffer)
        assert made.form == ListForm.SNAPSHOT

    @pytest.mark.parametrize("status", [ListStatus.BAD_SIGNATURE, ListStatus.NOT_HIGHER, ListStatus.NO_ROOM])
    def test_other_refusals_raise_one_alarm_and_end_it(self, status: ListStatus) -> None:
        sender, receiver = new_sender(), Terminal(holding(V1)).receiver
        sender.on_state(receiver.state())
        assert sender.on_state(receiver.state(status)) == [Alarm(AlarmKind.REFUSED, status, V1.head_bytes)]
        assert sender.state is SenderState.STOPPED
        assert sender.on_state(receiver.state(status)) == []

    def test_unsigned_head_raises_an_alarm_and_gets_a_snapshot(self) -> None:
        forged = head_of(OLD.content(), (1, 1), seed=b"X" * 32).encode()
        for head in (forged, b"\x01" * 128):
            alarm, made = new_sender().on_state(ListState(ListKind.DENY, ListStatus.HOLDS, head=head))
            assert isinstance(alarm, Alarm)
            assert (alarm.kind, alarm.report_kind) == (AlarmKind.UNSIGNED_HEAD, ReportKind.UNSIGNED_HEAD)
            assert isinstance(made, ListOffer)
            assert made.form == ListForm.SNAPSHOT

    def test_same_version_with_another_digest_raises_an_alarm_and_gets_a_snapshot(self) -> None:
        other = head_of(OLD.content(), (1, 2)).encode()
        alarm, made = new_sender().on_state(ListState(ListKind.DENY, ListStatus.HOLDS, head=other))
        assert isinstance(alarm, Alarm)
        assert alarm.kind is AlarmKind.DIFFERING_HEAD
        assert isinstance(made, ListOffer)

    def test_same_content_signed_again_is_no_alarm(self) -> None:
        again = head_of(V2.content, (1, 2), issued_ms=99).encode()
        assert new_sender().on_state(ListState(ListKind.DENY, ListStatus.HOLDS, head=again)) == []

    def test_validly_signed_higher_head_is_an_alarm_for_the_ledger_and_nothing_is_offered(self) -> None:
        sender = new_sender(V1)
        (alarm,) = sender.on_state(Terminal(holding(V2)).receiver.state())
        assert isinstance(alarm, Alarm)
        assert alarm.report_kind is ReportKind.HIGHER_HEAD
        assert alarm.head == V2.head_bytes
        assert sender.on_state(Terminal(holding(V2)).receiver.state()) == []

    def test_head_signed_by_an_earlier_key_is_recognised(self) -> None:
        older = issue_certificate(
            ROOT,
            key_id=8,
            site=SITE,
            valid_from_ms=0,
            valid_to_ms=100,
            public_key=SoftwareSigner(b"O" * 32).public_key,
        )
        held = head_of(OLD.content(), (1, 1), seed=b"O" * 32, key_id=8).encode()
        version = replace_certificates(V2, older)
        (made,) = new_sender(version).on_state(ListState(ListKind.DENY, ListStatus.HOLDS, head=held))
        assert isinstance(made, ListOffer)
        assert made.form == ListForm.DELTA

    def test_new_version_is_offered_at_once_to_a_current_terminal(self) -> None:
        terminal, sender = Terminal(holding(V1)), new_sender(V1)
        sender.on_state(terminal.receiver.state())
        (made,) = sender.on_version(V2)
        (state,) = terminal.take(made)
        assert sender.on_state(state) == []
        assert terminal.flash == holding(V2)

    def test_new_version_during_a_transfer_waits_for_the_answers_on_their_way(self) -> None:
        terminal, sender = Terminal(), new_sender(V1)
        queue: list[SenderOutput] = sender.on_state(terminal.receiver.state())
        queue += [message for state in terminal.take(queue.pop(0)) for message in sender.on_state(state)]
        assert len(queue) == 4
        assert sender.on_version(V2) == []
        while queue:
            for state in terminal.take(queue.pop(0)):
                queue += sender.on_state(state)
        assert terminal.flash == holding(V2)
        assert sender.state is SenderState.CURRENT

    def test_version_that_is_not_higher_is_never_offered(self) -> None:
        sender = new_sender(V2)
        sender.on_state(Terminal(holding(V2)).receiver.state())
        assert sender.on_version(V1) == []
        assert sender.on_version(V2) == []

    def test_version_issued_before_the_first_report_is_the_one_offered(self) -> None:
        sender, terminal = new_sender(V1), Terminal()
        assert sender.on_version(V2) == []
        assert run_session(terminal, sender) == []
        assert terminal.flash == holding(V2)

    def test_terminal_that_forgets_what_it_staged_ends_in_an_alarm_and_not_in_a_loop(self) -> None:
        sender = new_sender()
        forgetful = ListState(ListKind.DENY, ListStatus.STAGING, 1, 2, 0, NO_HEAD)
        outputs = [message for _ in range(500) for message in sender.on_state(forgetful)]
        assert outputs[-1] == Alarm(AlarmKind.NOT_CONVERGING, ListStatus.STAGING, NO_HEAD)
        assert sender.on_state(forgetful) == []
        assert len(outputs) < 100

    @given(st.lists(st.tuples(st.sampled_from(list(ListStatus)), st.integers(0, 3), st.integers(0, 3000)), max_size=60))
    def test_hostile_reports_cost_a_bounded_number_of_messages(
        self, reports: list[tuple[ListStatus, int, int]]
    ) -> None:
        heads = [NO_HEAD, V1.head_bytes, b"\xff" * 128, V2.head_bytes]
        sender = new_sender()
        offers = 0
        for status, which, staged in reports:
            state = ListState(ListKind.DENY, status, 1, which, staged, heads[which])
            outputs = sender.on_state(state)
            offers += sum(isinstance(one, ListOffer) for one in outputs)
            assert len(outputs) <= LIST_CHUNKS_OUTSTANDING_MAX + 1
        assert offers <= len(reports)

    def test_misuse_is_told(self) -> None:
        with pytest.raises(OutOfRange):
            ListSender(V2, body_bytes_max=319)
        with pytest.raises(StateMisuse):
            new_sender().on_state(ListState(ListKind.FIRMWARE, ListStatus.HOLDS))


def replace_certificates(version: ListVersion, *older: Any) -> ListVersion:
    return ListVersion(version.head, version.certificate, version.content, version.deltas, older)


@given(st.integers(0, 1 << 32), st.sampled_from([NO_HEAD, V1.head_bytes]), st.integers(1, 12))
def test_sender_and_receiver_converge_over_a_link_that_keeps_breaking(seed: int, held: bytes, breaks: int) -> None:
    """Every session is cut after a drawn number of events, power may go with it, and the last one is left alone."""
    source = random.Random(seed)
    flash = holding(V1) if held == V1.head_bytes else Flash()
    versions = [V1, V2]
    served = V1 if source.random() < 0.3 else V2
    for _ in range(breaks):
        terminal = Terminal(flash)
        sender = new_sender(served)
        queue: list[SenderOutput] = sender.on_state(terminal.receiver.state())
        events_left = source.randint(0, 25)
        while queue and events_left > 0:
            if source.random() < 0.05:
                served = versions[-1]
                queue += sender.on_version(served)
            message = queue.pop(0)
            assert not isinstance(message, Alarm), message
            for event in terminal.events(message):
                events_left -= 1
                if events_left <= 0:
                    break
                if isinstance(event, ListState):
                    queue += sender.on_state(event)
                else:
                    before = SignedHead.decode(flash.held).version if flash.held != NO_HEAD else (0, 0)
                    flash.write(event)
                    after = SignedHead.decode(flash.held).version if flash.held != NO_HEAD else (0, 0)
                    assert after >= before, "a version went backward"
                    assert flash.held == NO_HEAD or SignedHead.decode(flash.held).names(flash.content)
    assert run_session(Terminal(flash), new_sender(V2)) == []
    assert (flash.held, flash.content) == (V2.head_bytes, V2.content)


def test_a_list_of_ten_thousand_cards_survives_a_cut_in_every_session() -> None:
    big = DenyList(range(10, 10_010))
    version = list_version(big, (3, 1))
    flash = Flash()
    sessions = 0
    while flash.held != version.head_bytes:
        sessions += 1
        terminal, sender = Terminal(flash), new_sender(version)
        queue: list[SenderOutput] = sender.on_state(terminal.receiver.state())
        for _ in range(20):
            for state in terminal.take(queue.pop(0)) if queue else []:
                queue += sender.on_state(state)
    assert flash.content == big.content()
    assert sessions == 7  # 40,008 bytes by 19 chunks of 304 a session: nothing is sent twice
