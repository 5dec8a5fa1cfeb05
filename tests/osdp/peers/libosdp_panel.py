"""Runs in libosdp's environment: libosdp's control panel on a TCP connection, with one reader at the other end.

    libosdp_panel.py PORT  < one JSON object: {"address", "key", "secure"}; not `secure` may fall back on less

Then JSON lines on standard input are commands to submit (`file` in hex sends one). Events and states come out as JSON.
"""

import json
import os
import select
import socket
import sys
from typing import Any

import osdp  # type: ignore[import-not-found]  # the environment of this process has it, ours must not


class Wire(osdp.Channel):  # type: ignore[misc]  # of an untyped package
    def __init__(self, line: socket.socket) -> None:
        super().__init__()
        self.line = line

    def read(self, max_bytes: int) -> bytes:
        try:
            return self.line.recv(max_bytes)
        except OSError:
            return b""

    def write(self, data: bytes) -> int:
        try:
            self.line.sendall(bytes(data))
        except OSError:
            return 0
        return len(data)

    def flush(self) -> None:
        self.read(65_536)


def tell(**facts: Any) -> None:
    print(json.dumps(facts, default=lambda value: bytes(value).hex()), flush=True)


def submit(panel: Any, text: bytes) -> None:
    command = json.loads(text)
    data = command.pop("file", None)
    if data is not None:
        content = bytes.fromhex(data)
        panel.ctx.register_file_ops(
            0,
            {
                "open": lambda _id, _size: len(content),
                "read": lambda size, offset: content[offset : offset + size],
                "write": lambda _data, _offset: -1,
                "close": lambda file_id: tell(file=file_id) or 0,  # type: ignore[func-returns-value]  # 0 either way
            },
        )
    if "key" in command:
        command["data"] = bytes.fromhex(command.pop("key"))
    command["command"] = getattr(osdp.Command, command["command"])
    tell(submitted=bool(panel.ctx.submit_command(0, command)))


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setblocking(False)
    key = bytes.fromhex(wanted["key"]) if wanted["key"] else None
    flags = [osdp.LibFlag.EnforceSecure] if wanted["secure"] else []
    panel = osdp.ControlPanel(
        [osdp.PDInfo(wanted["address"], Wire(line), scbk=key, flags=flags)],
        log_level=osdp.LogLevel.Critical,
        event_handler=lambda _reader, event: tell(event=event) or 0,  # type: ignore[func-returns-value]  # 0 either way
        command_completion_handler=lambda _at, command, status: tell(done=command, status=status),
    )
    state, pending = None, b""
    while True:
        sources: list[Any] = [line, 0]
        ready, _, _ = select.select(sources, [], [], 0.005)
        if 0 in ready:
            data = os.read(0, 1 << 18)
            if not data:
                return
            pending += data
            *lines, pending = pending.split(b"\n")
            for text in lines:
                submit(panel, text)
        panel.ctx.refresh()
        now = (panel.ctx.status(), panel.ctx.sc_status())
        if now != state:
            state = now
            tell(online=bool(now[0]), secure=bool(now[1]))


main()
