"""The panel's side of the secure channel's handshake: which key is tried, and what the reader has to prove."""

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from protocol.errors import ProofError
from protocol.osdp.codes import CommandCode, ScsType
from protocol.osdp.packet import Packet
from protocol.osdp.panel_events import ReaderConfig
from protocol.osdp.replies import ClientCryptogram, InitialReplyMac
from protocol.osdp.secure_channel import SCBK_DEFAULT, Channel, SessionKeys

_OWN: Final = 1
_DEFAULT: Final = 0


class PanelHandshake:
    """One attempt after another; `by_default` says which kind of key the present one is about."""

    def __init__(self, config: ReaderConfig) -> None:
        self._config = config
        self._kind = _OWN
        self._random = b""
        self._keys: SessionKeys | None = None
        self._server_cryptogram = b""
        self.by_next_key = False
        """The reader has proved the next key, not the base key."""

    @property
    def by_default(self) -> bool:
        return self._kind == _DEFAULT

    def window_open(self, now_ms: int) -> bool:
        """Whether the default key may be used."""
        until_ms = self._config.install_until_ms
        return until_ms is not None and now_ms < until_ms

    def start(self, random: bytes, now_ms: int) -> bool:
        """Choose what to try now; False if there is no key to try."""
        own = self._config.base_key is not None or self._config.next_key is not None
        if self._kind == _OWN and not own:
            self._kind = _DEFAULT
        if self._kind == _DEFAULT and not self.window_open(now_ms):
            self._kind = _OWN
            if not own:
                return False
        self._random = random
        self._keys = None
        return True

    def failed(self) -> None:
        """The other kind of key is the next one to try."""
        self._kind = _DEFAULT if self._kind == _OWN else _OWN

    def prefer_own(self) -> None:
        """The reader has a key of its own now: the default key is out of the question."""
        self._kind = _OWN

    def challenge(self) -> tuple[int, bytes, bytes]:
        """Code, security block and data of CHLNG."""
        return CommandCode.CHLNG, bytes((ScsType.CHLNG, self._kind)), self._random

    def take_proof(self, packet: Packet, proof: ClientCryptogram) -> None:
        """Find the key that the reader's cryptogram proves.

        Raises:
            ProofError: none of those it may have, or another kind of key than was asked for.
        """
        if packet.block != bytes((ScsType.CCRYPT, self._kind)):
            raise ProofError("the reader answers with another kind of key than it was asked for")
        config = self._config
        candidates = (SCBK_DEFAULT,) if self.by_default else (config.next_key, config.base_key)
        for key in candidates:
            if key is None:
                continue
            keys = SessionKeys.derive(key, self._random)
            if compare_digest(keys.client_cryptogram(self._random, proof.random), proof.cryptogram):
                self._keys = keys
                self._server_cryptogram = keys.server_cryptogram(self._random, proof.random)
                self.by_next_key = not self.by_default and key == config.next_key
                return
        raise ProofError("the reader's cryptogram is not one of its key")

    def answer(self) -> tuple[int, bytes, bytes]:
        """Code, security block and data of SCRYPT."""
        return CommandCode.SCRYPT, bytes((ScsType.SCRYPT, self._kind)), self._server_cryptogram

    def establish(self, packet: Packet, first: InitialReplyMac) -> Channel:
        """The session, once the reader has accepted the panel's cryptogram.

        Raises:
            ProofError: the first reply MAC is wrong, or the reader says that it did not accept.
        """
        keys = self._keys
        if keys is None or packet.block != bytes((ScsType.RMAC_I, 1)):
            raise ProofError("the reader has not accepted the panel's cryptogram")
        expected = keys.initial_reply_mac(self._server_cryptogram)
        if not compare_digest(expected, first.mac):
            raise ProofError("the first reply MAC is wrong")
        return Channel(keys, expected, reader=False)
