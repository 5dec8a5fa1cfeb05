"""The front-end's keys, out of its keystore (docs/keys.md, R36): link masters, batch key; never a seal or card key."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from protocol.errors import DamagedData
from protocol.keystore import Keystore
from protocol.mac import KEY_BYTES

KEYSTORE_KIND: Final = "frontend"
LINK_MASTER: Final = "link_master"
BATCH_KEY: Final = "batch_key"
_STAND_IN: Final = b"no such link key"  # derived from for a key version nobody has: the same work for every HELLO (R35)
assert len(_STAND_IN) == KEY_BYTES


class WeakKey(Exception):
    """A key that anybody would try first; refused in production (promise 6). Names the key, never shows it."""


def is_weak(key: bytes) -> bool:
    """All bytes equal (zero among them), or each one more than the one before, up or down."""
    steps = {(after - before) & 0xFF for before, after in pairwise(key)}
    return len(steps) <= 1 and steps <= {0x00, 0x01, 0xFF}


class FrontendKeys:
    """What one front-end may know."""

    __slots__ = ("_link_masters", "batch_key")

    def __init__(self, link_masters: dict[int, bytes], batch_key: bytes) -> None:
        self._link_masters = link_masters
        self.batch_key = batch_key

    @classmethod
    def of(cls, keystore: Keystore, *, site: int, is_production: bool = True) -> FrontendKeys:
        """Out of an opened keystore.

        Raises:
            DamagedData: another kind or site of keystore, or a key is missing or of a wrong length.
            WeakKey: a key that is no secret, in production.
        """
        if keystore.kind != KEYSTORE_KIND or keystore.site != site:
            raise DamagedData(
                f"keystore {keystore.kind!r} of site {keystore.site}: need {KEYSTORE_KIND!r} of site {site}"
            )
        masters = keystore.versions(LINK_MASTER)
        if not masters:
            raise DamagedData(f"keystore {KEYSTORE_KIND!r}: holds no {LINK_MASTER}.1 (or a later version)")
        batch_key = keystore.key(BATCH_KEY)
        named = {f"{LINK_MASTER}.{version}": key for version, key in masters.items()} | {BATCH_KEY: batch_key}
        for name, key in named.items():
            if len(key) != KEY_BYTES:
                raise DamagedData(f"keystore {KEYSTORE_KIND!r}: {name} has {len(key)} bytes, not {KEY_BYTES}")
            if is_production and is_weak(key):
                raise WeakKey(f"{name} is a well-known pattern, not a secret: make a new one with `onecard keys init`")
        return cls(masters, batch_key)

    def link_master(self, version: int) -> bytes:
        """The link master of a key version; for one that is not held, a stand-in that proves nothing."""
        return self._link_masters.get(version, _STAND_IN)

    def has_link_master(self, version: int) -> bool:
        return version in self._link_masters

    def __repr__(self) -> str:
        return f"FrontendKeys(link master versions {sorted(self._link_masters)})"
