"""The simulator's control socket: a demo or a person steers a run. JSON, one object a line.

    {"verb": "status"}                                   the figures of `progress`
    {"verb": "thief", "card": 1000007, "rate": 10}       the card is stolen: tapped at random tills from now on
    {"verb": "cut", "seconds": 5, "swallow": false}      the network goes (swallow: bytes vanish instead)
    {"verb": "replace", "terminal": 1003}                the device seals its last record, drains and goes dark …
    {"verb": "install", "terminal": 1003}                … and after `onecard keys replace` the new one boots
    {"verb": "stop"}                                     sell no more; drain, dump, finish

An answer is `{"ok": true, …}` or `{"ok": false, "error": "…"}`. The socket has mode 0600.
"""

from __future__ import annotations

import json
from typing import Any, Final

from protocol.errors import ProtocolError
from protocol.ports import Listener, Network, Stream
from terminal_sim.errors import SimError
from terminal_sim.run import Run

LINE_BYTES_MAX: Final = 4096
CLIENTS_MAX: Final = 16
SECONDS_MAX: Final = 3600
RATE_MAX: Final = 1000


class ControlSocket:
    """Listens from `start` (raises OSError) until `close`."""

    def __init__(self, address: str, *, network: Network, run: Run) -> None:
        self._address = address
        self._network = network
        self.run = run
        self._listener: Listener | None = None
        self.clients: set[_Client] = set()

    def start(self) -> None:
        self._listener = self._network.listen(self._address, lambda: _Client(self))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in list(self.clients):
            client.end()

    def answer(self, line: bytes) -> dict[str, Any]:
        """What one request line gets; never raises for what stands in it."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _no("not JSON")
        if not isinstance(request, dict):
            return _no('write an object such as {"verb": "status"}')
        verb = request.get("verb")
        if verb == "status":
            return {"ok": True} | self.run.figures()
        if verb == "stop":
            self.run.stop()
            return {"ok": True}
        if verb == "cut":
            return self._cut(request)
        if verb == "thief":
            card, rate = request.get("card"), request.get("rate", 10)
            if type(card) is not int or type(rate) is not int or not 1 <= rate <= RATE_MAX:
                return _no(f"card must be a card number, rate a whole number from 1 to {RATE_MAX}")
            why_not = self.run.steal(card, rate)
            return {"ok": True} if why_not is None else _no(why_not)
        if verb in {"replace", "install"}:
            return self._device(verb, request.get("terminal"))
        return _no("verbs are status, thief, cut, replace, install, stop")

    def _device(self, verb: str, terminal: object) -> dict[str, Any]:
        if type(terminal) is not int:
            return _no("terminal must be a terminal's number")
        try:
            why_not = self.run.replace(terminal) if verb == "replace" else self.run.install(terminal)
        except (SimError, ProtocolError, OSError) as error:  # registry or key file
            return _no(str(error))
        return {"ok": True} if why_not is None else _no(why_not)

    def _cut(self, request: dict[str, Any]) -> dict[str, Any]:
        seconds = request.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= SECONDS_MAX:
            return _no(f"seconds must be above 0, at most {SECONDS_MAX}")
        self.run.cut(int(seconds * 1000), swallow=request.get("swallow") is True)
        return {"ok": True}


def _no(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


class _Client:
    """A `StreamHandler`: one connection, any number of requests."""

    def __init__(self, control: ControlSocket) -> None:
        self._control = control
        self._stream: Stream | None = None
        self._waiting = bytearray()

    def connected(self, stream: Stream) -> None:
        self._stream = stream
        if len(self._control.clients) >= CLIENTS_MAX:
            stream.abort()
            return
        self._control.clients.add(self)

    def received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\n")) >= 0:
            line = bytes(self._waiting[:end])
            del self._waiting[: end + 1]
            if self._stream is not None:
                self._stream.write(json.dumps(self._control.answer(line)).encode() + b"\n")
        if len(self._waiting) > LINE_BYTES_MAX and self._stream is not None:
            self._stream.abort()

    def drained(self) -> None:
        """Answers are small; nobody waits for room."""

    def closed(self, error: Exception | None) -> None:
        self._control.clients.discard(self)

    def end(self) -> None:
        if self._stream is not None:
            self._stream.close()
