"""The invented installation all vectors are about. Its keys count upwards, so that nobody takes them for real ones."""

from typing import Any, Final

from tests.oracle import keys
from tests.oracle.fields import Fields
from tests.oracle.primitives import ed25519_public


def counting(first: int, size: int) -> bytes:
    return bytes((first + i) & 0xFF for i in range(size))


LINK_MASTER: Final = counting(0x00, 16)
SEAL_MASTER: Final = counting(0x10, 16)
CARD_MASTERS: Final = {name: counting(0x20 + 0x10 * i, 16) for i, name in enumerate(keys.CARD_PURPOSES)}
BATCH_KEY: Final = counting(0x70, 16)
ROOT_SEED: Final = counting(0x80, 32)
LEDGER_SEED: Final = counting(0xA0, 32)
ROOT_PUBLIC: Final = ed25519_public(ROOT_SEED)
LEDGER_PUBLIC: Final = ed25519_public(LEDGER_SEED)
HELLO_NONCE: Final = counting(0xC0, 16)
CHALLENGE_NONCE: Final = counting(0xD0, 16)
ENROLMENT_ID: Final = counting(0xE0, 8)
SPOOL_ID: Final = counting(0xF0, 16)

SITE: Final = 42
TERMINAL: Final = 0x00010203
EPOCH: Final = 3
LINK_KEY_VERSION: Final = 2
FRONT_END: Final = 7
LINE_ADDRESS: Final = 17
MERCHANT: Final = 501
CARD_NUMBER: Final = 123_456
CARD_UID: Final = bytes.fromhex("04782E21801D80")  # the UID of NXP's published example
CARD_KEY_VERSION: Final = 1
CURRENCY: Final = 156

# 2026-03-02 08:00:00 UTC; the terminal booted a day earlier.
NOW_MS: Final = 1_772_438_400_000
UPTIME_DS: Final = 864_000
BOOT: Final = 5

SEAL_KEY: Final = keys.seal_key(SEAL_MASTER, TERMINAL, EPOCH)
CARD_KEYS: Final = {name: keys.card_key(master, CARD_UID) for name, master in CARD_MASTERS.items()}

Case = dict[str, Any]


def case(name: str, given: Fields, made: bytes | None = None, **more: Any) -> Case:
    """One case of a vector file; `bytes` is what the page makes of `given`."""
    result: Case = {"name": name, "given": given}
    if made is not None:
        result["bytes"] = made.hex()
    return {**result, **more}


def section(title: str, cases: list[Case]) -> Fields:
    names = [one["name"] for one in cases]
    assert len(names) == len(set(names)), "names of cases are their identity"
    return {"section": title, "cases": cases}
