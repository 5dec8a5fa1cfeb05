"""The PSAM of the PBOC purse: derives and uses card keys, never exports them (R36, R37; docs/cards.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final, Protocol

from protocol.cards import pboc_macs as macs
from protocol.cards.apdu import DebitOrder
from protocol.cards.des import DES3_KEY_BYTES, des3_block
from protocol.cards.pboc_apdu import Initialized, confirm_header, order_header
from protocol.cards.pboc_macs import TransactionType, pboc_key, terminal6
from protocol.errors import OutOfRange, ProofError

VERSION_MAX: Final = 255


class PbocSam(Protocol):
    """What a selling terminal asks of its PSAM; `key_version` and `uid` name the card.

    Every verb raises ProofError for a key version that the PSAM does not hold. There is none for load or TAC keys.
    """

    def holds(self, key_version: int) -> bool:
        """Whether cards of this key version can be served."""

    def is_genuine(self, key_version: int, uid: bytes, challenge: bytes, answer: bytes) -> bool:
        """Whether INTERNAL AUTHENTICATE was answered by that card."""

    def mac1(self, key_version: int, uid: bytes, ready: Initialized, order: DebitOrder, moment: bytes) -> bytes:
        """MAC1 of this purchase."""

    def verify_mac2(self, key_version: int, uid: bytes, ready: Initialized, order: DebitOrder, mac2: bytes) -> bool:
        """Whether the card has debited exactly this order in this session."""

    def confirm_mac(self, key_version: int, uid: bytes, challenge: bytes, counter: int) -> bytes:
        """MAC of the update of the site file: the purchase before that offline counter is collected."""

    def order_mac(self, key_version: int, uid: bytes, challenge: bytes, *, serial: int, sequence: int) -> bytes:
        """MAC of the update of the site file that announces a load order."""


@dataclass(slots=True, frozen=True)
class PbocTerminalMasters:
    """The 3DES masters of a selling terminal's PSAM, of one version: never load, never TAC (R36)."""

    internal: bytes
    purchase: bytes
    maintenance: bytes

    def __repr__(self) -> str:
        return "PbocTerminalMasters(…)"


class SoftwarePbocSam:
    """A PSAM in memory, for the simulator and for sites without PSAM chips."""

    __slots__ = ("_masters",)

    def __init__(self, masters: Mapping[int, PbocTerminalMasters]) -> None:
        for version, keys in masters.items():
            if not 1 <= version <= VERSION_MAX:
                raise OutOfRange(f"master key version {version}")
            for key in (keys.internal, keys.purchase, keys.maintenance):
                _check_master(key)
        self._masters = dict(masters)

    def holds(self, key_version: int) -> bool:
        return key_version in self._masters

    def is_genuine(self, key_version: int, uid: bytes, challenge: bytes, answer: bytes) -> bool:
        return compare_digest(des3_block(pboc_key(self._held(key_version).internal, uid), challenge), answer)

    def mac1(self, key_version: int, uid: bytes, ready: Initialized, order: DebitOrder, moment: bytes) -> bytes:
        terminal = terminal6(order.identity.terminal, order.identity.epoch)
        return macs.purchase_mac1(self._session(key_version, uid, ready, order), order.amount_cents, terminal, moment)

    def verify_mac2(self, key_version: int, uid: bytes, ready: Initialized, order: DebitOrder, mac2: bytes) -> bool:
        expected = macs.purchase_mac2(self._session(key_version, uid, ready, order), order.amount_cents)
        return compare_digest(expected, mac2)

    def confirm_mac(self, key_version: int, uid: bytes, challenge: bytes, counter: int) -> bytes:
        key = pboc_key(self._held(key_version).maintenance, uid)
        return macs.confirm_mac(key, challenge, confirm_header(counter))

    def order_mac(self, key_version: int, uid: bytes, challenge: bytes, *, serial: int, sequence: int) -> bytes:
        key = pboc_key(self._held(key_version).maintenance, uid)
        return macs.confirm_mac(key, challenge, order_header(serial, sequence))

    def _session(self, key_version: int, uid: bytes, ready: Initialized, order: DebitOrder) -> bytes:
        key = pboc_key(self._held(key_version).purchase, uid)
        return macs.purchase_session(key, ready.random, ready.counter, order.identity.sequence)

    def _held(self, key_version: int) -> PbocTerminalMasters:
        masters = self._masters.get(key_version)
        if masters is None:
            raise ProofError(f"PBOC key version {key_version} is not in this PSAM")
        return masters

    def __repr__(self) -> str:
        return f"SoftwarePbocSam(versions={sorted(self._masters)})"


class PbocLoadSam:
    """What a load station's SAM does for one key version: the only holder of the load master."""

    __slots__ = ("_master",)

    def __init__(self, load_master: bytes) -> None:
        _check_master(load_master)
        self._master = load_master

    def verify_mac1(self, uid: bytes, ready: Initialized, *, amount_cents: int, terminal: int, epoch: int) -> bool:
        """Whether this card, with this balance, asks for this load."""
        expected = macs.load_mac1(
            self._session(uid, ready),
            ready.balance_cents,
            amount_cents,
            TransactionType.LOAD,
            terminal6(terminal, epoch),
        )
        return compare_digest(expected, ready.mac1)

    def mac2(
        self, uid: bytes, ready: Initialized, *, amount_cents: int, terminal: int, epoch: int, moment: bytes
    ) -> bytes:
        """The MAC that makes the card credit; good once, for the online counter is in the session key (R22)."""
        stated = (amount_cents, TransactionType.LOAD, terminal6(terminal, epoch))
        return macs.load_mac2(self._session(uid, ready), *stated, moment)

    def _session(self, uid: bytes, ready: Initialized) -> bytes:
        return macs.load_session(pboc_key(self._master, uid), ready.random, ready.counter)

    def __repr__(self) -> str:
        return "PbocLoadSam(…)"


def _check_master(key: bytes) -> None:
    if len(key) != DES3_KEY_BYTES:
        raise OutOfRange(f"a 3DES master key has {DES3_KEY_BYTES} bytes")
    des3_block(key, bytes(8))  # equal halves are refused here, not at the first card
