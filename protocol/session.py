"""The two sides of a session, without I/O (docs/protocol.md §4, §5, §14; R31-R35).

Call order of a shell, on either side:

    session = TerminalSession(…)                  its HELLO is queued at once; or FrontEndSession(…)
    message = session.receive_whole(data, now_ms) where whole frames are the rule: then None means `receive`
    for event in session.receive(data, now_ms):   Established | Refused | bytes (one message, opened)
    session.send(message)                         only while `established`
    stream.write(session.take_output())           after every call that may have queued something
    if session.state is State.CLOSED: close       after writing the last words; `failure`, `reason` say why
    clock.call_at(session.close_deadline_ms())    then session.tick(now_ms)

`receive` never raises for the peer's bytes: the events before an error are returned, the error is kept in
`failure`, the last words that its Disposition asks for are queued, and the state is CLOSED. `now_ms` is
monotonic. Messages are opaque here; a shell that cannot decode one calls `fail(error)`.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from protocol.codes import FrameKind, Medium, RefuseCode, Role
from protocol.errors import Malformed, OutOfRange, ProofError, StateMisuse
from protocol.frame import Frame
from protocol.handshake import (
    PROOF_BYTES,
    Challenge,
    Hello,
    SessionKeys,
    TerminalIdentity,
    decode_refuse,
    encode_refuse,
    frontend_proof,
    suite_is_spoken,
    terminal_proof,
    transcript_of,
)
from protocol.mac import KEY_BYTES
from protocol.session_base import Established, Event, Refused, SessionBase, State, Step, Transitions

__all__ = [
    "FRONTEND_TRANSITIONS",
    "TERMINAL_TRANSITIONS",
    "Established",
    "Event",
    "FrontEndSession",
    "Refused",
    "State",
    "Step",
    "TerminalSession",
]

# The two tables of docs/protocol.md §4. Anything else, a wrong proof and the deadline lead to CLOSED.
TERMINAL_TRANSITIONS: Final[Transitions] = {
    (State.IDLE, Step.START): State.HELLO_SENT,
    (State.HELLO_SENT, Step.CHALLENGE): State.PROVE_SENT,
    (State.HELLO_SENT, Step.REFUSE): State.CLOSED,
    (State.PROVE_SENT, Step.REFUSE): State.CLOSED,
    (State.PROVE_SENT, Step.ACCEPT): State.ESTABLISHED,
}
FRONTEND_TRANSITIONS: Final[Transitions] = {
    (State.WAITING, Step.HELLO): State.CHALLENGED,
    (State.CHALLENGED, Step.PROVE): State.ESTABLISHED,
}

NO_KEY: Final = bytes(KEY_BYTES)
"""For a terminal that is not known: the same work and the same bytes, and refused whatever it proves (R35)."""


def _no_key(_: Hello) -> bytes | None:
    """What a session that is over or established asks: nothing."""
    return None


class TerminalSession(SessionBase):
    """A terminal's side; constructing it is the `start` of the table.

    Args:
        identity: what enrolment has provisioned; never negotiated.
        link_key: of this terminal, epoch and key version.
        nonce: 16 random bytes, new for each handshake.
        body_bytes_max: this side's limit, stated in HELLO.
        now_ms: monotonic; the handshake must be done 10 s later.
        address: on a line, this terminal's address; 0 on TCP.

    Raises:
        OutOfRange: the identity's suite is reserved on this medium, or the limit does not fit it.
    """

    __slots__ = ("_challenge", "_hello", "_hello_header", "_link_key", "_prove_body", "_site", "_transcript")

    _DOWN = False
    _TRANSITIONS = TERMINAL_TRANSITIONS

    def __init__(
        self,
        identity: TerminalIdentity,
        link_key: bytes,
        *,
        medium: Medium,
        nonce: bytes,
        body_bytes_max: int,
        now_ms: int,
        address: int = 0,
    ) -> None:
        if not suite_is_spoken(identity.suite, medium):
            raise OutOfRange(f"suite {identity.suite:02x} on {medium.name} is reserved")
        super().__init__(State.IDLE, medium, body_bytes_max, address, now_ms)
        self._site = identity.site
        self._link_key = link_key
        self._hello: Hello | None = None
        self._challenge: Challenge | None = None
        self._transcript = b""
        self._prove_body = b""
        hello = Hello(
            suite=identity.suite,
            role=Role.TERMINAL,
            medium=medium,
            key_version=identity.key_version,
            terminal=identity.terminal,
            epoch=identity.epoch,
            body_bytes_max=body_bytes_max,
            terminal_class=identity.terminal_class,
            terminal_kind=identity.terminal_kind,
            nonce=nonce,
        )
        self._hello = hello
        self._hello_header = self._queue(FrameKind.HELLO, hello.encode())
        self.state = TERMINAL_TRANSITIONS[State.IDLE, Step.START]

    def _answer(self, step: Step, frame: Frame) -> Event | None:
        assert self._hello is not None
        if step is Step.CHALLENGE:
            challenge = Challenge.decode(frame.body)
            challenge.check_against(self._hello, self._site)
            self._challenge = challenge
            self._transcript = transcript_of(self._hello_header, self._hello.encode(), frame.header, frame.body)
            self._prove_body = terminal_proof(self._link_key, self._transcript, suite=self._hello.suite)
            self._queue(FrameKind.PROVE, self._prove_body)
            return None
        if step is Step.REFUSE:
            code, retry_after_s = decode_refuse(frame.body)
            self._close(f"the front-end answered REFUSE {code.name}")
            return Refused(code, retry_after_s)
        assert step is Step.ACCEPT
        assert self._challenge is not None
        suite = self._hello.suite
        expected = frontend_proof(self._link_key, self._transcript, self._prove_body, suite=suite)
        if not compare_digest(expected, frame.body):
            raise ProofError("the front-end's proof does not verify")
        keys = SessionKeys.derive(self._link_key, self._transcript, suite=suite)
        return self._establish(keys, self._hello, self._challenge)

    def _forget_handshake(self) -> None:
        self._hello = self._challenge = None
        self._link_key = self._transcript = self._prove_body = self._hello_header = b""


class FrontEndSession(SessionBase):
    """A front-end's side of one connection (TCP) or one address (line).

    Args:
        frontend: this front-end's number.
        site: the installation's number.
        nonce: 16 random bytes, new for each handshake.
        find_key: asked once per handshake, when PROVE has come; the link key of the terminal that HELLO claims,
            or None if it is not enrolled like that (terminal, epoch, suite, key version, class, kind: R40).
        body_bytes_max, now_ms, address: as for a terminal.
    """

    __slots__ = ("_challenge", "_find_key", "_frontend", "_hello", "_nonce", "_site", "_transcript")

    _DOWN = True
    _TRANSITIONS = FRONTEND_TRANSITIONS

    def __init__(
        self,
        *,
        frontend: int,
        site: int,
        medium: Medium,
        body_bytes_max: int,
        nonce: bytes,
        find_key: Callable[[Hello], bytes | None],
        now_ms: int,
        address: int = 0,
    ) -> None:
        super().__init__(State.WAITING, medium, body_bytes_max, address, now_ms)
        self._frontend = frontend
        self._site = site
        self._nonce = nonce
        self._find_key = find_key
        self._hello: Hello | None = None
        self._challenge: Challenge | None = None
        self._transcript = b""

    def _forget_handshake(self) -> None:
        self._hello = self._challenge = None
        self._nonce = self._transcript = b""
        self._find_key = _no_key

    def refuse_busy(self, retry_after_s: int) -> None:
        """No room now: answer REFUSE busy and close.

        Raises:
            StateMisuse: the handshake is over.
        """
        if self.state not in {State.WAITING, State.CHALLENGED}:
            raise StateMisuse(f"REFUSE belongs to the handshake, not to {self.state.value}")
        self._queue(FrameKind.REFUSE, encode_refuse(RefuseCode.BUSY, retry_after_s))
        self._close("busy")

    def _answer(self, step: Step, frame: Frame) -> Event | None:
        if step is Step.HELLO:
            hello = Hello.decode(frame.body)
            challenge = Challenge(
                suite=hello.suite,
                medium=hello.medium,
                key_version=hello.key_version,
                frontend=self._frontend,
                site=self._site,
                body_bytes_max=self.body_bytes_max,
                nonce=self._nonce,
            )
            body = challenge.encode()
            header = self._queue(FrameKind.CHALLENGE, body)
            self._transcript = transcript_of(frame.header, frame.body, header, body)
            self._hello, self._challenge = hello, challenge
            return None
        assert step is Step.PROVE
        assert self._hello is not None
        assert self._challenge is not None
        return self._judge(self._hello, self._challenge, frame.body)

    def _judge(self, hello: Hello, challenge: Challenge, prove_body: bytes) -> Event:
        """Established, or Refused with the one answer that tells nothing (R35); the work is the same for all."""
        if len(prove_body) != PROOF_BYTES:
            raise Malformed("PROVE", f"{len(prove_body)} bytes, not {PROOF_BYTES}")
        link_key = self._find_key(hello)
        suite = hello.suite  # a claim until `find_key` has compared it with the registry
        is_right = compare_digest(terminal_proof(link_key or NO_KEY, self._transcript, suite=suite), prove_body)
        reason = hello.unwelcome(self._medium)
        if reason is None and link_key is None:
            reason = "terminal unknown or not enrolled like that"
        if reason is None and not is_right:
            reason = "wrong proof"
        if reason is not None:
            self.fail(ProofError(reason))
            return Refused(RefuseCode.REFUSED, 0, reason, hello)
        assert link_key is not None
        self._queue(FrameKind.ACCEPT, frontend_proof(link_key, self._transcript, prove_body, suite=suite))
        return self._establish(SessionKeys.derive(link_key, self._transcript, suite=suite), hello, challenge)
