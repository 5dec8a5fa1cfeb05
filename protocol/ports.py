"""The seams: what a shell may ask of the world (typing only).

A shell is a set of callback objects against these ports. `onecard_runtime.py` and `onecard_network.py` implement them
with the real clock, sockets, threads and disk; the tests implement them with virtual time from a seed. Callbacks of one
world never run concurrently, except what `Executor.submit` runs on its own thread.

Times: `now_ms` is UTC in milliseconds and may jump; `monotonic_ms` never goes back and is for delays alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    def cancel(self) -> None:
        """Forget the call; harmless when it has run."""


class Clock(Protocol):
    def now_ms(self) -> int:
        """UTC, milliseconds since 1970."""

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment; for delays and deadlines."""

    def call_at(self, monotonic_ms: int, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, not before that moment; a moment in the past means soon, never at once."""


class Random(Protocol):
    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes (in tests: from the seed)."""


class Stream(Protocol):
    """One side of a connected byte stream."""

    def write(self, data: bytes) -> None:
        """Queue bytes; ignored after close. Watch `write_buffer_bytes` for a peer that never reads."""

    def write_buffer_bytes(self) -> int:
        """Bytes queued and not yet taken by the peer's side."""

    def pause_reading(self) -> None:
        """Call `received` no more until `resume_reading`; the peer is slowed by its own full buffers.

        Not from `connected`: a real stream begins to read only after it.
        """

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""

    def close(self) -> None:
        """Send what is queued, then close; idempotent. `closed` follows."""

    def abort(self) -> None:
        """Close now and drop what is queued; idempotent. `closed` follows."""

    def peer(self) -> str:
        """Address of the other side, for logs and caps per address."""


class StreamHandler(Protocol):
    """What a shell implements for one connection."""

    def connected(self, stream: Stream) -> None:
        """Called once, before anything else."""

    def received(self, data: bytes) -> None:
        """Some bytes, in order, at least one."""

    def drained(self) -> None:
        """The write buffer has fallen to nothing after having been large."""

    def closed(self, error: Exception | None) -> None:
        """Called once, last; nothing may be written any more."""


class Listener(Protocol):
    def address(self) -> str:
        """Where it listens, for instance `127.0.0.1:4700` or a socket path."""

    def close(self) -> None:
        """Take no more connections; those open stay."""


class Network(Protocol):
    """Addresses are `host:port`, or an absolute path for a local (AF_UNIX) socket of mode 0600."""

    def listen(self, address: str, accept: Callable[[], StreamHandler]) -> Listener:
        """Bind at once (raises OSError); `accept` is asked for a handler per connection."""

    def connect(self, address: str, handler: StreamHandler) -> None:
        """Try once; `handler.connected` or, without it, `handler.closed(error)` follows later."""


@dataclass(frozen=True, slots=True)
class BusAccess:
    """How a process shows itself to a broker: secrets by path alone, empty for none."""

    user: str = ""
    password_path: str = ""
    ca_path: str = ""
    certificate_path: str = ""
    key_path: str = ""


@dataclass(frozen=True, slots=True)
class BusOpening:
    """What a client states when it connects: nothing of an earlier session is kept for it."""

    client_id: str
    will_topic: str
    will: bytes
    """Published and retained by the broker when this client ends without a word."""
    subscriptions: tuple[str, ...]


class BusHandler(Protocol):
    """What a shell implements for one session on a broker."""

    def opened(self) -> None:
        """Connected, and every subscription granted."""

    def message(self, topic: str, payload: bytes, is_retained: bool) -> None:  # noqa: FBT001 - as it came
        """Something was published; nothing is known of who did."""

    def closed(self, error: Exception | None) -> None:
        """Called once, last, also when it was never opened."""


class BusSession(Protocol):
    """One client's session on a broker (MQTT 3.1.1, QoS 1)."""

    def publish(self, topic: str, payload: bytes, *, retain: bool, done: Callable[[], None]) -> None:
        """Queue a message, in order; ignored after the end. `done` when the broker has it, which settles nothing."""

    def unacknowledged_bytes(self) -> int:
        """Of payloads that the broker has not acknowledged."""

    def close(self) -> None:
        """Send what is queued, then end without the will; idempotent. `closed` follows."""

    def abort(self) -> None:
        """End at once, as a crash would, which has the will published; idempotent. `closed` follows."""


class Bus(Protocol):
    """Brokers; addresses are `mqtt://host:port` and, with TLS, `mqtts://host:port`."""

    def connect(self, address: str, opening: BusOpening, handler: BusHandler) -> BusSession:
        """Try once; `handler.opened` or `handler.closed(error)` follows later."""


class Executor(Protocol):
    """Where blocking work goes: one thread of its own in production, inline under virtual time."""

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `work` after all work submitted before; then `done(result, error)` among the callbacks."""

    def close(self) -> None:
        """Finish what was submitted, then release the thread."""


class Files(Protocol):
    """Small files that must be whole: caches, heads, ready files. Databases take a VFS name instead."""

    def read(self, path: str) -> bytes | None:
        """The whole file, or None if there is none."""

    def replace(self, path: str, data: bytes) -> None:
        """Write beside, sync, rename over, sync the directory: after return the new content is durable."""

    def append(self, path: str, data: bytes) -> None:
        """Append and sync; after return the bytes are durable."""


class Log(Protocol):
    """Structured log: an event name and facts. Never keys, full card numbers or decrypted bytes."""

    def __call__(self, event: str, /, **facts: object) -> None:
        """Record one event."""
