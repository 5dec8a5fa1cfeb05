"""The measured loop: one frame outstanding on every connection, for a given time; it only sends and counts.

Nearly all of its time is the kernel's (a plain C loop on the same sockets costs the same), so it saves system calls:

- Edge-triggered epoll reports every arrival once. With one frame outstanding an arrival is a reply, so the next frame
  goes out at once and replies are read later, many at a time (and only before a send: read in between, a reply that
  epoll has not reported yet would never be). After the clock every reply is read, counted in bytes and (where it is an
  ACK) opened, so that nothing was counted which was not there.
- Where few replies have come it rests for a moment, so that one wake-up serves many; and wherever it would use so much
  of its core that the row could claim nothing.
- Arrivals are kept as epoll gave them; latencies are reckoned after the clock.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from bench.children import BenchFailed, cpu_seconds, waited_seconds

EVENTS_MAX: Final = 128  # a batch that stays in the cache
REST_SECONDS: Final = 0.0002  # of about 10 ms that a frame is under way among 1,000
REST_BELOW: Final = 64  # replies at once
REST_FROM_CONNECTIONS: Final = 256  # with fewer outstanding the server would wait for us
GENERATOR_SHARE_MAX: Final = 0.74
"""Of its core: below the share at which a row claims nothing. An echo costs the sender as much as the echo, so that a
saturated one would have a saturated generator; it is slowed down, and the row reckons with the echo's share."""
REPLIES_UNREAD: Final = 48  # a connection; a few KB, far below any window
READ_BYTES: Final = 65_536
SETTLE_SECONDS_MAX: Final = 20.0
POLL_SECONDS: Final = 0.05


@dataclass(slots=True)
class Run:
    """One round."""

    frames: int
    """Replies that came within the time."""
    seconds: float
    latencies_ms: list[float]
    """Sorted; empty where several frames are outstanding."""
    generator_cpu: float
    """Share of the generator's core."""
    server_cpu: float
    """Share of the server's core."""
    server_busy: float
    """Share of the time in which the server had something to do: on its core, or waiting for it behind other work."""
    ran_out: bool
    """There were no more frames before the time was up; the time ends there."""

    @property
    def rate(self) -> float:
        return self.frames / self.seconds

    @property
    def server_us(self) -> float:
        """CPU time of the server process for one frame."""
        return self.server_cpu * self.seconds / max(self.frames, 1) * 1e6

    @property
    def generator_us(self) -> float:
        return self.generator_cpu * self.seconds / max(self.frames, 1) * 1e6

    def percentile_ms(self, share: float) -> float:
        """0.5 is the median."""
        return self.latencies_ms[min(int(share * len(self.latencies_ms)), len(self.latencies_ms) - 1)]

    def as_json(self) -> dict[str, float | bool]:
        facts: dict[str, float | bool] = {
            "per_second": self.rate,
            "server_us": self.server_us,
            "server_cpu": self.server_cpu,
            "server_busy": self.server_busy,
            "generator_us": self.generator_us,
            "generator_cpu": self.generator_cpu,
            "ran_out": self.ran_out,
        }
        if self.latencies_ms:
            facts |= {"p50_ms": self.percentile_ms(0.50), "p99_ms": self.percentile_ms(0.99)}
        return facts


class Line:
    """One connection as the pump sees it."""

    __slots__ = ("frames", "replies", "sent", "socket")

    def __init__(self, connection: socket.socket, frames: list[bytes], replies: list[bytes] | None) -> None:
        self.socket = connection
        self.frames = frames
        """Sent in order and taken out; or, where `replies` is None, sent over and over."""
        self.replies = replies
        """Filled with what is read; None: only counted."""
        self.sent = 0


