"""What both sides of a session share: framing, sealing, counters, deadlines, last words (docs/protocol.md §5, §14).

The handshake's tables and the two sides are in `protocol.session`, which is also the module to import from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.aead import Opener, Repeated, Sealer, medium_body_bytes_max
from protocol.codes import ByeCode, FrameKind, Medium, MessageType, RefuseCode
from protocol.errors import (
    CounterError,
    Disposition,
    OutOfRange,
    RemoteError,
    StateMisuse,
    TagError,
    TooLong,
    UnexpectedMessage,
    UnknownFrame,
    kept,
)
from protocol.frame import FLAG_DOWN, HEADER_BYTES, Frame, FrameDecoder, encode_frame
from protocol.handshake import (
    Challenge,
    Hello,
    SessionKeys,
    encode_refuse,
)
from protocol.limits import BODY_BYTES_MIN, HANDSHAKE_MS_MAX, SESSION_FRAMES_MAX, SESSION_MS_MAX, TAG_FAILURES_MAX


class State(Enum):
    IDLE = "idle"
    HELLO_SENT = "hello_sent"
    PROVE_SENT = "prove_sent"
    WAITING = "waiting"
    CHALLENGED = "challenged"
    ESTABLISHED = "established"
    CLOSED = "closed"


class Step(Enum):
    START = "start"
    HELLO = "HELLO"
    CHALLENGE = "CHALLENGE"
    PROVE = "PROVE, right"
    ACCEPT = "ACCEPT, right"
    REFUSE = "REFUSE"


Transitions = Mapping[tuple[State, Step], State]

_STEP_OF_KIND: Final = {
    int(FrameKind.HELLO): Step.HELLO,
    int(FrameKind.CHALLENGE): Step.CHALLENGE,
    int(FrameKind.PROVE): Step.PROVE,
    int(FrameKind.ACCEPT): Step.ACCEPT,
    int(FrameKind.REFUSE): Step.REFUSE,
}
_SEALED: Final = int(FrameKind.SEALED)
_ESTABLISHED: Final = State.ESTABLISHED
_CLOSED: Final = State.CLOSED


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides have proved themselves; at a front-end `hello` is now true, no longer a claim."""

    hello: Hello
    challenge: Challenge
    body_bytes_max: int
    """The smaller of the two limits, for both directions."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The handshake ended in REFUSE; a terminal comes back after `retry_after_s` plus a random half of it.

    At a front-end `reason` and `hello` (claims) are for its log; the wire shows neither (R35).
    """

    code: RefuseCode
    retry_after_s: int
    reason: str = ""
    hello: Hello | None = None


Event = Established | Refused | bytes


