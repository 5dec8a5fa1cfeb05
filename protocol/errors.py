"""Every error of the protocol, in one tree.

    ProtocolError
    ├── LocalError            our own misuse; a bug on this side
    │   ├── StateMisuse       an operation that this state does not allow
    │   └── OutOfRange        a value that does not fit its field
    └── RemoteError           the peer's bytes are at fault; carries a Disposition
        ├── Garbage           bytes that are no frame
        ├── LineNoise         CRC wrong on a line: noise, not an attack
        ├── UnknownFrame      version, kind or flags that this version does not know
        ├── TooLong           longer than this side has said it takes
        ├── Malformed         a message, record or file that breaks its layout
        ├── UnexpectedMessage right bytes, wrong state
        ├── CounterError      frame counter is not the next one
        ├── TagError          right CRC, wrong tag: forgery or a wrong key
        ├── ProofError        a seal, card proof, MAC or signature does not verify
        ├── Downgrade         the peer offers less than what was provisioned
        ├── NotHigher         a version at or below the one held
        └── DamagedData       a file or image whose own check fails

No message ever holds a key, a tag, a seal, a full card number or decrypted bytes.
"""

from __future__ import annotations

from enum import Enum


class Disposition(Enum):
    """What the shell does with the connection after a RemoteError (docs/protocol.md §14)."""

    DROP = "drop"
    """Forget the bytes, keep the session."""
    CLOSE = "close"
    """End the session without a word."""
    BYE = "bye"
    """Say BYE `protocol error`, then end."""
    REFUSE = "refuse"
    """Answer REFUSE `refused`, then end."""


class ProtocolError(Exception):
    """Base of everything that this package raises on purpose."""


class LocalError(ProtocolError):
    """This side called the protocol wrongly."""


class StateMisuse(LocalError):
    """The operation is not allowed in the present state."""


class OutOfRange(LocalError):
    """A value does not fit the field it is meant for."""


class RemoteError(ProtocolError):
    """The peer sent something that it must not."""

    disposition: Disposition = Disposition.CLOSE


def kept(error: RemoteError) -> RemoteError:
    """`error` without its traceback, for whoever keeps it: that holds the frames of the calls, and with them the peer's
    bytes and the very object that keeps the error, which then only the cyclic collector could free.
    """
    error.__context__ = None
    return error.with_traceback(None)


class Garbage(RemoteError):
    """Too many bytes that belong to no frame."""


class LineNoise(RemoteError):
    """The CRC of a line frame is wrong."""

    disposition = Disposition.DROP


class UnknownFrame(RemoteError):
    """A frame header with a version, kind or flags unknown here."""


class TooLong(RemoteError):
    """More bytes than the limit this side has stated."""

    def __init__(self, what: str, *, got_bytes: int, max_bytes: int) -> None:
        super().__init__(f"{what}: {got_bytes} bytes, at most {max_bytes} are taken")
        self.got_bytes = got_bytes
        self.max_bytes = max_bytes


class Malformed(RemoteError):
    """Bytes that break the layout of what they claim to be; names what and where."""

    disposition = Disposition.BYE

    def __init__(self, what: str, why: str, *, offset: int | None = None) -> None:
        super().__init__(f"{what}: {why}" if offset is None else f"{what}: {why} at offset {offset}")
        self.what = what
        self.offset = offset


class UnexpectedMessage(RemoteError):
    """A well-formed message that the present state does not take."""

    disposition = Disposition.BYE


class CounterError(RemoteError):
    """A frame counter that is not the next one; state is unchanged."""

    def __init__(self, *, got: int, expected: int) -> None:
        super().__init__(f"frame counter {got}, expected {expected}")
        self.got = got
        self.expected = expected


class TagError(RemoteError):
    """The authentication tag of a frame does not verify; state is unchanged."""


class ProofError(RemoteError):
    """A seal, card proof, handshake proof, MAC or signature does not verify."""

    disposition = Disposition.REFUSE


class Downgrade(RemoteError):
    """The peer answers with another suite, medium, key version or site than was provisioned."""


class NotHigher(RemoteError):
    """A version that is not above the one already held."""

    disposition = Disposition.DROP


class DamagedData(RemoteError):
    """A stored file or image whose own check fails."""