class Pump:
    """Connections to one server.

    Args:
        server_pid: whose CPU time is reckoned.
        reply_bytes: of one reply; every frame gets one.
    """

    def __init__(self, lines: list[Line], server_pid: int, reply_bytes: int) -> None:
        self._lines = lines
        self._server_pid = server_pid
        self._reply_bytes = reply_bytes
        self._poll = select.epoll()
        highest = max(line.socket.fileno() for line in lines)
        self._by_fd: list[Line | None] = [None] * (highest + 1)
        for line in lines:
            line.socket.setblocking(False)
            self._by_fd[line.socket.fileno()] = line
            self._poll.register(line.socket.fileno(), select.EPOLLIN | select.EPOLLET)
        self._unread_bytes = 0

    def close(self) -> None:
        self._poll.close()
        for line in self._lines:
            line.socket.close()

    def run(self, seconds: float) -> Run:
        """One round of that many seconds; frames not sent stay with their lines.

        Raises:
            BenchFailed: a reply is missing afterwards.
        """
        nobody: Callable[[], bytes] = bytes
        next_frame = [nobody] * len(self._by_fd)
        iterators = []
        for line in self._lines:
            frames = iter(line.frames) if line.replies is not None else cycle(line.frames)
            iterators.append(frames)
            next_frame[line.socket.fileno()] = frames.__next__
        gc.collect()
        gc.disable()
        try:
            run = self._measure(seconds, next_frame)
        finally:
            gc.enable()
        for line, frames in zip(self._lines, iterators, strict=True):
            if line.replies is not None:
                line.frames[:] = list(frames)
        self._settle()
        return run

    def _measure(self, seconds: float, next_frame: list[Callable[[], bytes]]) -> Run:
        send = [None if line is None else line.socket.send for line in self._by_fd]
        poll, clock, read = self._poll.poll, time.perf_counter, self._read
        rests = len(self._lines) >= REST_FROM_CONNECTIONS
        unread, unread_max = [0] * len(self._by_fd), REPLIES_UNREAD if rests else 1
        arrivals: list[tuple[float, list[tuple[int, int]]]] = []
        ran_out, fd = False, -1
        cpu, server_cpu, waited = time.process_time(), cpu_seconds(self._server_pid), waited_seconds(self._server_pid)
        started = clock()
        end = started + seconds
        for line in self._lines:
            line.socket.send(next_frame[line.socket.fileno()]())
        while True:
            events = poll(POLL_SECONDS, EVENTS_MAX)
            now = clock()
            if now >= end:
                break
            try:
                for fd, _ in events:
                    unread[fd] += 1
                    if unread[fd] >= unread_max:
                        unread[fd] = 0
                        read(fd)
                    send[fd](next_frame[fd]())  # type: ignore[misc]  # every fd that polls has a line
            except StopIteration:
                answered = [each for each, _ in events].index(fd)
                arrivals.append((now, events[:answered]))
                ran_out = True
                break
            arrivals.append((now, events))
            if rests:
                ahead_seconds = (time.process_time() - cpu) / GENERATOR_SHARE_MAX - (clock() - started)
                if ahead_seconds > REST_SECONDS or len(events) < REST_BELOW:
                    time.sleep(max(ahead_seconds, REST_SECONDS))
        took = clock() - started
        cpu, server_cpu = time.process_time() - cpu, cpu_seconds(self._server_pid) - server_cpu
        busy = server_cpu + waited_seconds(self._server_pid) - waited
        latencies_ms = self._latencies_ms(arrivals, started)
        for line in self._lines:
            line.sent += 1
            self._unread_bytes += self._reply_bytes
        return Run(len(latencies_ms), took, latencies_ms, cpu / took, server_cpu / took, busy / took, ran_out)

    def _read(self, fd: int) -> None:
        line = self._by_fd[fd]
        assert line is not None
        try:
            data = line.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        self._unread_bytes -= len(data)
        if line.replies is not None:
            line.replies.append(data)

    def _latencies_ms(self, arrivals: list[tuple[float, list[tuple[int, int]]]], started: float) -> list[float]:
        """From the moment a frame was sent to the moment its reply was seen; both are moments of a batch."""
        sent_at = [started] * len(self._by_fd)
        latencies_ms: list[float] = []
        for now, events in arrivals:
            for fd, _ in events:
                latencies_ms.append((now - sent_at[fd]) * 1000)
                sent_at[fd] = now
                line = self._by_fd[fd]
                assert line is not None
                line.sent += 1
            self._unread_bytes += self._reply_bytes * len(events)
        latencies_ms.sort()
        return latencies_ms

    def _settle(self) -> None:
        """Wait for the replies that are under way, and read all; their number must be that of the frames sent."""
        give_up = time.monotonic() + SETTLE_SECONDS_MAX
        while self._unread_bytes > 0 and time.monotonic() < give_up:
            for line in self._lines:
                self._read(line.socket.fileno())
            time.sleep(0.001)
        if self._unread_bytes:
            raise BenchFailed(f"{self._unread_bytes} bytes of replies are missing, or too many came")
