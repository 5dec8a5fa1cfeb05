"""Messages inside sealed frames: dispatch by type (docs/protocol.md §6). The module to import from.

`decode_up` is a front-end's, `decode_down` a terminal's. Both raise Malformed for an empty body, an unknown or
reserved type, a wrong length, a reserved field that is not zero and a value that its field's description excludes;
and nothing else, whatever the bytes. Every message has `encode() -> bytes`, which raises OutOfRange.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from protocol.codes import MessageType
from protocol.errors import Malformed
from protocol.layout import Buffer
from protocol.messages_down import (
    CERTIFICATE_BYTES,
    LIST_CHUNK_HEAD_BYTES,
    LIST_OFFER_HEAD_BYTES,
    Ack,
    ByeDown,
    DownMessage,
    ListChunk,
    ListOffer,
    Recollect,
    SealQuery,
    Time,
    plain_ack,
)
from protocol.messages_up import (
    CLOCK_NEVER_SET,
    HEAD_BYTES,
    LIST_STALE,
    MEMORY_80_PERCENT,
    MEMORY_FULL,
    NO_HEAD,
    NO_SEAL,
    Baseline,
    BaselineEntry,
    ByeUp,
    Heartbeat,
    ListState,
    SealAnswer,
    Tombstone,
    Upload,
    UpMessage,
)

__all__ = [
    "CERTIFICATE_BYTES",
    "CLOCK_NEVER_SET",
    "HEAD_BYTES",
    "LIST_CHUNK_HEAD_BYTES",
    "LIST_OFFER_HEAD_BYTES",
    "LIST_STALE",
    "MEMORY_80_PERCENT",
    "MEMORY_FULL",
    "NO_HEAD",
    "NO_SEAL",
    "Ack",
    "Baseline",
    "BaselineEntry",
    "ByeDown",
    "ByeUp",
    "DownMessage",
    "Heartbeat",
    "ListChunk",
    "ListOffer",
    "ListState",
    "Recollect",
    "SealAnswer",
    "SealQuery",
    "Time",
    "Tombstone",
    "UpMessage",
    "Upload",
    "decode_down",
    "decode_up",
    "plain_ack",
]

_UP: Final[Mapping[int, Callable[[Buffer], UpMessage]]] = {
    int(MessageType.BASELINE): Baseline.decode,
    int(MessageType.UPLOAD): Upload.decode,
    int(MessageType.SEAL_ANSWER): SealAnswer.decode,
    int(MessageType.TOMBSTONE): Tombstone.decode,
    int(MessageType.HEARTBEAT): Heartbeat.decode,
    int(MessageType.LIST_STATE): ListState.decode,
    int(MessageType.BYE_UP): ByeUp.decode,
}
_DOWN: Final[Mapping[int, Callable[[Buffer], DownMessage]]] = {
    int(MessageType.SEAL_QUERY): SealQuery.decode,
    int(MessageType.ACK): Ack.decode,
    int(MessageType.RECOLLECT): Recollect.decode,
    int(MessageType.TIME): Time.decode,
    int(MessageType.LIST_OFFER): ListOffer.decode,
    int(MessageType.LIST_CHUNK): ListChunk.decode,
    int(MessageType.BYE_DOWN): ByeDown.decode,
}


def decode_up(body: Buffer) -> UpMessage:
    """The message of a terminal in `body`, which it owns afterwards (no view into `body` is kept)."""
    decode = _UP.get(body[0]) if body else None
    if decode is None:
        raise Malformed("message", f"type {body[0]:02x} does not go up" if body else "empty body", offset=0)
    return decode(body)


def decode_down(body: Buffer) -> DownMessage:
    """The message of a front-end in `body`, which it owns afterwards (no view into `body` is kept)."""
    decode = _DOWN.get(body[0]) if body else None
    if decode is None:
        raise Malformed("message", f"type {body[0]:02x} does not go down" if body else "empty body", offset=0)
    return decode(body)
