"""The anchor: a bare echo of the same frames, on the same kind of loop, as a plain Protocol."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from bench.children import config_from_stdin, say
from onecard_runtime import BACKLOG, Runtime, limit_process


class Echo(asyncio.Protocol):
    __slots__ = ("_transport",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


def main() -> None:
    config_from_stdin()
    limit_process()
    runtime = Runtime()  # only for its loop: uvloop where the server has it too

    async def serve() -> None:
        server = await runtime.loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
        host, port = server.sockets[0].getsockname()[:2]
        ended = asyncio.Event()
        runtime.loop.add_reader(sys.stdin.fileno(), ended.set)
        say(address=f"{host}:{port}", loop=type(runtime.loop).__module__)
        await ended.wait()
        runtime.loop.remove_reader(sys.stdin.fileno())
        server.close()

    try:
        runtime.loop.run_until_complete(serve())
    finally:
        runtime.close()


if __name__ == "__main__":
    main()
