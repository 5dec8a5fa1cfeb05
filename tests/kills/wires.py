"""The ports of a process, wrapped: what passes through them tells where between two parties a process is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from frontend_server.place import World
from protocol.codes import FrameKind, LinkType
from protocol.ports import Clock, Executor, Files, Listener, Network, Stream, StreamHandler
from tests.kills.disk import Disk
from tests.kills.traps import Moment, Trap

T = TypeVar("T")
FRAME_KIND_OFFSET: Final = 2
LINK_LENGTH_BYTES: Final = 4
LINK_TYPE_OFFSET: Final = 5
LEAVE_MS: Final = 1  # a loop writes to sockets at the end of a turn: after this long the bytes are with the system


class Wires:
    """What the wrapped ports of one process know of each other."""

    def __init__(self, trap: Trap, disk: Disk, clock: Clock) -> None:
        self.trap = trap
        self.disk = disk
        self.clock = clock
        self.is_telling = False
        """What was committed is being told to its terminals."""

    @contextmanager
    def telling(self, *, committed: bool) -> Iterator[None]:
        self.is_telling = committed
        try:
            yield
        finally:
            self.is_telling = False


class TrappedWorld:
    """The ports of a front-end or a ledger; clock, randomness and log are the real ones."""

    def __init__(self, real: World, trap: Trap, disk: Disk, *, after_commit: Moment) -> None:
        self._real = real
        self._after_commit = after_commit
        self._wires = Wires(trap, disk, real.clock)
        self.clock = real.clock
        self.random = real.random
        self.log = real.log
        self.network = TrappedNetwork(real.network, self._wires)
        self.files = TrappedFiles(real.files, trap)

    def executor(self, name: str) -> Executor:
        return TrappedExecutor(self._real.executor(name), self._wires, self._after_commit)

    def on_signal(self, callback: Callable[[], None]) -> None:
        self._real.on_signal(callback)

    def stop(self, exit_code: int = 0) -> None:
        self._real.stop(exit_code)


class TrappedExecutor:
    """Knows work that has committed something, before and while anybody is told."""

    def __init__(self, inner: Executor, wires: Wires, after_commit: Moment) -> None:
        self._inner = inner
        self._wires = wires
        self._after_commit = after_commit

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        wires, committed = self._wires, False

        def watched() -> T:
            nonlocal committed
            result = work()
            committed = wires.disk.took_in()
            if committed:
                wires.trap.passes(self._after_commit, "committed, nobody is told")
            return result

        def told(result: T | None, error: BaseException | None) -> None:
            with wires.telling(committed=committed):
                done(result, error)

        self._inner.submit(watched, told)

    def close(self) -> None:
        self._inner.close()


class TrappedFiles:
    """Appending is what a ledger does with heads, between the commit and the receipt."""

    def __init__(self, inner: Files, trap: Trap) -> None:
        self._inner = inner
        self._trap = trap

    def read(self, path: str) -> bytes | None:
        return self._inner.read(path)

    def replace(self, path: str, data: bytes) -> None:
        self._inner.replace(path, data)

    def append(self, path: str, data: bytes) -> None:
        if self._trap.is_due(Moment.SEND_TO_RECEIPT):
            done = self._trap.torn(len(data))
            if done:
                self._inner.append(path, data[:done])
            self._trap.die(f"committed, {done} of {len(data)} bytes of the head are written")
        self._inner.append(path, data)
        self._trap.passes(Moment.SEND_TO_RECEIPT, "committed, the head is written, no receipt")


class TrappedNetwork:
    """TCP is terminals; local sockets are the link, on either side, and operators."""

    def __init__(self, inner: Network, wires: Wires) -> None:
        self._inner = inner
        self._wires = wires

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        wires, wrap = self._wires, _LedgerSide if address.startswith("/") else _TerminalWire
        return self._inner.listen(address, lambda: wrap(accept(), wires))

    def connect(self, address: str, handler: StreamHandler) -> None:
        self._inner.connect(address, _FrontEndSide(handler, self._wires))


class _Wire:
    """One connection: `StreamHandler` to the real network, `Stream` to the shell."""

    def __init__(self, handler: StreamHandler, wires: Wires) -> None:
        self._handler = handler
        self._wires = wires
        self._trap = wires.trap
        self._stream: Stream | None = None

    def connected(self, stream: Stream) -> None:
        self._stream = stream
        self._handler.connected(self)

    def received(self, data: bytes) -> None:
        self._handler.received(data)

    def drained(self) -> None:
        self._handler.drained()

    def closed(self, error: Exception | None) -> None:
        self._handler.closed(error)

    @property
    def stream(self) -> Stream:
        assert self._stream is not None
        return self._stream

    def write(self, data: bytes) -> None:
        self.stream.write(data)

    def write_buffer_bytes(self) -> int:
        return self.stream.write_buffer_bytes()

    def pause_reading(self) -> None:
        self.stream.pause_reading()

    def resume_reading(self) -> None:
        self.stream.resume_reading()

    def close(self) -> None:
        self.stream.close()

    def abort(self) -> None:
        self.stream.abort()

    def peer(self) -> str:
        return self.stream.peer()


class _TerminalWire(_Wire):
    """A terminal at the front-end: HELLO, CHALLENGE, PROVE, ACCEPT, then what is acknowledged."""

    _is_established = False

    def received(self, data: bytes) -> None:
        if not self._is_established:
            self._trap.passes(Moment.HANDSHAKE, "HELLO or PROVE has come and is not taken")
        super().received(data)

    def write(self, data: bytes) -> None:
        kind = data[FRAME_KIND_OFFSET]
        if not self._is_established and kind in {FrameKind.CHALLENGE, FrameKind.ACCEPT}:
            self._trap.passes(Moment.HANDSHAKE, f"{FrameKind(kind).name} is made and not sent")
            self._is_established = kind == FrameKind.ACCEPT
        elif self._wires.is_telling and kind == FrameKind.SEALED:
            self._trap.passes(Moment.COMMIT_TO_ACK, "committed, an acknowledgement is made and not sent")
        super().write(data)


class _FrontEndSide(_Wire):
    """The link, at the front-end: BATCH goes out, RECEIPT comes in."""

    _is_doomed = False

    def received(self, data: bytes) -> None:
        if self._is_doomed:
            self._trap.die("a batch was sent, the first bytes of an answer have come and are not taken")
        if _first_type(data) == LinkType.RECEIPT:
            self._trap.passes(Moment.SEND_TO_RECEIPT, "a receipt has come and is not taken")
        super().received(data)

    def write(self, data: bytes) -> None:
        super().write(data)
        if _first_type(data) == LinkType.BATCH and self._trap.is_due(Moment.SEND_TO_RECEIPT):
            self._is_doomed = True
            due_ms = self._wires.clock.monotonic_ms() + LEAVE_MS
            self._wires.clock.call_at(due_ms, lambda: self._trap.die("a batch was sent, no receipt has come"))


class _LedgerSide(_Wire):
    """The link, at the ledger (and operators, who get JSON)."""

    def write(self, data: bytes) -> None:
        if _first_type(data) == LinkType.RECEIPT:
            self._trap.passes(Moment.SEND_TO_RECEIPT, "posted, the receipt is made and not sent")
        super().write(data)


def _first_type(data: bytes) -> int:
    """The type of the link message that begins here; 0 where none does."""
    starts = len(data) > LINK_TYPE_OFFSET and data[LINK_LENGTH_BYTES] == 1
    return data[LINK_TYPE_OFFSET] if starts else 0
