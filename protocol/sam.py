"""The SAM (安全存取模块): derives and uses card keys, never exports them (R36, R37; docs/protocol.md §2, §12). Pure.

It makes only the MACs that a dialogue needs, over typed facts: there is no verb that MACs bytes of the caller's
choice, and none that touches a TAC key. A till's SAM has the refund key, only a load station's has the load key (R21).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final, Protocol

from protocol.cards.apdu import CardOrder, Identity, authenticate_mac_input, confirm_mac_input, identity_fields
from protocol.cards.orders import VERBS, KeyPurpose, order_fields, order_mac_input
from protocol.codes import RecordType
from protocol.errors import OutOfRange, ProofError
from protocol.keys import card_key
from protocol.mac import KEY_BYTES, MacKey

CONTEXTS_MAX: Final = 256  # two keys of the last 128 cards: a queue at a till; under 200 KiB
VERSION_MAX: Final = 255


class Sam(Protocol):
    """What a terminal asks of its SAM. `key_version` and `uid` (7 bytes) name the card.

    Every verb raises ProofError for a key version that the SAM does not hold: the card is not one of ours.
    """

    def holds(self, key_version: int, type_: int = RecordType.PURCHASE) -> bool:
        """Whether cards of this key version can be served, for transactions of this record type."""

    def authenticate_mac(
        self,
        key_version: int,
        uid: bytes,
        *,
        terminal_challenge: bytes,
        card_challenge: bytes,
        number: int,
        balance_cents: int,
        counter: int,
    ) -> bytes:
        """The MAC (8 bytes) that a genuine card gives in its answer to AUTHENTICATE."""

    def verify_authenticate(
        self,
        key_version: int,
        uid: bytes,
        mac: bytes,
        *,
        terminal_challenge: bytes,
        card_challenge: bytes,
        number: int,
        balance_cents: int,
        counter: int,
    ) -> bool:
        """Whether the card's answer to AUTHENTICATE proves that card, balance and counter, now."""

    def order_mac(
        self, key_version: int, uid: bytes, *, terminal_challenge: bytes, card_challenge: bytes, order: CardOrder
    ) -> bytes:
        """The MAC (8 bytes) of a DEBIT or of another transaction; ask `holds` first."""

    def confirm_mac(
        self, key_version: int, uid: bytes, *, terminal_challenge: bytes, card_challenge: bytes, identity: Identity
    ) -> bytes:
        """The MAC (8 bytes) of a CONFIRM."""


@dataclass(slots=True, frozen=True)
class TerminalMasters:
    """The masters of one version in a terminal's SAM, never TAC (R36); what is empty, that SAM does not have."""

    authenticate: bytes
    debit: bytes
    refund: bytes = b""
    load: bytes = b""
    """In a load station's only."""

    def __repr__(self) -> str:
        return "TerminalMasters(…)"


class SoftwareSam:
    """A SAM in memory, for the simulator and for sites without SAM chips. Keeps the last cards' keys at hand."""

    __slots__ = ("_contexts", "_contexts_max", "_masters")

    def __init__(self, masters: Mapping[int, TerminalMasters], *, contexts_max: int = CONTEXTS_MAX) -> None:
        if contexts_max < 1:
            raise OutOfRange(f"contexts_max {contexts_max}")
        for version, keys in masters.items():
            if not 1 <= version <= VERSION_MAX:
                raise OutOfRange(f"master key version {version}")
            if {len(keys.authenticate), len(keys.debit)} != {KEY_BYTES}:
                raise OutOfRange(f"a master key has {KEY_BYTES} bytes")
            if not {len(keys.refund), len(keys.load)} <= {0, KEY_BYTES}:
                raise OutOfRange(f"a master key has {KEY_BYTES} bytes")
        self._masters = {
            version: (keys.authenticate, keys.debit, keys.refund, keys.load) for version, keys in masters.items()
        }
        self._contexts: OrderedDict[tuple[int, int, bytes], MacKey] = OrderedDict()
        self._contexts_max = contexts_max

    def holds(self, key_version: int, type_: int = RecordType.PURCHASE) -> bool:
        masters, verb = self._masters.get(key_version), VERBS.get(type_)
        return masters is not None and verb is not None and bool(masters[verb.purpose])

    def authenticate_mac(
        self,
        key_version: int,
        uid: bytes,
        *,
        terminal_challenge: bytes,
        card_challenge: bytes,
        number: int,
        balance_cents: int,
        counter: int,
    ) -> bytes:
        covered = authenticate_mac_input(terminal_challenge, card_challenge, number, balance_cents, counter)
        return self._key(KeyPurpose.AUTHENTICATE, key_version, uid).mac8(covered)

    def verify_authenticate(
        self,
        key_version: int,
        uid: bytes,
        mac: bytes,
        *,
        terminal_challenge: bytes,
        card_challenge: bytes,
        number: int,
        balance_cents: int,
        counter: int,
    ) -> bool:
        expected = self.authenticate_mac(
            key_version,
            uid,
            terminal_challenge=terminal_challenge,
            card_challenge=card_challenge,
            number=number,
            balance_cents=balance_cents,
            counter=counter,
        )
        return compare_digest(expected, mac)

    def order_mac(
        self, key_version: int, uid: bytes, *, terminal_challenge: bytes, card_challenge: bytes, order: CardOrder
    ) -> bytes:
        fields, verb = order_fields(order), VERBS[order.type]
        covered = order_mac_input(verb, terminal_challenge, card_challenge, fields)
        return self._key(verb.purpose, key_version, uid).mac8(covered)

    def confirm_mac(
        self, key_version: int, uid: bytes, *, terminal_challenge: bytes, card_challenge: bytes, identity: Identity
    ) -> bytes:
        covered = confirm_mac_input(terminal_challenge, card_challenge, identity_fields(identity))
        return self._key(KeyPurpose.AUTHENTICATE, key_version, uid).mac8(covered)

    def _key(self, purpose: KeyPurpose, key_version: int, uid: bytes) -> MacKey:
        name = (purpose, key_version, uid)
        key = self._contexts.get(name)
        if key is not None:
            self._contexts.move_to_end(name)
            return key
        masters = self._masters.get(key_version)
        if masters is None or not masters[purpose]:
            raise ProofError(f"card key version {key_version} is not in this SAM for {purpose.name.lower()}")
        key = self._contexts[name] = MacKey(card_key(masters[purpose], uid))
        if len(self._contexts) > self._contexts_max:
            self._contexts.popitem(last=False)
        return key

    def __repr__(self) -> str:
        return f"SoftwareSam(versions={sorted(self._masters)})"
