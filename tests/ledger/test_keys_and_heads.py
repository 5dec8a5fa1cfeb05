"""The ledger's keys come from its keystore alone; the heads file is read as strictly as it is written."""

from typing import Any

import pytest

from ledger_sync.ledger.heads import batch_line, operation_line, read_heads
from ledger_sync.ledger.keys import KeyCache, LedgerKeys
from protocol.errors import OutOfRange, RemoteError
from protocol.keystore import Keystore
from protocol.mac import MacKey
from protocol.signed import SoftwareSigner
from tests.ledger.canteen import BATCH_KEY, SEAL_MASTER, SIGNING_SEED, SITE, TAC_MASTER, ledger_keys


def keystore(**changes: Any) -> Keystore:
    keys = {
        "seal_master.1": SEAL_MASTER, "tac_master.1": TAC_MASTER, "tac_master.2": SEAL_MASTER,
        "signing_seed": SIGNING_SEED, "batch_key.7": BATCH_KEY,
    }  # fmt: skip
    facts: dict[str, object] = {"certificate": ledger_keys().certificate_bytes.hex()}
    facts |= changes.pop("facts", {})
    made = Keystore("ledger", SITE, keys, facts)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_keys_are_taken_from_a_keystore_of_kind_ledger() -> None:
    keys = LedgerKeys.from_keystore(keystore())
    assert keys.site == SITE
    assert keys.batch_key(8) is None
    made = keys.batch_key(7)
    assert made is not None
    assert made.mac(b"x") == MacKey(BATCH_KEY).mac(b"x")
    assert keys.seal_key(5, 1).mac(b"x") == ledger_keys().seal_key(5, 1).mac(b"x")
    assert keys.card_key(2, bytes(7)) is not None
    assert keys.card_key(3, bytes(7)) is None
    assert SEAL_MASTER.hex() not in repr(keys)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "frontend"}, {"site": 9}, {"facts": {"certificate": "zz"}}, {"facts": {"certificate": "00" * 120}}],
)
def test_a_keystore_that_is_not_the_ledgers_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((OutOfRange, RemoteError)):
        LedgerKeys.from_keystore(keystore(**changes))


def test_a_certificate_for_another_key_is_refused() -> None:
    wrong = keystore()
    wrong.keys["signing_seed"] = bytes(32)
    with pytest.raises(OutOfRange, match="another signing key"):
        LedgerKeys.from_keystore(wrong)


def test_the_cache_forgets_what_was_used_least_lately() -> None:
    made: list[int] = []

    def make(name: int) -> MacKey:
        made.append(name)
        return MacKey(bytes([name]) * 16)

    cache = KeyCache(make, entries_max=2)
    for name in (1, 2, 1, 3, 1, 2):
        cache.get(name)
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2


SIGNER = SoftwareSigner(SIGNING_SEED)


def line(position: int, generation: int = 1) -> bytes:
    return batch_line(
        SIGNER, position=position, generation=generation, posted_ms=5, name=bytes(68), chain=bytes([position]) * 32
    )


def restore(operation: int, after: int) -> bytes:
    return operation_line(
        SIGNER, operation=operation, after_position=after, at_ms=1, operator="Li", verb="restore", arguments="{}",
        hash_=bytes(32),
    )  # fmt: skip


def test_lines_follow_each_other_without_holes() -> None:
    heads = read_heads(line(1) + line(2) + line(2) + line(4), SIGNER.public_key)
    assert (heads.last_position, heads.faults) == (2, [(4, "batch 4 follows 2")])


def test_a_restore_takes_the_place_of_what_came_after_its_position() -> None:
    data = line(1) + line(2) + line(3) + restore(1, 1) + line(2, 2)
    heads = read_heads(data, SIGNER.public_key)
    assert heads.faults == []
    assert [heads.batches[position]["generation"] for position in (1, 2)] == [1, 2]
    assert heads.last_position == 2


def test_a_line_signed_by_another_key_counts_for_nothing() -> None:
    heads = read_heads(line(1), SoftwareSigner(bytes(32)).public_key)
    assert (heads.last_position, heads.faults) == (0, [(1, "the signature does not verify")])


NO_HEADS = [
    *(b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"head": 1}\n', b"{" * 9999, b"null\n"),
    b'{"head": "batch", "position": Infinity, "signature": ""}\n',
    b'{"head": "operation", "operation": 1, "signature": ""}\n',
    b'{"head": "operation", "operation": 1, "verb": "restore", "after_position": [], "signature": ""}\n',
]


@pytest.mark.parametrize("junk", NO_HEADS)
def test_junk_between_lines_is_counted_and_harms_nothing(junk: bytes) -> None:
    for public_key in (SIGNER.public_key, None):  # None: as at opening, where signatures are not checked
        heads = read_heads(line(1) + junk + b"\n" + line(2), public_key)
        assert (heads.last_position, heads.faults) == (2, [])
        assert heads.torn >= 1
