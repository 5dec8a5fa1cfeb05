"""What a PBOC purse card keeps without power, and its form in a file. Pure; the layout is the simulator's own."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from protocol.cards.des import DES3_KEY_BYTES
from protocol.cards.pboc_apdu import LOG_RECORD, MAC_BYTES, LogEntry
from protocol.cards.pboc_macs import TAC_BYTES
from protocol.errors import DamagedData, OutOfRange
from protocol.keys import CARD_UID_BYTES
from protocol.record_bodies import card_masked

_IMAGE_VERSION: Final = 2  # 1 kept no load serial
_KEPT: Final = struct.Struct(f"!?{LOG_RECORD.size}s4s4s")
_IMAGE: Final = struct.Struct(f"!BB7sBIHIBIHHHI16s16s16s16s16s{_KEPT.size}s{_KEPT.size}s")
_CRC: Final = struct.Struct("!I")
PBOC_IMAGE_BYTES: Final = _IMAGE.size + _CRC.size
assert PBOC_IMAGE_BYTES == 199


@dataclass(slots=True, frozen=True)
class PbocCardKeys:
    """One card's own five keys, of one version; never shown."""

    internal: bytes
    """DIAK, for INTERNAL AUTHENTICATE: the card is ours."""
    purchase: bytes
    """DPK."""
    maintenance: bytes
    """DAMK, for the site file: a proof was collected."""
    load: bytes
    """DLK."""
    tac: bytes
    """DTK."""

    def all(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        return self.internal, self.purchase, self.maintenance, self.load, self.tac

    def __repr__(self) -> str:
        return "PbocCardKeys(…)"


@dataclass(slots=True, frozen=True)
class KeptProof:
    """The last transaction of one type with its MAC2 (zeros for a load) and TAC."""

    entry: LogEntry
    mac: bytes
    tac: bytes

    def encode(self) -> bytes:
        if (len(self.mac), len(self.tac)) != (MAC_BYTES, TAC_BYTES):
            raise OutOfRange("a MAC or TAC of another length")
        return _KEPT.pack(True, self.entry.encode(), self.mac, self.tac)  # noqa: FBT003  # the layout's first field

    def __repr__(self) -> str:
        return f"KeptProof(counter={self.entry.counter}, amount_cents={self.entry.amount_cents})"


@dataclass(slots=True, frozen=True, repr=False)
class PbocCardImage:
    """Everything that a card keeps without power."""

    uid: bytes
    number: int
    key_version: int
    currency: int
    keys: PbocCardKeys
    balance_cents: int
    offline_counter: int = 0
    online_counter: int = 0
    collected_counter: int = 0
    """The offline counter up to which proofs were collected (the site file)."""
    load_serial: int = 0
    """The highest of a load order that was executed (the site file, R22)."""
    valid_until_day: int = 0
    group: int = 0
    last_purchase: KeptProof | None = None
    last_load: KeptProof | None = None

    @property
    def proof_pending(self) -> bool:
        return self.last_purchase is not None and self.collected_counter != self.offline_counter

    def encode(self) -> bytes:
        """PBOC_IMAGE_BYTES bytes, with a version and a CRC-32. Raises OutOfRange."""
        keys = self.keys.all()
        if len(self.uid) != CARD_UID_BYTES or any(len(key) != DES3_KEY_BYTES for key in keys):
            raise OutOfRange("a UID or key of another length")
        try:
            content = _IMAGE.pack(
                _IMAGE_VERSION,
                0,
                self.uid,
                self.key_version,
                self.number,
                self.currency,
                self.valid_until_day,
                self.group,
                self.balance_cents,
                self.offline_counter,
                self.online_counter,
                self.collected_counter,
                self.load_serial,
                *keys,
                self.last_purchase.encode() if self.last_purchase else b"",
                self.last_load.encode() if self.last_load else b"",
            )
        except struct.error as error:
            raise OutOfRange(f"card image: {error}") from None
        return content + _CRC.pack(zlib.crc32(content))

    @classmethod
    def decode(cls, data: bytes) -> PbocCardImage:
        """Raises DamagedData for another length or version, or a wrong CRC."""
        if len(data) != PBOC_IMAGE_BYTES or zlib.crc32(data[: _IMAGE.size]) != _CRC.unpack_from(data, _IMAGE.size)[0]:
            raise DamagedData("card image: length or check is wrong")
        version, _, uid, key_version, number, currency, until, group, balance, *rest = _IMAGE.unpack_from(data)
        if version != _IMAGE_VERSION:
            raise DamagedData(f"card image: version {version}")
        return cls(
            uid=uid,
            number=number,
            key_version=key_version,
            currency=currency,
            keys=PbocCardKeys(*rest[4:9]),
            balance_cents=balance,
            offline_counter=rest[0],
            online_counter=rest[1],
            collected_counter=rest[2],
            load_serial=rest[3],
            valid_until_day=until,
            group=group,
            last_purchase=_kept(rest[9]),
            last_load=_kept(rest[10]),
        )

    def __repr__(self) -> str:
        return (
            f"PbocCardImage({card_masked(self.number)}, balance_cents={self.balance_cents}, "
            f"offline_counter={self.offline_counter}, proof_pending={self.proof_pending})"
        )


def _kept(data: bytes) -> KeptProof | None:
    is_there, entry, mac, tac = _KEPT.unpack(data)
    return KeptProof(LogEntry.decode(entry), mac, tac) if is_there else None