class SessionBase:
    """What both sides share: framing, sealing, deadlines, last words.

    A front-end holds one of these per terminal: slots, and nothing of the handshake once it is over.
    """

    __slots__ = (
        "_address",
        "_deadline_ms",
        "_decoder",
        "_is_line",
        "_medium",
        "_opener",
        "_output",
        "_peer_down_flag",
        "_sealer",
        "_unanswered",
        "body_bytes_max",
        "dropped_frames",
        "failure",
        "reason",
        "state",
        "tag_failures",
    )

    _DOWN: bool  # direction of what this side sends
    _TRANSITIONS: Transitions

    def __init__(self, state: State, medium: Medium, body_bytes_max: int, address: int, now_ms: int) -> None:
        if not BODY_BYTES_MIN <= body_bytes_max <= medium_body_bytes_max(medium):
            raise OutOfRange(f"a body limit of {body_bytes_max} bytes on {medium.name}")
        self.state = state
        self.failure: RemoteError | None = None
        """The peer's fault that closed the session, if any."""
        self.reason = ""
        """Why the session is closed, for the log."""
        self.body_bytes_max = body_bytes_max
        """This side's limit; once established, the smaller of the two."""
        self.tag_failures = 0
        """Frames with a right header (and CRC) and a wrong tag: forgeries."""
        self.dropped_frames = 0
        """Line only: frames with a counter that is not next, or too long."""
        self._medium = medium
        self._is_line = medium == Medium.LINE
        self._address = address
        self._peer_down_flag = 0 if self._DOWN else FLAG_DOWN
        self._decoder = FrameDecoder(medium, body_bytes_max)
        self._deadline_ms = now_ms + HANDSHAKE_MS_MAX
        self._output: list[bytes] = []
        self._unanswered = b""  # line only: the frame sent since the peer's last, the reply to its repetition
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None

    @property
    def established(self) -> bool:
        """Whether `send` is allowed."""
        return self.state is State.ESTABLISHED

    @property
    def closed(self) -> bool:
        """Whether nothing is received or sent any more; `take_output` may still hold the last words."""
        return self.state is State.CLOSED

    @property
    def has_output(self) -> bool:
        """Whether `take_output` has something to give."""
        return bool(self._output)

    @property
    def garbage_bytes(self) -> int:
        """Bytes of the peer that belonged to no frame."""
        return self._decoder.garbage_bytes

    @property
    def noise_frames(self) -> int:
        """Line only: frames with a wrong CRC."""
        return self._decoder.noise_frames

    def receive(self, data: bytes | bytearray | memoryview, now_ms: int) -> list[Event]:
        """The events that `data` completes, in order. Look at `state` afterwards."""
        events: list[Event] = []
        if self.state is _CLOSED:
            return events
        if now_ms >= self._deadline_ms:
            self.tick(now_ms)
            return events
        self._take_all(self._decoder.feed(data), now_ms, events)
        if self._decoder.error is not None:
            self.fail(self._decoder.error)
        return events

    def receive_whole(self, data: bytes, now_ms: int) -> bytes | None:
        """The message, where `data` is exactly one sealed frame, the next one, and nothing is left of others before.

        None: it is not so; nothing has happened, and `receive` must be asked. What comes of it is the same either way:
        this is the short way of a live sale, which fills one packet.
        """
        opener = self._opener
        if (
            opener is None
            or self.state is not _ESTABLISHED
            or now_ms >= self._deadline_ms
            or not self._decoder.is_between_frames
        ):
            return None
        message = opener.open_whole(data, self.body_bytes_max)
        if message is not None and opener.counter == SESSION_FRAMES_MAX:
            self.bye(ByeCode.REKEY)
        return message

    def line_silent(self, now_ms: int) -> list[Event]:
        """The line fell silent inside a frame: give it up, and return what it had swallowed (line only)."""
        events: list[Event] = []
        if not self.closed:
            self._take_all(self._decoder.line_silent(), now_ms, events)
        return events

    def send(self, message: bytes) -> None:
        """Seal one message and queue its frame.

        Raises:
            StateMisuse: not established.
            OutOfRange: longer than the negotiated limit.
        """
        sealer = self._sealer
        if sealer is None or self.state is not _ESTABLISHED:
            raise StateMisuse(f"nothing can be sent while {self.state.value}")
        if len(message) > self.body_bytes_max:
            raise OutOfRange(f"a message of {len(message)} bytes, at most {self.body_bytes_max} were agreed")
        frame = sealer.seal(message, self._address)
        self._output.append(frame)
        if self._is_line:
            self._unanswered = frame
        if sealer.counter == SESSION_FRAMES_MAX - 1:
            self.bye(ByeCode.REKEY)  # the last frame that may be sealed

    def repeat(self) -> None:
        """Queue the frame last sent again, byte for byte, if the peer has not answered it yet (line only, R34)."""
        if self._unanswered:
            self._output.append(self._unanswered)

    def take_output(self) -> bytes:
        """The bytes to send now; each is given out once."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def bye(self, code: ByeCode) -> None:
        """Say BYE and close; without a word where the session is not established. Idempotent."""
        self._say_bye(code)
        self._close(f"BYE {code.name} sent")

    def fail(self, error: RemoteError) -> None:
        """Close for the peer's fault, with the last words of its Disposition as far as the state allows."""
        if self.closed:
            return
        if error.disposition in {Disposition.BYE, Disposition.REFUSE}:
            self._say_bye(ByeCode.PROTOCOL_ERROR)
        if self.state is State.CHALLENGED and error.disposition is Disposition.REFUSE:
            self._queue(FrameKind.REFUSE, encode_refuse(RefuseCode.REFUSED))
        self.failure = kept(error)
        self._close(str(error))

    def close_deadline_ms(self) -> int | None:
        """When `tick` has something to do: end of the handshake's time, then of the session's; None when closed."""
        return None if self.closed else self._deadline_ms

    def tick(self, now_ms: int) -> None:
        """Let time pass: an unfinished handshake is closed, an established session says BYE `rekey` (R33)."""
        if now_ms < self._deadline_ms or self.closed:
            return
        if self.established:
            self.bye(ByeCode.REKEY)
        else:
            self._close(f"no handshake within {HANDSHAKE_MS_MAX} ms")

    def _take_all(self, frames: list[Frame], now_ms: int, events: list[Event]) -> None:
        for frame in frames:
            try:
                self._take(frame, now_ms, events)
            except RemoteError as error:
                if not self._tolerated(error):
                    self.fail(error)
            if self.state is _CLOSED:
                return

    def _take(self, frame: Frame, now_ms: int, events: list[Event]) -> None:
        if frame.flags & FLAG_DOWN != self._peer_down_flag or frame.address != self._address:
            if self._is_line:
                return  # a bus carries everybody's frames
            raise UnknownFrame("a frame of the wrong direction")
        if frame.kind != _SEALED:
            self._take_handshake(frame, now_ms, events)
            return
        opener = self._opener
        if opener is None:
            raise UnexpectedMessage(f"a sealed frame while {self.state.value}")
        if len(frame.body) > self.body_bytes_max:
            raise TooLong("message", got_bytes=len(frame.body), max_bytes=self.body_bytes_max)
        events.append(opener.open(frame))
        self._unanswered = b""
        if opener.counter == SESSION_FRAMES_MAX:
            self.bye(ByeCode.REKEY)

    def _tolerated(self, error: RemoteError) -> bool:
        """Whether the session goes on after `error`; counts it, and answers a repetition (docs/protocol.md §14)."""
        if isinstance(error, TagError):
            self.tag_failures += 1
            return self._is_line and self.tag_failures <= TAG_FAILURES_MAX
        if isinstance(error, Repeated):
            self.repeat()
            return True
        if self._is_line and isinstance(error, CounterError | TooLong):
            self.dropped_frames += 1
            return True
        return False

    def _take_handshake(self, frame: Frame, now_ms: int, events: list[Event]) -> None:
        step = _STEP_OF_KIND[frame.kind]
        after = self._TRANSITIONS.get((self.state, step))
        if after is None:
            raise UnexpectedMessage(f"{step.name} while {self.state.value}")
        event = self._answer(step, frame)
        if event is not None:
            events.append(event)
        if self.closed:  # refused
            return
        self.state = after
        if isinstance(event, Established):
            self._deadline_ms = now_ms + SESSION_MS_MAX

    def _answer(self, step: Step, frame: Frame) -> Event | None:
        """Do what the table says beside the change of state; raise a RemoteError to close instead."""
        raise NotImplementedError

    def _establish(self, keys: SessionKeys, hello: Hello, challenge: Challenge) -> Established:
        up = (keys.up_key, keys.up_salt, self._medium)
        down = (keys.down_key, keys.down_salt, self._medium)
        self._sealer = Sealer(*(down if self._DOWN else up), self._DOWN, suite=hello.suite)
        self._opener = Opener(*(up if self._DOWN else down), down=not self._DOWN, suite=hello.suite)
        self.body_bytes_max = min(hello.body_bytes_max, challenge.body_bytes_max)
        self._forget_handshake()
        return Established(hello, challenge, self.body_bytes_max)

    def _forget_handshake(self) -> None:
        """Let go of what only the handshake needed: secrets, and most of what a session weighs."""
        raise NotImplementedError

    def _say_bye(self, code: ByeCode) -> None:
        if self.established and self._sealer is not None:
            kind = MessageType.BYE_DOWN if self._DOWN else MessageType.BYE_UP
            self._output.append(self._sealer.seal(bytes((kind, code)), self._address))

    def _queue(self, kind: FrameKind, body: bytes) -> bytes:
        """Queue a handshake frame; return its header."""
        frame = encode_frame(kind, body, medium=self._medium, down=self._DOWN, address=self._address)
        self._output.append(frame)
        return frame[:HEADER_BYTES]

    def _close(self, reason: str) -> None:
        if not self.closed:
            self.reason = reason
            self.state = State.CLOSED
