"""One conversation of a front-end with the ledger, without I/O (docs/protocol.md §11, R16).

    link = FrontEndLink(hello, batch_key=…, root_public_key=…, site=…)     LINK_HELLO is queued at once
    for event in link.receive(data, now_ms):       Welcome first; nothing of the ledger counts before it
    link.send(message)                             only in state UP
    stream.write(link.take_output())
    if link.state is LinkState.CLOSED:             `failure` says why

What is passed on has been verified: the certificate by the root's public key, everything signed by the certified key.
LIST carries no proof of its own, its head does; whoever takes a list verifies that head. `now_ms` is UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from protocol.errors import ProofError, ProtocolError, RemoteError, StateMisuse, UnexpectedMessage, kept
from protocol.link_messages import (
    DownMessage,
    LinkDecoder,
    LinkHello,
    LinkWelcome,
    Refusal,
    UpMessage,
    decode_down,
    encode_up,
    verify_down,
)
from protocol.mac import MacKey
from protocol.signed import Certificate, verify_certificate


class LinkState(Enum):
    GREETING = "greeting"
    UP = "up"
    CLOSED = "closed"


TRANSITIONS: Final[Mapping[LinkState, frozenset[LinkState]]] = {
    LinkState.GREETING: frozenset({LinkState.UP, LinkState.CLOSED}),
    LinkState.UP: frozenset({LinkState.CLOSED}),
    LinkState.CLOSED: frozenset(),
}


class FrontEndLink:
    """Sans-IO; one object per connection."""

    def __init__(self, hello: LinkHello, *, batch_key: MacKey, root_public_key: bytes, site: int) -> None:
        self.state = LinkState.GREETING
        self.failure: ProtocolError | None = None
        self._batch_key = batch_key
        self._root_public_key = root_public_key
        self._site = site
        self._nonce = hello.nonce
        self._ledger_public_key = b""
        self._decoder = LinkDecoder()
        self._output = [encode_up(hello, batch_key)]

    def send(self, message: UpMessage) -> None:
        """Queue one message; raises StateMisuse before LINK_WELCOME and after the end."""
        if self.state is not LinkState.UP:
            raise StateMisuse(f"nothing can be sent while {self.state.value}")
        self._output.append(encode_up(message, self._batch_key))

    def take_output(self) -> bytes:
        """The bytes to send now; each is given out once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def receive(self, data: bytes, now_ms: int) -> list[DownMessage]:
        """The verified messages that `data` completes, in order; never raises for the ledger's bytes."""
        events: list[DownMessage] = []
        if self.state is LinkState.CLOSED:
            return events
        try:
            self._decoder.receive_data(data)
            for payload in self._decoder.payloads():
                events.append(self._take(payload, now_ms))  # noqa: PERF401 - those before an error count
        except RemoteError as error:
            self.failure = kept(error)
            self._go(LinkState.CLOSED)
        return events

    def _take(self, payload: bytes, now_ms: int) -> DownMessage:
        message = decode_down(payload)
        if self.state is LinkState.GREETING:
            if isinstance(message, LinkWelcome):
                self._greet(payload, message, now_ms)
            elif not isinstance(message, Refusal):
                raise UnexpectedMessage(f"{type(message).__name__} before LINK_WELCOME")
        elif isinstance(message, LinkWelcome):
            raise UnexpectedMessage("a second LINK_WELCOME")
        else:
            verify_down(payload, self._ledger_public_key)
        return message

    def _greet(self, payload: bytes, welcome: LinkWelcome, now_ms: int) -> None:
        certificate = Certificate.decode(welcome.certificate)
        verify_certificate(certificate, self._root_public_key, self._site, now_ms)
        verify_down(payload, certificate.public_key)
        if welcome.nonce != self._nonce:
            raise ProofError("LINK_WELCOME answers another LINK_HELLO")
        if welcome.site != self._site:
            raise ProofError(f"LINK_WELCOME of site {welcome.site}, this is site {self._site}")
        self._ledger_public_key = certificate.public_key
        self._go(LinkState.UP)

    def _go(self, state: LinkState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state
