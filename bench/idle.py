"""Connections that do nothing: as many as are wanted, to an intake (logged in) or to an echo (one frame and back)."""

from __future__ import annotations

from typing import Any, Final

from bench.children import BenchFailed, config_from_stdin, requests, say
from bench.site import BenchSite
from bench.terminals import connect, logged_in
from onecard_runtime import limit_process

FRAME_BYTES: Final = 128  # about that of goal 1


def opened(config: dict[str, Any]) -> list[Any]:
    """What keeps the connections open; whatever it is has a `socket`, or is one."""
    if config["site"] is not None:
        return [terminal.socket for terminal in logged_in(BenchSite(**config["site"]), config["address"])]
    sockets = [connect(config["address"], number) for number in range(config["connections"])]
    for each in sockets:
        each.sendall(bytes(FRAME_BYTES))
    for each in sockets:
        if len(each.recv(FRAME_BYTES)) != FRAME_BYTES:
            raise BenchFailed("the echo does not answer")
    return sockets


def main() -> None:
    config = config_from_stdin()
    limit_process()
    sockets: list[Any] = []
    try:
        sockets = opened(config)
        say(connections=len(sockets))
        for _ in requests():
            pass
    except (BenchFailed, OSError) as error:
        say(error=str(error))
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    main()
