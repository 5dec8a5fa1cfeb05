"""Cards of every kind, made offline: their masters, and images for the simulator (R36; docs/keys.md).

Where all masters of a card's kind meet; no server imports this. In real life a card printer does what `make_card` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from protocol.cards.image import AesCardImage, CardKeys
from protocol.cards.memory_format import IssuerMasters, SectorMasters, formatted_image
from protocol.cards.memory_layout import Application, MemoryFacts
from protocol.cards.pboc_image import PbocCardImage, PbocCardKeys
from protocol.cards.pboc_macs import pboc_key
from protocol.codes import CardKind
from protocol.keys import card_key
from protocol.keystore import Keystore

IMAGES_OF_KIND: Final[Mapping[CardKind, str]] = {
    CardKind.AES: "cards/images.bin",
    CardKind.MEMORY: "cards/images_memory.bin",
    CardKind.PBOC: "cards/images_pboc.bin",
}
"""Under the site's directory; one image after another."""
AES_PURPOSES: Final = ("authenticate", "debit", "refund", "load", "tac")
PBOC_PURPOSES: Final = ("internal", "purchase", "maintenance", "load", "tac")
CURRENCY_CNY: Final = 156
KEY_VERSION: Final = 1

CardMaker = Callable[[int, bytes, int], bytes]
"""(number, UID, opening cents) → the image's bytes."""


def card_masters(fresh: Callable[[], bytes]) -> dict[str, bytes]:
    """New masters for every kind, by their names in `cards.keystore`; `fresh` draws 16 bytes."""
    names = [_aes_name(purpose) for purpose in AES_PURPOSES]
    names += [_memory_name(application, letter) for application in Application for letter in "ab"]
    names += [f"pboc_{purpose}_master.{KEY_VERSION}" for purpose in PBOC_PURPOSES]
    return {name: fresh() for name in names}


SAM_MASTERS: Final = (
    *(f"card_{purpose}_master.1" for purpose in ("authenticate", "debit", "refund")),
    "memory_purse_a_master.1",
    *(f"pboc_{purpose}_master.1" for purpose in ("internal", "purchase", "maintenance")),
)
LOAD_MASTERS: Final = ("card_load_master.1", "memory_purse_b_master.1", "pboc_load_master.1")
LEDGER_MASTERS: Final = ("tac_master.1", "pboc_tac_master.1")
"""Who gets which (docs/keys.md): a SAM spends, a load SAM loads, the ledger checks; none can do another's work."""


def card_maker(kind: CardKind, masters: Keystore) -> CardMaker:
    """Makes cards of one kind. Raises DamagedData if the keystore lacks a master of that kind."""
    if kind is CardKind.MEMORY:
        return _memory_maker(masters)
    if kind is CardKind.PBOC:
        return _pboc_maker(masters)
    held = {purpose: masters.key(_aes_name(purpose)) for purpose in AES_PURPOSES}

    def aes(number: int, uid: bytes, opening_cents: int) -> bytes:
        keys = CardKeys(**{purpose: card_key(master, uid) for purpose, master in held.items()})
        return AesCardImage(uid, number, KEY_VERSION, CURRENCY_CNY, keys, opening_cents).encode()

    return aes


def _memory_maker(masters: Keystore) -> CardMaker:
    held: IssuerMasters = {
        each: SectorMasters(*(masters.key(_memory_name(each, letter)) for letter in "ab")) for each in Application
    }

    def memory(number: int, uid: bytes, opening_cents: int) -> bytes:
        facts = MemoryFacts(number, KEY_VERSION, CURRENCY_CNY)
        return formatted_image(uid, facts, held, balance_cents=opening_cents).encode()

    return memory


def _pboc_maker(masters: Keystore) -> CardMaker:
    held = {purpose: masters.key(f"pboc_{purpose}_master.{KEY_VERSION}") for purpose in PBOC_PURPOSES}

    def pboc(number: int, uid: bytes, opening_cents: int) -> bytes:
        keys = PbocCardKeys(**{purpose: pboc_key(master, uid) for purpose, master in held.items()})
        return PbocCardImage(uid, number, KEY_VERSION, CURRENCY_CNY, keys, opening_cents).encode()

    return pboc


def _aes_name(purpose: str) -> str:
    return f"tac_master.{KEY_VERSION}" if purpose == "tac" else f"card_{purpose}_master.{KEY_VERSION}"


def _memory_name(application: Application, letter: str) -> str:
    return f"memory_{application.name.lower()}_{letter}_master.{KEY_VERSION}"
