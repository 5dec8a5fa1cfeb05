"""A peer as a process of its own at the far end of a TCP connection; our core, with the real clock, at this end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

PATIENCE_S: Final = 30
HERE: Final = Path(__file__).parent


class Core(Protocol):
    """What both ends of an OSDP line have."""

    def take_output(self) -> bytes: ...

    def next_deadline_ms(self) -> int | None: ...


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Peer:
    """`run` drives our side until a condition holds; what the peer told is in `told`."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self.process = process
        self.line = line
        self.told: list[dict[str, Any]] = []
        self._text = b""

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def facts(self, name: str) -> list[Any]:
        """What it told under this name."""
        return [told[name] for told in self.told if name in told]

    def run(
        self,
        core: Core,
        receive: Callable[[bytes, int], object],
        tick: Callable[[int], object],
        until: Callable[[], bool],
        seconds: float = PATIENCE_S,
    ) -> bool:
        """Whether `until` came true within `seconds`."""
        assert self.process.stdout is not None
        said = self.process.stdout.fileno()
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                return False
            tick(now_ms())
            data = core.take_output()
            if data:
                self.line.sendall(data)
            deadline = core.next_deadline_ms()
            wait_ms = 20 if deadline is None else min(20, max(0, deadline - now_ms()))
            sources: list[Any] = [self.line, said]
            ready, _, _ = select.select(sources, [], [], wait_ms / 1000)
            if self.line in ready:
                data = self.line.recv(65_536)
                assert data, f"the peer has gone: {self.told[-3:]}"
                receive(data, now_ms())
            if said in ready:
                chunk = os.read(said, 65_536)
                assert chunk, f"the peer has ended: {self.told[-3:]}"
                *lines, self._text = (self._text + chunk).split(b"\n")
                self.told += [json.loads(line) for line in lines if line.startswith(b"{")]
        return True


@contextlib.contextmanager
def peer(python: Path, script: str, wanted: dict[str, Any]) -> Iterator[Peer]:
    """Start a peer, give it its wishes, take its connection; it is ended in any case."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        process = subprocess.Popen(
            [str(python), "-u", str(HERE / script), str(server.getsockname()[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(wanted).encode() + b"\n")
            process.stdin.flush()
            line, _ = server.accept()
            with line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield Peer(process, line)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
