"""Handshake messages, transcript, proofs and session keys (docs/protocol.md §2 and §4, R32). Pure, stateless.

    HELLO      terminal → front-end  32 bytes   CHALLENGE  front-end → terminal  32 bytes
    PROVE      terminal → front-end  16 bytes   ACCEPT     front-end → terminal  16 bytes
    REFUSE     front-end → terminal   4 bytes

The order of the messages is `protocol.session`'s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from protocol.codes import TERMINAL_KIND_MAX, Medium, RefuseCode, Role, Suite, TerminalClass
from protocol.errors import Downgrade, Malformed, OutOfRange
from protocol.limits import BODY_BYTES_MIN
from protocol.mac import MAC_BYTES, MacKey, derive

HELLO: Final = struct.Struct("!BBBBIHHBBH16s")
CHALLENGE: Final = struct.Struct("!BBBBIIHH16s")
REFUSE: Final = struct.Struct("!BBH")
assert (HELLO.size, CHALLENGE.size, REFUSE.size) == (32, 32, 4)
NONCE_BYTES: Final = 16
PROOF_BYTES: Final = MAC_BYTES
TRANSCRIPT_BYTES: Final = 88
SALT_BITS: Final = 40
RETRY_AFTER_S_MAX: Final = 0xFFFF


def suite_is_spoken(suite: int, medium: Medium) -> bool:
    """Whether version 1 speaks a suite on a medium: A on both, B on TCP; all else is reserved (docs/protocol.md §5)."""
    return suite == Suite.A or (suite == Suite.B and medium == Medium.TCP)


@dataclass(frozen=True, slots=True)
class TerminalIdentity:
    """What enrolment has provisioned in a terminal (R40); the link key is kept elsewhere."""

    site: int
    terminal: int
    epoch: int
    key_version: int
    terminal_kind: int
    terminal_class: int = TerminalClass.TERMINAL
    suite: int = Suite.A


@dataclass(frozen=True, slots=True)
class Hello:
    """A terminal's first message; its fields are claims until PROVE has been checked."""

    suite: int
    role: int
    medium: int
    key_version: int
    terminal: int
    epoch: int
    body_bytes_max: int
    terminal_class: int
    terminal_kind: int
    nonce: bytes

    def encode(self) -> bytes:
        """The 32 bytes. Raises OutOfRange for a value that does not fit."""
        if len(self.nonce) != NONCE_BYTES:
            raise OutOfRange(f"a handshake nonce has {NONCE_BYTES} bytes, not {len(self.nonce)}")
        try:
            return HELLO.pack(
                self.suite,
                self.role,
                self.medium,
                self.key_version,
                self.terminal,
                self.epoch,
                self.body_bytes_max,
                self.terminal_class,
                self.terminal_kind,
                0,
                self.nonce,
            )
        except struct.error as error:
            raise OutOfRange(f"HELLO: {error}") from None

    @classmethod
    def decode(cls, body: bytes | bytearray | memoryview) -> Hello:
        """Checks the layout only; `unwelcome` judges the values. Raises Malformed."""
        if len(body) != HELLO.size:
            raise Malformed("HELLO", f"{len(body)} bytes, not {HELLO.size}")
        suite, role, medium, key_version, terminal, epoch, limit, class_, kind, reserved, nonce = HELLO.unpack(body)
        if reserved:
            raise Malformed("HELLO", "reserved field is not zero", offset=14)
        return cls(suite, role, medium, key_version, terminal, epoch, limit, class_, kind, nonce)

    def unwelcome(self, medium: Medium) -> str | None:
        """Why version 1 refuses this HELLO whatever its proof, or None; for the log, not the wire (R35)."""
        if not suite_is_spoken(self.suite, medium):
            return f"suite {self.suite:02x} on {medium.name}"
        if self.role != Role.TERMINAL:
            return f"role {self.role:02x}"
        if self.medium != medium:
            return f"medium {self.medium:02x} on {medium.name}"
        if not (self.key_version and self.terminal and self.epoch):
            return "key version, terminal or epoch is 0"
        if self.body_bytes_max < BODY_BYTES_MIN:
            return f"body limit {self.body_bytes_max}"
        if self.terminal_class not in {TerminalClass.TERMINAL, TerminalClass.PROXY}:
            return f"class {self.terminal_class:02x}"
        if not 0 < self.terminal_kind <= TERMINAL_KIND_MAX:
            return f"terminal kind {self.terminal_kind:02x}"
        return None


