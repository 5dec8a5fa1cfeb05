"""The ledger's keys (R36): seal and TAC masters, its signing key and certificate, one batch key per front-end.

Names in the keystore of kind "ledger" (docs/keys.md): `seal_master.N`, `tac_master.N`, `pboc_tac_master.N` (a site
without PBOC purses has none), `signing_seed`, `batch_key.FRONTEND`; the certificate is a fact, in hex. Keyed contexts
cost 1 KB each: caches are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Final, Generic, TypeVar

from protocol.cards.pboc_macs import pboc_key
from protocol.codes import ProofSuite
from protocol.errors import OutOfRange
from protocol.keys import card_key, seal_key
from protocol.keystore import Keystore
from protocol.mac import MacKey
from protocol.signed import Certificate, Signer, SoftwareSigner

KEYSTORE_KIND: Final = "ledger"
SEAL_KEYS_CACHED_MAX: Final = 32_768  # every terminal of the largest site in the recent half; 32 MB
CARD_KEYS_CACHED_MAX: Final = 65_536  # those of a day (32,768 in the recent half) and the day before; 64 MB

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class KeyCache(Generic[K, V]):
    """Keys or keyed contexts used lately; a look-up that hits costs one access to a plain dictionary.

    Two halves: what is used goes to the recent one; when that is full it becomes the older one, and what the older one
    still held is forgotten. So nothing used within the last half of the names is lost, and no hit moves anything.
    """

    __slots__ = ("_half_max", "_make", "_older", "recent")

    def __init__(self, make: Callable[[K], V | None], *, entries_max: int) -> None:
        self.recent: dict[K, V | None] = {}
        """For loops over many records; a miss is for `get`, which may put another dictionary in its place."""
        self._older: dict[K, V | None] = {}
        self._half_max = entries_max // 2
        self._make = make

    def get(self, name: K) -> V | None:
        """The key, or None where no master gives one."""
        try:
            return self.recent[name]
        except KeyError:
            key = self._older.pop(name) if name in self._older else self._make(name)
        if len(self.recent) >= self._half_max:
            self.recent, self._older = {}, self.recent
        self.recent[name] = key
        return key

    def __len__(self) -> int:
        return len(self.recent) + len(self._older)


class LedgerKeys:
    """What the ledger signs and verifies with; never shows a key."""

    def __init__(
        self,
        *,
        seal_masters: Mapping[int, bytes],
        tac_masters: Mapping[int, bytes],
        signer: Signer,
        certificate: Certificate,
        batch_keys: Mapping[int, bytes],
        pboc_tac_masters: Mapping[int, bytes] | None = None,
    ) -> None:
        """Keys by version, batch keys by front-end.

        Raises:
            OutOfRange: the certificate is not for the signer's key, or a branch is empty.
        """
        if signer.public_key != certificate.public_key:
            raise OutOfRange("the certificate is for another signing key")
        if not seal_masters or not tac_masters:
            raise OutOfRange("the ledger needs a seal master and a TAC master")
        self.signer = signer
        self.certificate = certificate
        self.certificate_bytes = certificate.encode()
        self._seal_master = seal_masters[max(seal_masters)]
        self._tac_masters = dict(tac_masters)
        self._pboc_tac_masters = dict(pboc_tac_masters or {})
        self._batch_keys = {frontend: MacKey(key) for frontend, key in batch_keys.items()}
        self.seal_keys: KeyCache[tuple[int, int, int], MacKey] = KeyCache(
            self._make_seal_key, entries_max=SEAL_KEYS_CACHED_MAX
        )
        """By (terminal, epoch, proof suite)."""
        self.card_keys: KeyCache[bytes, MacKey] = KeyCache(self._make_card_key, entries_max=CARD_KEYS_CACHED_MAX)
        """TAC keys of AES cards by UID ‖ key version, as they stand in a record."""
        self.pboc_keys: KeyCache[tuple[int, bytes], bytes] = KeyCache(
            self._make_pboc_key, entries_max=CARD_KEYS_CACHED_MAX
        )
        """DTK of PBOC purses by (key version, card UID)."""

    @classmethod
    def from_keystore(cls, keystore: Keystore) -> LedgerKeys:
        """The keys of an opened keystore.

        Raises:
            OutOfRange: it is no ledger's, or its keys do not belong together.
            RemoteError: a key is missing or its certificate is damaged.
        """
        if keystore.kind != KEYSTORE_KIND:
            raise OutOfRange(f"a keystore of kind {keystore.kind!r}, the ledger's is {KEYSTORE_KIND!r}")
        try:
            certificate = Certificate.decode(bytes.fromhex(keystore.facts["certificate"]))
        except (KeyError, TypeError, ValueError):
            raise OutOfRange("the keystore has no certificate among its facts") from None
        if certificate.site != keystore.site:
            raise OutOfRange(f"certificate of site {certificate.site}, keystore of site {keystore.site}")
        return cls(
            seal_masters=keystore.versions("seal_master"),
            tac_masters=keystore.versions("tac_master"),
            signer=SoftwareSigner(keystore.key("signing_seed")),
            certificate=certificate,
            batch_keys=keystore.versions("batch_key"),
            pboc_tac_masters=keystore.versions("pboc_tac_master"),
        )

    @property
    def site(self) -> int:
        return self.certificate.site

    def batch_key(self, frontend: int) -> MacKey | None:
        """The key with which that front-end proves its messages; None: no such front-end."""
        return self._batch_keys.get(frontend)

    def seal_key(self, terminal: int, epoch: int, suite: int = ProofSuite.AES_CMAC) -> MacKey:
        """The seal key of one terminal and epoch, of the proof suite that the register has for it."""
        key = self.seal_keys.get((terminal, epoch, suite))
        assert key is not None
        return key

    def card_key(self, version: int, uid: bytes) -> MacKey | None:
        """The TAC key of an AES card; None: no master of that version."""
        return self.card_keys.get(uid + version.to_bytes(1, "big"))

    def _make_seal_key(self, name: tuple[int, int, int]) -> MacKey:
        terminal, epoch, suite = name
        return MacKey(seal_key(self._seal_master, terminal=terminal, epoch=epoch, proof_suite=suite), suite)

    def _make_card_key(self, name: bytes) -> MacKey | None:
        master = self._tac_masters.get(name[-1])
        return None if master is None else MacKey(card_key(master, name[:-1]))

    def _make_pboc_key(self, name: tuple[int, bytes]) -> bytes | None:
        version, uid = name
        master = self._pboc_tac_masters.get(version)
        return None if master is None else pboc_key(master, uid)

    def __repr__(self) -> str:
        return f"LedgerKeys(site {self.site}, front-ends {sorted(self._batch_keys)})"
