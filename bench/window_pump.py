"""The measured loop where several frames are outstanding on every connection: recovery, and MQTT beside it.

It keeps every connection between half and all of its window, so that the server never waits for it, and otherwise
saves system calls: it rests between two looks as long as about half a window takes to be answered, so that one read
and one write serve several frames.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Sequence
from typing import Final

from bench.children import BenchFailed, cpu_seconds, waited_seconds
from bench.pump import Run

READ_BYTES: Final = 65_536
REST_SECONDS_MIN: Final = 0.0002
REST_SECONDS_MAX: Final = 0.02
REST_GROWS: Final = 1.25
REST_SHRINKS: Final = 0.8
POLL_SECONDS: Final = 0.05
SETTLE_SECONDS_MAX: Final = 20.0


class WindowLine:
    """One connection; subclasses know frames and answers."""

    __slots__ = ("answered", "sent", "socket", "window")

    def __init__(self, connection: socket.socket, window: int) -> None:
        self.socket = connection
        self.window = window
        """Frames that may be outstanding at the moment."""
        self.sent = 0
        """Frames."""
        self.answered = 0
        """Of those; the line's own `take` moves it."""

    def take(self, data: bytes) -> None:
        """Bytes have come: move `answered`, and `window` where the peer says so."""
        raise NotImplementedError

    def frames(self, count: int) -> bytes:
        """The next frames in one piece; raises StopIteration where there are not as many."""
        raise NotImplementedError


class WindowPump:
    """Connections to one server.

    Args:
        server_pid: whose CPU time is reckoned.
    """

    def __init__(self, lines: Sequence[WindowLine], server_pid: int) -> None:
        self._lines = lines
        self._server_pid = server_pid
        self._poll = select.epoll()
        self._by_fd = {line.socket.fileno(): line for line in lines}
        for line in lines:
            line.socket.setblocking(False)
            self._poll.register(line.socket.fileno(), select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        for line in self._lines:
            line.socket.close()

    def run(self, seconds: float) -> Run:
        """One round of that many seconds; frames not sent stay with their lines.

        Raises:
            BenchFailed: an answer is missing afterwards.
        """
        gc.collect()
        gc.disable()
        try:
            run = self._measure(seconds)
        finally:
            gc.enable()
        self._settle()
        return run

    def _measure(self, seconds: float) -> Run:
        lines, by_fd, clock = self._lines, self._by_fd, time.perf_counter
        poll, most = self._poll.poll, len(self._lines)
        before = sum(line.answered for line in lines)
        rest_seconds, ran_out = REST_SECONDS_MIN, False
        cpu, server_cpu, waited = time.process_time(), cpu_seconds(self._server_pid), waited_seconds(self._server_pid)
        started = clock()
        end = started + seconds
        try:
            for line in lines:
                _send(line, line.window)
            while clock() < end:
                freed, events = 0, poll(POLL_SECONDS, most)
                for fd, _ in events:
                    line = by_fd[fd]
                    line.take(line.socket.recv(READ_BYTES))
                    free = line.window - line.sent + line.answered
                    if free > 0:
                        _send(line, free)
                        freed += free
                wanted = len(events) * line.window / 2
                rest_seconds *= REST_GROWS if freed < wanted else REST_SHRINKS
                rest_seconds = min(max(rest_seconds, REST_SECONDS_MIN), REST_SECONDS_MAX)
                time.sleep(rest_seconds)
        except StopIteration:
            ran_out = True
        took = clock() - started
        cpu, server_cpu = time.process_time() - cpu, cpu_seconds(self._server_pid) - server_cpu
        busy = server_cpu + waited_seconds(self._server_pid) - waited
        frames = sum(line.answered for line in lines) - before
        return Run(frames, took, [], cpu / took, server_cpu / took, busy / took, ran_out)

    def _settle(self) -> None:
        """Wait for the answers that are under way."""
        give_up = time.monotonic() + SETTLE_SECONDS_MAX
        while any(line.answered < line.sent for line in self._lines):
            if time.monotonic() > give_up:
                missing = sum(line.sent - line.answered for line in self._lines)
                raise BenchFailed(f"{missing} answers are missing")
            for fd, _ in self._poll.poll(POLL_SECONDS):
                line = self._by_fd[fd]
                line.take(line.socket.recv(READ_BYTES))


def _send(line: WindowLine, count: int) -> None:
    data = line.frames(count)
    if line.socket.send(data) != len(data):
        raise BenchFailed("a socket's buffer is full: the window is too large for this bench")
    line.sent += count