@dataclass(frozen=True, slots=True)
class Challenge:
    """A front-end's answer to HELLO."""

    suite: int
    medium: int
    key_version: int
    frontend: int
    site: int
    body_bytes_max: int
    nonce: bytes
    role: int = Role.FRONTEND

    def encode(self) -> bytes:
        """The 32 bytes. Raises OutOfRange for a value that does not fit."""
        if len(self.nonce) != NONCE_BYTES:
            raise OutOfRange(f"a handshake nonce has {NONCE_BYTES} bytes, not {len(self.nonce)}")
        try:
            return CHALLENGE.pack(
                self.suite,
                self.role,
                self.medium,
                self.key_version,
                self.frontend,
                self.site,
                self.body_bytes_max,
                0,
                self.nonce,
            )
        except struct.error as error:
            raise OutOfRange(f"CHALLENGE: {error}") from None

    @classmethod
    def decode(cls, body: bytes | bytearray | memoryview) -> Challenge:
        """Raises Malformed for a wrong layout or a value that is never valid."""
        if len(body) != CHALLENGE.size:
            raise Malformed("CHALLENGE", f"{len(body)} bytes, not {CHALLENGE.size}")
        suite, role, medium, key_version, frontend, site, limit, reserved, nonce = CHALLENGE.unpack(body)
        if reserved:
            raise Malformed("CHALLENGE", "reserved field is not zero", offset=14)
        if role != Role.FRONTEND or not frontend or not site or limit < BODY_BYTES_MIN:
            raise Malformed("CHALLENGE", "role, front-end, site or body limit is not valid")
        return cls(suite, medium, key_version, frontend, site, limit, nonce)

    def check_against(self, hello: Hello, site: int) -> None:
        """Raises Downgrade unless it repeats `hello` and comes from the terminal's own site."""
        if (self.suite, self.medium, self.key_version) != (hello.suite, hello.medium, hello.key_version):
            raise Downgrade("CHALLENGE names another suite, medium or key version")
        if self.site != site:
            raise Downgrade(f"CHALLENGE of site {self.site}, enrolled for site {site}")


def encode_refuse(code: RefuseCode, retry_after_s: int = 0) -> bytes:
    """Body of REFUSE; a longer delay than the field holds is sent as the longest."""
    return REFUSE.pack(code, 0, max(0, min(retry_after_s, RETRY_AFTER_S_MAX)))


def decode_refuse(body: bytes | bytearray | memoryview) -> tuple[RefuseCode, int]:
    """(code, retry after in seconds). Raises Malformed."""
    if len(body) != REFUSE.size:
        raise Malformed("REFUSE", f"{len(body)} bytes, not {REFUSE.size}")
    code, reserved, retry_after_s = REFUSE.unpack(body)
    if reserved or code not in {RefuseCode.REFUSED, RefuseCode.BUSY}:
        raise Malformed("REFUSE", "unknown code or reserved field not zero")
    return RefuseCode(code), retry_after_s


def transcript_of(hello_header: bytes, hello_body: bytes, challenge_header: bytes, challenge_body: bytes) -> bytes:
    """What both proofs and all session keys are bound to: 88 bytes, headers as sent."""
    transcript = hello_header + hello_body + challenge_header + challenge_body
    assert len(transcript) == TRANSCRIPT_BYTES
    return transcript


def terminal_proof(link_key: bytes, transcript: bytes, *, suite: int = Suite.A) -> bytes:
    """Body of PROVE."""
    key = derive(link_key, "session.prove.terminal", transcript, suite=suite)
    return MacKey(key, suite).mac(b"\x01", transcript)


def frontend_proof(link_key: bytes, transcript: bytes, prove_body: bytes, *, suite: int = Suite.A) -> bytes:
    """Body of ACCEPT."""
    key = derive(link_key, "session.prove.frontend", transcript, suite=suite)
    return MacKey(key, suite).mac(b"\x02", transcript, prove_body)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """AEAD keys (16 bytes) and nonce salts (5 bytes) of one session and suite, a pair per direction; never shown."""

    up_key: bytes
    up_salt: bytes
    down_key: bytes
    down_salt: bytes

    @classmethod
    def derive(cls, link_key: bytes, transcript: bytes, *, suite: int = Suite.A) -> SessionKeys:
        """Both directions' keys, bound to the whole handshake by `transcript`."""
        return cls(
            up_key=derive(link_key, "session.up.key", transcript, suite=suite),
            up_salt=derive(link_key, "session.up.salt", transcript, SALT_BITS, suite=suite),
            down_key=derive(link_key, "session.down.key", transcript, suite=suite),
            down_salt=derive(link_key, "session.down.salt", transcript, SALT_BITS, suite=suite),
        )

    def __repr__(self) -> str:
        return "SessionKeys(…)"
