"""Both sides of a session, joined by a fake wire; time is an argument (docs/protocol.md §4, §5, §14; R31-R35)."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from protocol.aead import Sealer
from protocol.codes import ByeCode, FrameKind, Medium, RefuseCode, Suite
from protocol.errors import (
    CounterError,
    Downgrade,
    Garbage,
    Malformed,
    OutOfRange,
    ProofError,
    StateMisuse,
    TagError,
    TooLong,
    UnexpectedMessage,
    UnknownFrame,
)
from protocol.frame import encode_frame
from protocol.handshake import Challenge, Hello, TerminalIdentity
from protocol.keys import link_key
from protocol.limits import (
    BODY_BYTES_MAX_TCP,
    BODY_BYTES_MIN,
    GARBAGE_BYTES_MAX,
    HANDSHAKE_MS_MAX,
    SESSION_FRAMES_MAX,
    SESSION_MS_MAX,
    TAG_FAILURES_MAX,
)
from protocol.session import (
    FRONTEND_TRANSITIONS,
    TERMINAL_TRANSITIONS,
    Established,
    FrontEndSession,
    Refused,
    State,
    Step,
    TerminalSession,
)
from tests.hostile import HostileStream, flipped
from tests.protocol.vectors import good

MASTER = bytes(range(16))
SITE, FRONTEND, TERMINAL, EPOCH, KEY_VERSION = 42, 7, 0x010203, 3, 2
KEY = link_key(MASTER, terminal=TERMINAL, epoch=EPOCH, key_version=KEY_VERSION)
IDENTITY = TerminalIdentity(site=SITE, terminal=TERMINAL, epoch=EPOCH, key_version=KEY_VERSION, terminal_kind=1)
TERMINAL_NONCE = bytes(range(0xC0, 0xD0))
FRONTEND_NONCE = bytes(range(0xD0, 0xE0))
START_MS = 1_000_000
SPOKEN = pytest.mark.parametrize(
    ("medium", "suite"),
    [(Medium.TCP, Suite.A), (Medium.LINE, Suite.A), (Medium.TCP, Suite.B)],
    ids=["TCP", "LINE", "TCP, suite B"],
)
BOTH_MEDIA = pytest.mark.parametrize("medium", list(Medium), ids=lambda medium: medium.name)


def enrolled(hello: Hello) -> bytes | None:
    """A registry of one terminal."""
    known = (TERMINAL, EPOCH, KEY_VERSION, 1, 1)
    claimed = (hello.terminal, hello.epoch, hello.key_version, hello.terminal_class, hello.terminal_kind)
    return KEY if claimed == known and hello.suite == Suite.A else None


class Pair:
    """A terminal and a front-end on one wire; `pump` carries bytes until nothing moves any more."""

    def __init__(
        self,
        medium: Medium = Medium.TCP,
        *,
        identity: TerminalIdentity = IDENTITY,
        key: bytes = KEY,
        site: int = SITE,
        find_key: Callable[[Hello], bytes | None] = enrolled,
        limits: tuple[int, int] | None = None,
    ) -> None:
        address = 17 if medium is Medium.LINE else 0
        up, down = limits or ((960, 960) if medium is Medium.LINE else (4096, 4096))
        self.terminal = TerminalSession(
            identity,
            key,
            medium=medium,
            nonce=TERMINAL_NONCE,
            body_bytes_max=up,
            now_ms=START_MS,
            address=address,
        )
        self.frontend = FrontEndSession(
            frontend=FRONTEND,
            site=site,
            medium=medium,
            body_bytes_max=down,
            nonce=FRONTEND_NONCE,
            find_key=find_key,
            now_ms=START_MS,
            address=address,
        )
        self.up = b""
        self.down = b""

    def pump(self, now_ms: int = START_MS) -> tuple[list[Any], list[Any]]:
        """(events of the terminal, events of the front-end)."""
        at_terminal: list[Any] = []
        at_frontend: list[Any] = []
        while True:
            up, down = self.terminal.take_output(), self.frontend.take_output()
            if not up and not down:
                return at_terminal, at_frontend
            self.up, self.down = self.up + up, self.down + down
            if up:
                at_frontend += self.frontend.receive(up, now_ms)
            if down:
                at_terminal += self.terminal.receive(down, now_ms)


def established(medium: Medium = Medium.TCP, **options: Any) -> Pair:
    pair = Pair(medium, **options)
    pair.pump()
    assert pair.terminal.established
    assert pair.frontend.established
    pair.up = pair.down = b""
    return pair


class TestHandshake:
    @SPOKEN
    def test_four_messages_establish_both_sides_with_the_second_implementations_bytes(
        self, medium: Medium, suite: Suite
    ) -> None:
        name = f"handshake, suite {suite.name} on " + ("a line" if medium is Medium.LINE else "TCP")
        (vector,) = [v for v in good("04_handshake") if v.name == name]
        kind = vector.given["hello"]["terminal_kind"]
        limits = (vector.given["hello"]["body_limit"], vector.given["challenge"]["body_limit"])
        identity = TerminalIdentity(SITE, TERMINAL, EPOCH, KEY_VERSION, kind, suite=suite)
        key = vector.bytes_of("link_key")
        pair = Pair(medium, limits=limits, identity=identity, key=key, find_key=lambda _: key)
        (at_terminal,), (at_frontend,) = pair.pump()
        assert pair.up == vector.bytes_of("hello_frame") + vector.bytes_of("prove_frame")
        assert pair.down == vector.bytes_of("challenge_frame") + vector.bytes_of("accept_frame")
        assert isinstance(at_terminal, Established)
        assert at_terminal == at_frontend
        assert (at_frontend.hello.terminal, at_frontend.challenge.frontend) == (TERMINAL, FRONTEND)
        assert pair.terminal.established
        assert pair.frontend.established

    def test_states_are_those_of_the_page(self) -> None:
        pair = Pair()
        seen = [(pair.terminal.state, pair.frontend.state)]
        for _ in range(2):
            pair.frontend.receive(pair.terminal.take_output(), START_MS)
            seen.append((pair.terminal.state, pair.frontend.state))
            pair.terminal.receive(pair.frontend.take_output(), START_MS)
            seen.append((pair.terminal.state, pair.frontend.state))
        assert seen == [
            (State.HELLO_SENT, State.WAITING),
            (State.HELLO_SENT, State.CHALLENGED),
            (State.PROVE_SENT, State.CHALLENGED),
            (State.PROVE_SENT, State.ESTABLISHED),
            (State.ESTABLISHED, State.ESTABLISHED),
        ]

    def test_the_tables_hold_exactly_the_rows_of_the_page(self) -> None:
        assert len(TERMINAL_TRANSITIONS) == 5
        assert len(FRONTEND_TRANSITIONS) == 2
        assert TERMINAL_TRANSITIONS[State.PROVE_SENT, Step.ACCEPT] is State.ESTABLISHED
        assert FRONTEND_TRANSITIONS[State.CHALLENGED, Step.PROVE] is State.ESTABLISHED

    @BOTH_MEDIA
    def test_the_smaller_body_limit_holds_for_both_directions(self, medium: Medium) -> None:
        pair = established(medium, limits=(320, 900))
        assert pair.terminal.body_bytes_max == pair.frontend.body_bytes_max == 320
        for side in (pair.terminal, pair.frontend):
            side.send(bytes(320))
            with pytest.raises(OutOfRange):
                side.send(bytes(321))

    @pytest.mark.parametrize("limit", [BODY_BYTES_MIN - 1, 4097])
    def test_a_limit_that_no_session_can_have_is_our_own_error(self, limit: int) -> None:
        with pytest.raises(OutOfRange):
            Pair(limits=(limit, 4096))

    @pytest.mark.parametrize("kind", [k for k in FrameKind if k is not FrameKind.SEALED])
    @pytest.mark.parametrize("state", ["fresh", "challenged", "established"])
    def test_a_message_in_the_wrong_state_closes_either_side(self, kind: FrameKind, state: str) -> None:
        expected = {
            ("fresh", FrameKind.HELLO),
            ("challenged", FrameKind.PROVE),
            ("fresh", FrameKind.CHALLENGE),
            ("fresh", FrameKind.REFUSE),
            ("challenged", FrameKind.ACCEPT),
            ("challenged", FrameKind.REFUSE),
        }
        if (state, kind) in expected:
            return
        pair = Pair() if state != "established" else established()
        if state == "challenged":
            pair.frontend.receive(pair.terminal.take_output(), START_MS)
            pair.terminal.receive(pair.frontend.take_output(), START_MS)
            pair.terminal.take_output()
        down = kind in {FrameKind.CHALLENGE, FrameKind.ACCEPT, FrameKind.REFUSE}
        side = pair.terminal if down else pair.frontend
        assert side.receive(encode_frame(kind, bytes(32), medium=Medium.TCP, down=down), START_MS) == []
        assert side.closed
        assert isinstance(side.failure, UnexpectedMessage)

    def test_a_sealed_frame_before_the_handshake_is_done_closes(self) -> None:
        pair = Pair()
        pair.frontend.receive(Sealer(KEY, bytes(5), Medium.TCP, down=False).seal(b"\x05"), START_MS)
        assert isinstance(pair.frontend.failure, UnexpectedMessage)
        assert pair.frontend.take_output() == b""

    def test_a_terminal_of_suite_b_takes_no_challenge_of_suite_a(self) -> None:
        pair = Pair(identity=replace(IDENTITY, suite=Suite.B), find_key=lambda _: KEY)
        other = Pair()
        other.frontend.receive(other.terminal.take_output(), START_MS)
        pair.terminal.take_output()
        assert pair.terminal.receive(other.frontend.take_output(), START_MS) == []
        assert isinstance(pair.terminal.failure, Downgrade)
        assert pair.terminal.take_output() == b""

    def test_a_hello_whose_suite_was_changed_on_the_way_gets_no_session(self) -> None:
        for ours, changed in ((Suite.A, Suite.B), (Suite.B, Suite.A)):
            pair = Pair(identity=replace(IDENTITY, suite=ours), find_key=lambda _: KEY)
            hello = pair.terminal.take_output()
            pair.frontend.receive(hello[:12] + bytes([changed]) + hello[13:], START_MS)
            pair.pump()
            assert isinstance(pair.terminal.failure, Downgrade)
            assert not pair.frontend.established

    def test_suite_b_on_a_line_is_reserved_and_refused_on_either_side(self) -> None:
        identity = replace(IDENTITY, suite=Suite.B)
        with pytest.raises(OutOfRange, match="suite 02 on LINE is reserved"):
            Pair(Medium.LINE, identity=identity)
        pair = Pair(Medium.LINE, find_key=lambda _: KEY)
        hello = Hello.decode(pair.terminal.take_output()[12:44])
        changed = replace(hello, suite=Suite.B).encode()
        frame = encode_frame(FrameKind.HELLO, changed, medium=Medium.LINE, down=False, address=17)
        pair.frontend.receive(frame, START_MS)
        proof = encode_frame(FrameKind.PROVE, bytes(16), medium=Medium.LINE, down=False, address=17)
        (refused,) = pair.frontend.receive(proof, START_MS)
        assert isinstance(refused, Refused)
        assert refused.reason == "suite 02 on LINE"

    @pytest.mark.parametrize("change", [{"suite": Suite.B}, {"key_version": 9}])
    def test_a_challenge_that_offers_less_is_a_downgrade_and_says_nothing(self, change: dict[str, int]) -> None:
        pair = Pair()
        other = Pair(identity=TerminalIdentity(**{**_facts(IDENTITY), **change}))
        other.frontend.receive(other.terminal.take_output(), START_MS)
        pair.terminal.take_output()
        pair.terminal.receive(other.frontend.take_output(), START_MS)
        assert isinstance(pair.terminal.failure, Downgrade)
        assert pair.terminal.take_output() == b""

    def test_a_terminal_enrolled_for_another_site_closes(self) -> None:
        pair = Pair(site=43)
        assert pair.pump() == ([], [])
        assert isinstance(pair.terminal.failure, Downgrade)

    def test_a_front_end_without_the_link_key_is_found_out(self) -> None:
        pair = Pair()
        pair.frontend.receive(pair.terminal.take_output(), START_MS)
        pair.terminal.receive(pair.frontend.take_output(), START_MS)
        pair.terminal.take_output()
        forged = encode_frame(FrameKind.ACCEPT, bytes(16), medium=Medium.TCP, down=True)
        assert pair.terminal.receive(forged, START_MS) == []
        assert isinstance(pair.terminal.failure, ProofError)
        assert pair.terminal.take_output() == b""

    def test_a_malformed_handshake_message_closes_without_a_word(self) -> None:
        for kind, body in ((FrameKind.HELLO, bytes(31)), (FrameKind.HELLO, b"\x01" * 32)):
            pair = Pair()
            pair.frontend.receive(encode_frame(kind, body, medium=Medium.TCP, down=False), START_MS)
            assert isinstance(pair.frontend.failure, Malformed)
            assert pair.frontend.take_output() == b""

    @BOTH_MEDIA
    @pytest.mark.parametrize("forged", ["HELLO", "CHALLENGE", "PROVE", "ACCEPT"])
    def test_every_forged_bit_of_the_handshake_prevents_a_session(self, medium: Medium, forged: str) -> None:
        def run(change: Callable[[bytes], bytes]) -> Pair:
            pair = Pair(medium)
            for step in ("HELLO", "CHALLENGE", "PROVE", "ACCEPT"):
                up = step in {"HELLO", "PROVE"}
                sender, receiver = (pair.terminal, pair.frontend) if up else (pair.frontend, pair.terminal)
                data = sender.take_output()
                receiver.receive(change(data) if step == forged else data, START_MS)
            return pair

        seen: list[bytes] = []
        assert run(lambda data: seen.append(data) or data).terminal.established  # type: ignore[func-returns-value]
        for offset, bit, changed in flipped(seen[0]):
            pair = run(lambda _, changed=changed: changed)  # type: ignore[misc]  # bound now
            assert not pair.terminal.established, f"bit {bit} at offset {offset}"
            assert forged == "ACCEPT" or not pair.frontend.established


class TestRefusal:
    CASES: ClassVar[tuple[tuple[str, dict[str, int], bytes, str], ...]] = (
        ("unknown terminal", {"terminal": 99}, KEY, "unknown"),
        ("wrong epoch", {"epoch": 4}, KEY, "unknown"),
        ("wrong key version", {"key_version": 3}, KEY, "unknown"),
        ("wrong class", {"terminal_class": 2}, KEY, "unknown"),
        ("wrong kind", {"terminal_kind": 2}, KEY, "unknown"),
        ("wrong suite", {"suite": Suite.B}, KEY, "unknown"),
        ("wrong key", {}, bytes(16), "wrong proof"),
    )

    @pytest.mark.parametrize(("name", "change", "key", "reason"), CASES, ids=[case[0] for case in CASES])
    def test_every_refusal_is_one_and_the_same_on_the_wire_and_named_for_the_log(
        self, name: str, change: dict[str, int], key: bytes, reason: str
    ) -> None:
        pair = Pair(identity=TerminalIdentity(**{**_facts(IDENTITY), **change}), key=key)
        (at_terminal,), (at_frontend,) = pair.pump()
        assert at_terminal == Refused(RefuseCode.REFUSED, 0)
        assert isinstance(at_frontend, Refused)
        assert reason in at_frontend.reason
        assert at_frontend.hello is not None
        assert at_frontend.hello.terminal == change.get("terminal", TERMINAL)
        challenge, refuse = pair.down[:44], pair.down[44:]
        assert refuse.hex() == "c31205000000000000045b7b" + "01000000"
        assert challenge[:12].hex() == "c3120200000000000020f885"
        assert pair.frontend.closed
        assert isinstance(pair.frontend.failure, ProofError)
        assert pair.terminal.closed
        assert pair.terminal.failure is None

    def test_nobody_is_refused_before_prove(self) -> None:
        pair = Pair(identity=TerminalIdentity(SITE, 99, 1, 1, 1), find_key=lambda _: pytest.fail("asked too soon"))
        assert pair.frontend.receive(pair.terminal.take_output(), START_MS) == []
        assert pair.frontend.state is State.CHALLENGED

    def test_a_terminal_that_is_not_enrolled_cannot_prove_itself_with_the_key_used_in_its_place(self) -> None:
        pair = Pair(identity=TerminalIdentity(SITE, 99, 1, 1, 1), key=bytes(16))
        pair.pump()
        assert not pair.frontend.established
        assert pair.frontend.reason.startswith("terminal unknown")

    def test_a_proof_of_eight_bytes_is_no_proof(self) -> None:
        pair = Pair()
        pair.frontend.receive(pair.terminal.take_output(), START_MS)
        pair.terminal.receive(pair.frontend.take_output(), START_MS)
        short = pair.terminal.take_output()[12:20]
        pair.frontend.receive(encode_frame(FrameKind.PROVE, short, medium=Medium.TCP, down=False), START_MS)
        assert isinstance(pair.frontend.failure, Malformed)

    def test_busy_is_said_at_once_or_in_the_middle_and_never_later(self) -> None:
        pair = Pair()
        pair.frontend.refuse_busy(30)
        assert pair.pump() == ([Refused(RefuseCode.BUSY, 30)], [])
        assert pair.frontend.reason == "busy"
        pair = Pair()
        pair.frontend.receive(pair.terminal.take_output(), START_MS)
        pair.terminal.receive(pair.frontend.take_output(), START_MS)
        pair.terminal.take_output()
        pair.frontend.refuse_busy(1)
        assert pair.pump()[0] == [Refused(RefuseCode.BUSY, 1)]
        with pytest.raises(StateMisuse):
            established().frontend.refuse_busy(1)


class TestMessages:
    @SPOKEN
    def test_messages_arrive_in_order_and_opened_in_both_directions(self, medium: Medium, suite: Suite) -> None:
        pair = established(medium, identity=replace(IDENTITY, suite=suite), find_key=lambda _: KEY)
        for number in range(5):
            pair.terminal.send(b"up %d" % number)
            pair.frontend.send(b"down %d" % number)
        at_terminal, at_frontend = pair.pump()
        assert at_terminal == [b"down %d" % number for number in range(5)]
        assert at_frontend == [b"up %d" % number for number in range(5)]

    @pytest.mark.parametrize("suite", [Suite.A, Suite.B])
    def test_the_second_implementation_reads_what_a_session_sends(self, suite: Suite) -> None:
        way = f"suite {suite.name} on TCP"
        (vector,) = good("04_handshake", f"handshake, {way}")
        given, key = vector.given["hello"], vector.bytes_of("link_key")
        identity = TerminalIdentity(SITE, TERMINAL, EPOCH, KEY_VERSION, given["terminal_kind"], suite=suite)
        pair = established(identity=identity, key=key, limits=(given["body_limit"], 4096), find_key=lambda _: key)
        sealed = good("05_sealed_frames")
        up = [v for v in sealed if v.name in {f"{n}, {way}" for n in ("BASELINE", "LIST_STATE", "HEARTBEAT")}]
        for frame in up:
            pair.terminal.send(frame.bytes_of("message"))
        pair.pump()
        assert pair.up == b"".join(frame.data for frame in up)

    def test_messages_behind_accept_in_one_segment_are_delivered(self) -> None:
        pair = Pair()
        pair.frontend.receive(pair.terminal.take_output(), START_MS)
        pair.terminal.receive(pair.frontend.take_output(), START_MS)
        pair.frontend.receive(pair.terminal.take_output(), START_MS)
        pair.frontend.send(b"\x84 at once")
        events = pair.terminal.receive(pair.frontend.take_output(), START_MS)
        assert isinstance(events[0], Established)
        assert events[1] == b"\x84 at once"

    def test_nothing_can_be_sent_before_or_after_the_session(self) -> None:
        with pytest.raises(StateMisuse):
            Pair().terminal.send(b"x")
        pair = established()
        pair.terminal.bye(ByeCode.GOING_DOWN)
        with pytest.raises(StateMisuse):
            pair.terminal.send(b"x")

    @BOTH_MEDIA
    def test_bye_is_the_last_word_of_either_side(self, medium: Medium) -> None:
        pair = established(medium)
        pair.frontend.bye(ByeCode.TAKEN_OVER)
        pair.frontend.bye(ByeCode.GOING_DOWN)
        assert pair.pump() == ([b"\x87\x03"], [])
        assert pair.frontend.closed
        assert pair.frontend.close_deadline_ms() is None
        pair = established(medium)
        pair.terminal.bye(ByeCode.IDLE)
        assert pair.pump() == ([], [b"\x07\x06"])

    def test_a_message_that_the_shell_cannot_decode_ends_with_bye_protocol_error(self) -> None:
        pair = established()
        pair.frontend.fail(Malformed("ACK", "5 bytes"))
        pair.frontend.fail(Malformed("ACK", "again"))
        assert pair.pump() == ([b"\x87\x04"], [])
        assert pair.frontend.reason == "ACK: 5 bytes"

    def test_good_messages_before_a_bad_frame_are_delivered_first(self) -> None:
        pair = established()
        pair.terminal.send(b"one")
        pair.terminal.send(b"two")
        data = pair.terminal.take_output()
        forged = Sealer(bytes(16), bytes(5), Medium.TCP, down=False)
        forged.counter = 2
        assert pair.frontend.receive(data + forged.seal(b"three"), START_MS) == [b"one", b"two"]
        assert isinstance(pair.frontend.failure, TagError)
        assert pair.frontend.tag_failures == 1
        assert pair.frontend.take_output() == b""
        assert pair.frontend.receive(data, START_MS) == []

    def test_good_messages_before_garbage_are_delivered_first(self) -> None:
        pair = established()
        pair.terminal.send(b"one")
        events = pair.frontend.receive(pair.terminal.take_output() + bytes(GARBAGE_BYTES_MAX + 1), START_MS)
        assert events == [b"one"]
        assert isinstance(pair.frontend.failure, Garbage)
        assert pair.frontend.garbage_bytes == GARBAGE_BYTES_MAX + 1

    def test_a_replayed_or_skipped_frame_ends_a_tcp_session(self) -> None:
        for replayed in (True, False):
            pair = established()
            pair.terminal.send(b"one")
            first = pair.terminal.take_output()
            pair.terminal.send(b"two")
            pair.terminal.take_output()
            pair.terminal.send(b"three")
            third = pair.terminal.take_output()
            pair.frontend.receive(first, START_MS)
            assert pair.frontend.receive(first if replayed else third, START_MS) == []
            assert isinstance(pair.frontend.failure, CounterError)

    def test_our_own_frames_thrown_back_end_a_tcp_session(self) -> None:
        pair = established()
        pair.frontend.send(b"\x84")
        assert pair.frontend.receive(pair.frontend.take_output(), START_MS) == []
        assert isinstance(pair.frontend.failure, UnknownFrame)

    def test_a_message_above_the_agreed_limit_ends_a_tcp_session(self) -> None:
        pair = established(limits=(320, 4096))
        pair.terminal.body_bytes_max = 4096
        pair.terminal.send(bytes(321))
        assert pair.pump() == ([], [])
        assert isinstance(pair.frontend.failure, TooLong)

    @BOTH_MEDIA
    def test_hostile_bytes_on_an_established_session(self, medium: Medium) -> None:
        pair = established(medium)
        pair.terminal.send(b"a message")
        data = pair.terminal.take_output()

        def new_feed() -> Callable[[Any], list[Any]]:
            frontend = established(medium).frontend

            def feed(piece: bytes) -> list[Any]:
                events = frontend.receive(piece, START_MS)
                if frontend.failure is not None:
                    raise frontend.failure
                return events

            return feed

        HostileStream(
            data, new_feed, authenticated=True, resynchronises=True, repeatable=False, garbage_rounds=100
        ).run_all()


class TestTime:
    def test_a_handshake_has_ten_seconds(self) -> None:
        pair = Pair()
        assert pair.terminal.close_deadline_ms() == START_MS + HANDSHAKE_MS_MAX
        for side in (pair.terminal, pair.frontend):
            side.tick(START_MS + HANDSHAKE_MS_MAX - 1)
            assert not side.closed
            side.tick(START_MS + HANDSHAKE_MS_MAX)
            assert side.closed
            assert side.close_deadline_ms() is None
            side.tick(START_MS + 2 * HANDSHAKE_MS_MAX)
        assert pair.frontend.reason == "no handshake within 10000 ms"
        assert pair.frontend.take_output() == b""

    def test_a_hello_after_the_deadline_is_too_late_even_without_a_tick(self) -> None:
        pair = Pair()
        assert pair.pump(START_MS + HANDSHAKE_MS_MAX) == ([], [])
        assert pair.frontend.closed

    def test_after_24_hours_the_session_says_bye_rekey(self) -> None:
        pair = Pair()
        pair.pump(START_MS + 5000)
        deadline_ms = START_MS + 5000 + SESSION_MS_MAX
        assert pair.frontend.close_deadline_ms() == deadline_ms
        pair.frontend.tick(deadline_ms - 1)
        assert pair.frontend.established
        pair.frontend.tick(deadline_ms)
        assert pair.pump(START_MS + 5001) == ([b"\x87\x02"], [])

    def test_the_last_frame_of_a_direction_is_bye_rekey(self) -> None:
        pair = established()
        assert pair.terminal._sealer is not None
        assert pair.frontend._opener is not None
        pair.terminal._sealer.counter = pair.frontend._opener.counter = SESSION_FRAMES_MAX - 2
        pair.terminal.send(b"last but one")
        assert pair.terminal.closed
        _, at_frontend = pair.pump()
        assert at_frontend == [b"last but one", b"\x07\x02"]
        assert pair.frontend.closed
        assert pair.frontend.failure is None

    def test_a_peer_that_goes_on_to_the_last_counter_is_told_rekey(self) -> None:
        pair = established()
        assert pair.terminal._sealer is not None
        assert pair.frontend._opener is not None
        pair.frontend._opener.counter = SESSION_FRAMES_MAX - 1
        pair.terminal._sealer.counter = SESSION_FRAMES_MAX - 1
        pair.terminal._output.append(pair.terminal._sealer.seal(b"\x05"))
        assert pair.pump() == ([b"\x87\x02"], [b"\x05"])
        assert pair.frontend.closed


class TestLine:
    def test_a_repeated_frame_is_answered_by_the_same_bytes(self) -> None:
        pair = established(Medium.LINE)
        pair.frontend.send(b"\x81 question")
        question = pair.frontend.take_output()
        assert pair.terminal.receive(question, START_MS) == [b"\x81 question"]
        assert pair.terminal.receive(question, START_MS) == []
        assert pair.terminal.take_output() == b"", "not answered yet: nothing to repeat"
        pair.terminal.send(b"\x03 answer")
        answer = pair.terminal.take_output()
        for _ in range(3):
            assert pair.terminal.receive(question, START_MS) == []
            assert pair.terminal.take_output() == answer
        assert pair.frontend.receive(answer, START_MS) == [b"\x03 answer"]
        assert pair.frontend.receive(answer, START_MS) == []

    def test_a_frame_without_an_answer_is_repeated_byte_for_byte_until_answered(self) -> None:
        pair = established(Medium.LINE)
        pair.frontend.send(b"\x81")
        first = pair.frontend.take_output()
        pair.frontend.repeat()
        assert pair.frontend.take_output() == first
        pair.terminal.receive(first, START_MS)
        pair.terminal.send(b"\x03")
        pair.frontend.receive(pair.terminal.take_output(), START_MS)
        pair.frontend.repeat()
        assert pair.frontend.take_output() == b""

    def test_tcp_repeats_nothing(self) -> None:
        pair = established()
        pair.frontend.send(b"\x81")
        pair.frontend.take_output()
        pair.frontend.repeat()
        assert pair.frontend.take_output() == b""

    def test_a_frame_swallowed_by_a_torn_one_is_found_when_the_line_falls_silent(self) -> None:
        pair = established(Medium.LINE)
        pair.terminal.send(bytes(200))
        torn = pair.terminal.take_output()[:30]
        other = established(Medium.LINE)
        other.terminal.send(b"\x05")
        assert pair.frontend.receive(torn + other.terminal.take_output(), START_MS) == []
        assert pair.frontend.line_silent(START_MS) == [b"\x05"]
        pair.frontend.bye(ByeCode.IDLE)
        assert pair.frontend.line_silent(START_MS) == []

    def test_frames_of_other_addresses_and_of_our_own_direction_pass_by(self) -> None:
        pair = established(Medium.LINE)
        other = Sealer(KEY, bytes(5), Medium.LINE, down=False)
        echo = Sealer(KEY, bytes(5), Medium.LINE, down=True)
        assert pair.frontend.receive(other.seal(b"x", 18) + echo.seal(b"x", 17), START_MS) == []
        assert pair.frontend.established
        assert (pair.frontend.tag_failures, pair.frontend.dropped_frames) == (0, 0)

    def test_noise_is_told_from_forgery(self) -> None:
        pair = established(Medium.LINE)
        pair.terminal.send(b"\x05")
        frame = bytearray(pair.terminal.take_output())
        noisy = bytes(frame)
        frame[12] ^= 1
        assert pair.frontend.receive(bytes(frame), START_MS) == []
        assert (pair.frontend.noise_frames, pair.frontend.tag_failures) == (1, 0)
        forger = Sealer(bytes(16), bytes(5), Medium.LINE, down=False)
        assert pair.frontend.receive(forger.seal(b"\x05", 17), START_MS) == []
        assert (pair.frontend.noise_frames, pair.frontend.tag_failures) == (1, 1)
        assert pair.frontend.receive(noisy, START_MS) == [b"\x05"]

    def test_more_than_ten_forged_frames_end_the_session(self) -> None:
        pair = established(Medium.LINE)
        for number in range(TAG_FAILURES_MAX + 1):
            assert pair.frontend.established, f"ended after {number}"
            pair.frontend.receive(Sealer(bytes(16), bytes(5), Medium.LINE, down=False).seal(b"", 17), START_MS)
        assert isinstance(pair.frontend.failure, TagError)

    def test_another_counter_is_dropped_and_counted(self) -> None:
        pair = established(Medium.LINE)
        pair.terminal.send(b"lost")
        pair.terminal.take_output()
        pair.terminal.send(b"after the lost one")
        assert pair.pump() == ([], [])
        assert pair.frontend.dropped_frames == 1
        assert pair.frontend.established

    def test_a_message_in_the_wrong_state_ends_a_line_session_with_bye(self) -> None:
        pair = established(Medium.LINE)
        hello = encode_frame(FrameKind.HELLO, bytes(32), medium=Medium.LINE, down=False, address=17)
        assert pair.frontend.receive(hello, START_MS) == []
        assert isinstance(pair.frontend.failure, UnexpectedMessage)
        assert pair.pump() == ([b"\x87\x04"], [])


def _facts(identity: TerminalIdentity) -> dict[str, Any]:
    return {name: getattr(identity, name) for name in TerminalIdentity.__dataclass_fields__}


def test_established_sessions_keep_nothing_of_the_handshake() -> None:
    pair = Pair()
    pair.pump()
    for side in (pair.terminal, pair.frontend):
        assert side.established
        assert not hasattr(side, "__dict__")
        slots = {name for cls in type(side).__mro__ for name in getattr(cls, "__slots__", ())}
        kept = [getattr(side, name) for name in sorted(slots)]
        assert KEY not in kept
        assert enrolled not in kept
        assert TERMINAL_NONCE not in kept
        assert FRONTEND_NONCE not in kept
        assert not [value for value in kept if isinstance(value, Hello | Challenge)]
        assert not [value for value in kept if isinstance(value, bytes) and len(value) > 12]


def test_a_session_still_answers_after_it_has_forgotten_the_handshake() -> None:
    pair = Pair()
    pair.pump()
    pair.terminal.send(b"up")
    pair.frontend.send(b"down")
    assert pair.pump() == ([b"down"], [b"up"])


def _failed_by(fault: bytes) -> bool:
    frontend = FrontEndSession(
        frontend=7,
        site=9,
        medium=Medium.TCP,
        body_bytes_max=BODY_BYTES_MAX_TCP,
        nonce=bytes(16),
        find_key=enrolled,
        now_ms=0,
    )
    frontend.receive(fault, 0)
    return frontend.failure is not None


@pytest.mark.parametrize("fault", [bytes(GARBAGE_BYTES_MAX + 99), "PROVE"], ids=["garbage", "PROVE"])
def test_a_session_ended_by_its_peers_fault_is_freed_without_the_cyclic_collector(fault: bytes | str) -> None:
    """A storm of them would else pile up until the collector's next full round, some 400 MiB later."""
    unexpected = encode_frame(FrameKind.PROVE, bytes(16), medium=Medium.TCP, down=False)
    gc.collect()
    gc.disable()
    try:
        assert _failed_by(fault if isinstance(fault, bytes) else unexpected)
        assert gc.collect() == 0
    finally:
        gc.enable()
