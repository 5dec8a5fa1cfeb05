"""REQUESTs of front-ends and their ANSWERs: what has expired is dropped and counted, what is unknown is said so.

An answer goes out when the ledger had its turn, so an echo measures the way through broker, link and ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ledger_sync.ledger.wires import FrontEndWire
from protocol.codes import AnswerStatus, RequestKind
from protocol.link_messages import Answer, Request
from protocol.ports import Clock

REQUESTS_OUTSTANDING_MAX: Final = 256  # of one front-end; as many as its side lets wait

OnLedger = Callable[[Callable[[Any], None], Callable[[None, BaseException | None], None]], None]


class Answering:
    """Args: on_ledger: the ledger's executor; send: signs and sends."""

    def __init__(self, *, clock: Clock, on_ledger: OnLedger, send: Callable[[FrontEndWire, Answer], None]) -> None:
        self._clock = clock
        self._on_ledger = on_ledger
        self._send = send
        self.answered = 0
        self.expired = 0

    def asked(self, wire: FrontEndWire, request: Request) -> None:
        if self._is_expired(request):
            return
        if request.kind != RequestKind.ECHO:
            self._answer(wire, request, AnswerStatus.UNKNOWN_KIND)
            return
        if wire.requests_outstanding >= REQUESTS_OUTSTANDING_MAX:
            self._answer(wire, request, AnswerStatus.TRY_LATER)
            return
        wire.requests_outstanding += 1

        def had_its_turn(_: None, error: BaseException | None) -> None:
            wire.requests_outstanding -= 1
            if self._is_expired(request):
                return
            if error is not None:
                self._answer(wire, request, AnswerStatus.TRY_LATER)
            else:
                self._answer(wire, request, AnswerStatus.DONE, request.body)

        self._on_ledger(lambda _: None, had_its_turn)

    def _answer(self, wire: FrontEndWire, request: Request, status: AnswerStatus, body: bytes = b"") -> None:
        self.answered += 1
        self._send(wire, Answer(request.correlation, request.expires_ms, request.kind, status, body))

    def _is_expired(self, request: Request) -> bool:
        if request.expires_ms > self._clock.now_ms():
            return False
        self.expired += 1
        return True
