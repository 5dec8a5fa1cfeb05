"""Section 2: the key derivation, every label, and the diversified card keys.

The block cipher is that of the link's suite for link and session keys, and that of the proof suite for seal keys.
"""

from typing import Final

from tests.oracle.primitives import SUITE_A, cmac

LABELS: Final = {
    "link.terminal": 128,
    "session.prove.terminal": 128,
    "session.prove.frontend": 128,
    "session.up.key": 128,
    "session.down.key": 128,
    "session.up.salt": 40,
    "session.down.salt": 40,
    "seal.terminal": 128,
    "answer.terminal": 128,
}
APPLICATION_ID: Final = bytes.fromhex("F04301")
SYSTEM_ID: Final = b"ONECARD"
CARD_PURPOSES: Final = ("authenticate", "debit", "refund", "load", "tac")


def kdf(key: bytes, label: str, context: bytes, bits: int, suite: int = SUITE_A) -> bytes:
    """SP 800-108 in counter mode: K(i) = CMAC(key, u32 i, label, 00, context, u32 L), the first L bits of all K(i)."""
    fixed = label.encode("ascii") + b"\0" + context + bits.to_bytes(4, "big")
    output = b""
    i = 0
    while 8 * len(output) < bits:
        i += 1
        output += cmac(key, i.to_bytes(4, "big") + fixed, suite)
    return output[: bits // 8]


def derive(key: bytes, label: str, context: bytes, suite: int = SUITE_A) -> bytes:
    return kdf(key, label, context, LABELS[label], suite)


def link_context(terminal: int, epoch: int, key_version: int) -> bytes:
    return terminal.to_bytes(4, "big") + epoch.to_bytes(2, "big") + bytes([key_version])


def terminal_context(terminal: int, epoch: int) -> bytes:
    """Context of the keys that have no version: seal and answer."""
    return terminal.to_bytes(4, "big") + epoch.to_bytes(2, "big")


def link_key(master: bytes, terminal: int, epoch: int, key_version: int, suite: int = SUITE_A) -> bytes:
    return derive(master, "link.terminal", link_context(terminal, epoch, key_version), suite)


def seal_key(master: bytes, terminal: int, epoch: int, suite: int = SUITE_A) -> bytes:
    return derive(master, "seal.terminal", terminal_context(terminal, epoch), suite)


def answer_key(master: bytes, terminal: int, epoch: int, suite: int = SUITE_A) -> bytes:
    return derive(master, "answer.terminal", terminal_context(terminal, epoch), suite)


def diversify(master: bytes, uid: bytes, application_id: bytes, system_id: bytes) -> bytes:
    """AN10922 for AES-128, as long as the input is longer than one block: then its padding is plain CMAC's."""
    message = b"\x01" + uid + application_id + system_id
    assert len(message) > 16
    return cmac(master, message)


def card_key(master: bytes, uid: bytes) -> bytes:
    return diversify(master, uid, APPLICATION_ID, SYSTEM_ID)
