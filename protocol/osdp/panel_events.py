"""What a control panel is told about its readers, and told to use for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.errors import OutOfRange
from protocol.osdp.commands import Command
from protocol.osdp.limits import ADDRESS_MAX, KEY_BYTES, REPLY_MS_SHARED
from protocol.osdp.replies import Capabilities, Identity, Reply


@dataclass(slots=True)
class ReaderConfig:
    """One reader of a bus. A reader without a key is spoken to in clear only where `in_clear` says so."""

    name: str
    address: int
    baud: int = 9600
    base_key: bytes | None = field(default=None, repr=False)
    """The reader's own SCBK."""
    next_key: bytes | None = field(default=None, repr=False)
    """The key it shall have: stored durably by the caller before it is set here, until `KeyProved`."""
    install_until_ms: int | None = None
    """Until then the default key is tried too: the window in which a new reader gets its first key."""
    in_clear: bool = False
    uses_crc: bool = True
    reply_ms_max: int = REPLY_MS_SHARED

    def __post_init__(self) -> None:
        for key in (self.base_key, self.next_key):
            if key is not None and len(key) != KEY_BYTES:
                raise OutOfRange(f"a key of {len(key)} bytes")
        keyed = self.base_key or self.next_key or self.install_until_ms is not None
        if not 0 <= self.address <= ADDRESS_MAX or bool(keyed) == self.in_clear:
            raise OutOfRange(f"reader {self.name}: address {self.address}, and either a key or `in_clear`")


@dataclass(frozen=True, slots=True)
class ReaderOnline:
    reader: str
    secure: bool
    by_default_key: bool
    identity: Identity
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class ReaderOffline:
    reader: str
    reason: str


@dataclass(frozen=True, slots=True)
class SecurityFailed:
    """The reader does not prove itself, or does not do the secure channel: it is not spoken to in clear instead."""

    reader: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReaderEvent:
    """Something happened at a reader. It gets no further command before `confirm` says that this is durable (R41)."""

    reader: str
    number: int
    reply: Reply
    perhaps_repeated: bool
    """The session was lost before the reader could know that the panel has its last event, and this one is equal."""


@dataclass(frozen=True, slots=True)
class CommandDone:
    reader: str
    ticket: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """`unknown` where the command may have been executed: the session ended before its answer."""

    reader: str
    ticket: int
    reason: str
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class KeyAccepted:
    """The reader says that it has the next key; both keys stay until `KeyProved`."""

    reader: str


@dataclass(frozen=True, slots=True)
class KeyProved:
    """The reader has proved the next key: it is the base key now, and the caller may forget the old one."""

    reader: str


@dataclass(frozen=True, slots=True)
class CommunicationSet:
    """Where the reader was found after COMSET; `rolled_back` when at its old settings."""

    reader: str
    address: int
    baud: int
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class FileProgress:
    reader: str
    ticket: int
    sent_bytes: int
    total_bytes: int


PanelEvent = (
    ReaderOnline
    | ReaderOffline
    | SecurityFailed
    | ReaderEvent
    | CommandDone
    | CommandFailed
    | KeyAccepted
    | KeyProved
    | CommunicationSet
    | FileProgress
)


@dataclass(slots=True)
class Queued:
    """One command of the caller on its way."""

    ticket: int
    command: Command
    expires_ms: int | None = None


@dataclass(slots=True)
class LinkCounters:
    polls: int = 0
    repeats: int = 0
    silences: int = 0
    naks: int = 0
    busy: int = 0
    refused: int = 0
    """Replies in clear, with a wrong MAC, or a proof that fails, where a secure channel is owed."""
    strays: int = 0
    """Replies with another sequence number, or to nothing that was asked."""
    gap_ms_max: int = 0
    """Longest time between two answers while the reader was online."""
