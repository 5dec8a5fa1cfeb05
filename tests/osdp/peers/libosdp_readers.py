"""Runs in libosdp's environment: readers made by libosdp, all on the one line that a TCP connection carries.

    libosdp_readers.py PORT  < one JSON object: {"readers": [{"address", "key", "install"}], "file_bytes"}

Then lines on standard input tap cards: `ADDRESS HEX`. What the readers did comes out as JSON lines.
"""

import hashlib
import json
import os
import select
import socket
import sys
import time
from typing import Any

import osdp  # type: ignore[import-not-found]  # the environment of this process has it, ours must not


class Wire(osdp.Channel):  # type: ignore[misc]  # of an untyped package
    """One reader's share of the line: what the panel said, and the way back to it."""

    def __init__(self, line: socket.socket) -> None:
        super().__init__()
        self.line = line
        self.heard = b""

    def read(self, max_bytes: int) -> bytes:
        data, self.heard = self.heard[:max_bytes], self.heard[max_bytes:]
        return data

    def write(self, data: bytes) -> int:
        try:
            self.line.sendall(bytes(data))
        except OSError:
            return 0
        return len(data)

    def flush(self) -> None:
        self.heard = b""


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def file_operations(address: int, size: int) -> dict[str, Any]:
    taken = bytearray(size)

    def write(data: bytes, offset: int) -> int:
        taken[offset : offset + len(data)] = data
        return len(data)

    def close(file_id: int) -> int:
        tell(address=address, file=file_id, digest=hashlib.sha256(taken).hexdigest())
        return 0

    return {"open": lambda _id, _size: 0, "read": lambda _size, _offset: b"", "write": write, "close": close}


def reader(line: socket.socket, wanted: dict[str, Any], file_bytes: int) -> tuple[int, Wire, Any]:
    address, wire = wanted["address"], Wire(line)
    capability = osdp.Capability
    capabilities = osdp.PDCapabilities(
        [
            (capability.OutputControl, 1, 2),
            (capability.LEDControl, 1, 1),
            (capability.AudibleControl, 1, 1),
            (capability.TextOutput, 1, 1),
        ]
    )
    key = bytes.fromhex(wanted["key"]) if wanted["key"] else None
    flags = [osdp.LibFlag.InstallMode] if wanted["install"] else []

    def handle(command: dict[str, Any]) -> tuple[int, None]:
        kept = {name: value.hex() if isinstance(value, bytes) else value for name, value in command.items()}
        tell(address=address, command=kept)
        return 0, None

    device = osdp.PeripheralDevice(
        osdp.PDInfo(address, wire, scbk=key, flags=flags),
        capabilities,
        log_level=osdp.LogLevel.Critical,
        command_handler=handle,
    )
    device.ctx.register_file_ops(0, file_operations(address, file_bytes))
    return address, wire, device


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    readers = [reader(line, one, wanted["file_bytes"]) for one in wanted["readers"]]
    tell(ready=len(readers))
    pending = b""
    while True:
        sources: list[Any] = [line, 0]
        ready, _, _ = select.select(sources, [], [], 0.002)
        if line in ready:
            data = line.recv(4096)
            if not data:
                return
            for _, wire, _ in readers:
                wire.heard += data
        if 0 in ready:
            pending += os.read(0, 4096)
            *lines, pending = pending.split(b"\n")
            for text in lines:
                address, _, card = text.decode().partition(" ")
                event = {"event": osdp.Event.CardRead, "reader_no": 0, "direction": 0}
                event |= {"format": osdp.CardFormat.Wiegand, "length": 4 * len(card), "data": bytes.fromhex(card)}
                device = next(device for at, _, device in readers if at == int(address))
                tell(tapped=bool(device.ctx.submit_event(event)))
        for _, _, device in readers:
            device.ctx.refresh()
        time.sleep(0)


main()
