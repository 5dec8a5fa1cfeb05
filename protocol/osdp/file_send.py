"""One file on its way to a reader: fragments of the size and at the pace that the reader asks for."""

from __future__ import annotations

from typing import Final

from protocol.errors import OutOfRange
from protocol.osdp.codes import FileFlag, FileStatus
from protocol.osdp.commands import FILE_HEAD_BYTES, FileTransfer
from protocol.osdp.limits import FILE_BYTES_MAX, FILE_WAIT_MS_MAX, PACKET_BYTES_DEFAULT, PACKET_BYTES_MAX
from protocol.osdp.packet import HEADER_BYTES, MAC_BYTES
from protocol.osdp.replies import FileState
from protocol.osdp.secure_channel import BLOCK_BYTES

_AROUND_SEALED: Final = HEADER_BYTES + 2 + 1 + MAC_BYTES + 2  # header, security block, code, MAC, CRC
_FINISHING_PAUSE_MS: Final = 100


def fragment_bytes(packet_bytes_max: int) -> int:
    """How much of a file fits into a sealed packet of that size, padding included; the same in clear."""
    sealed = (packet_bytes_max - _AROUND_SEALED) // BLOCK_BYTES * BLOCK_BYTES
    return max(1, sealed - 1 - FILE_HEAD_BYTES)


class FileSender:
    """`next_fragment` when `due_ms` has come and nothing is on its way; `take` with the answer."""

    def __init__(self, ticket: int, file_type: int, data: bytes, packet_bytes_max: int, now_ms: int) -> None:
        if not 0 < len(data) <= FILE_BYTES_MAX:
            raise OutOfRange(f"a file of {len(data)} bytes, {FILE_BYTES_MAX} at most")
        self.ticket = ticket
        self.due_ms = now_ms
        self.exclusive = False
        """The reader takes no other command between two fragments."""
        self.poll_first = False
        """The reader has something to tell at the next poll."""
        self.sent_bytes = 0
        self._type = file_type
        self._data = data
        self._packet_bytes_max = packet_bytes_max
        self._on_its_way = 0
        self._progress_ms = now_ms

    @property
    def total_bytes(self) -> int:
        return len(self._data)

    def next_fragment(self) -> FileTransfer:
        """The next piece; an empty one while the reader is finishing."""
        size = fragment_bytes(self._packet_bytes_max)
        piece = self._data[self.sent_bytes : self.sent_bytes + size]
        self._on_its_way = len(piece)
        return FileTransfer(self._type, len(self._data), self.sent_bytes, piece)

    def take(self, state: FileState, now_ms: int) -> str | None:
        """Go on with what the reader says; None while the transfer lasts, `""` when it is done, else why it failed."""
        self.exclusive = not state.flags & FileFlag.INTERLEAVE
        self.poll_first = bool(state.flags & FileFlag.POLL_REPLY)
        if state.status < 0:
            return f"the reader ended the transfer with {state.status}"
        if state.status not in {FileStatus.GO_ON, FileStatus.DONE, FileStatus.REBOOTING, FileStatus.FINISHING}:
            return f"a status that the standard has not: {state.status}"
        if self._on_its_way:
            self.sent_bytes += self._on_its_way
            self._progress_ms = now_ms
        if state.receive_bytes:
            self._packet_bytes_max = max(PACKET_BYTES_DEFAULT, min(state.receive_bytes, PACKET_BYTES_MAX))
        self.due_ms = now_ms + state.delay_ms
        if self.sent_bytes < len(self._data):
            return None if state.status in {FileStatus.GO_ON, FileStatus.FINISHING} else "done before its end"
        if state.status != FileStatus.FINISHING:
            return ""
        self.due_ms = now_ms + max(state.delay_ms, _FINISHING_PAUSE_MS)
        return None if now_ms - self._progress_ms < FILE_WAIT_MS_MAX else "the reader does not come to an end"
