"""protocol.keystore: keys at rest (docs/protocol.md §13, R37)."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import DamagedData, Malformed, OutOfRange, ProofError, RemoteError, TooLong
from protocol.keystore import Keystore, open_keystore, seal_keystore, unlock_secret_of
from protocol.limits import KEYSTORE_BYTES_MAX
from tests.hostile import HostileKit

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "13_keystore.json").read_text(encoding="utf-8")
)["cases"]
GOOD = CASES[0]
SECRET = bytes.fromhex(GOOD["given"]["unlock_secret"])
FILE = bytes.fromhex(GOOD["bytes"])
SALT, NONCE = bytes(range(16)), bytes(range(16, 28))
KEY = bytes(range(0xA0, 0xB0))
ERRORS: dict[str, type[RemoteError]] = {"malformed": Malformed, "tag wrong": ProofError}


def sealed(plaintext: bytes) -> bytes:
    """A file with any plaintext, rightly encrypted."""
    header = b"OCKS\x01\x01\x0a\x08\x01\0\0\0" + SALT + NONCE
    key = Scrypt(salt=SALT, length=32, n=1024, r=8, p=1).derive(SECRET)
    return header + AESGCM(key).encrypt(NONCE, plaintext, header)


def test_keystore_of_the_vector_opens() -> None:
    expected = GOOD["expected"]
    opened = open_keystore(FILE, SECRET)
    assert (opened.kind, opened.site, opened.facts) == (expected["kind"], expected["site"], expected["facts"])
    assert opened.keys == {name: bytes.fromhex(key) for name, key in expected["keys"].items()}


def test_plaintext_of_the_vector_sealed_by_hand_is_the_vector_file() -> None:
    assert sealed(GOOD["given"]["plaintext"].encode()) == FILE
    given = GOOD["given"]
    contents = open_keystore(FILE, SECRET)
    again = seal_keystore(
        contents,
        SECRET,
        salt=bytes.fromhex(given["salt"]),
        nonce=bytes.fromhex(given["nonce"]),
        log2_n=given["log2_n"],
    )
    assert again[:40] == FILE[:40]  # the ciphertext differs: we sort the names inside the JSON
    assert open_keystore(again, SECRET) == contents


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case["name"])
def test_file_that_the_vectors_refuse_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ERRORS[case["error"]]):
        open_keystore(bytes.fromhex(case["bytes"]), SECRET)


names = st.text(min_size=1, max_size=12)


@settings(max_examples=20)
@given(
    names,
    st.integers(0, 0xFFFF_FFFF),
    st.dictionaries(names, st.binary(min_size=1, max_size=40), max_size=4),
    st.dictionaries(names, st.none() | st.booleans() | st.integers() | names | st.lists(names, max_size=2)),
)
def test_what_is_sealed_is_what_opens(kind: str, site: int, keys: dict[str, bytes], facts: dict[str, Any]) -> None:
    contents = Keystore(kind, site, keys, facts)
    assert open_keystore(seal_keystore(contents, SECRET, salt=SALT, nonce=NONCE, log2_n=10), SECRET) == contents


def test_same_contents_always_give_the_same_bytes() -> None:
    one = Keystore("ledger", 1, {"a": KEY, "b": KEY})
    other = Keystore("ledger", 1, {"b": KEY, "a": KEY})
    assert seal_keystore(one, SECRET, salt=SALT, nonce=NONCE, log2_n=10) == seal_keystore(
        other, SECRET, salt=SALT, nonce=NONCE, log2_n=10
    )


def test_wrong_secret_says_that_it_may_be_damage_and_shows_neither() -> None:
    for secret in (SECRET + b"x", SECRET[:-1], b"", b"\0"):
        with pytest.raises(ProofError, match="unlock secret") as caught:
            open_keystore(FILE, secret)
        assert SECRET.decode() not in str(caught.value)
        assert caught.value.__suppress_context__ or not secret


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"kind": "x", "site": 1, "keys": {}}',
        b'{"kind": "x", "site": 1, "keys": {}, "facts": {}, "more": 1}',
        b'{"kind": "x", "kind": "y", "site": 1, "keys": {}, "facts": {}}',
        b'{"kind": 1, "site": 1, "keys": {}, "facts": {}}',
        b'{"kind": "x", "site": true, "keys": {}, "facts": {}}',
        b'{"kind": "x", "site": -1, "keys": {}, "facts": {}}',
        b'{"kind": "x", "site": 4294967296, "keys": {}, "facts": {}}',
        b'{"kind": "x", "site": 1, "keys": [], "facts": {}}',
        b'{"kind": "x", "site": 1, "keys": {}, "facts": []}',
        b'{"kind": "x", "site": 1, "keys": {"k": 5}, "facts": {}}',
        b'{"kind": "x", "site": 1, "keys": {"k": ""}, "facts": {}}',
        b'{"kind": "x", "site": 1, "keys": {"k": "c0ffee0g"}, "facts": {}}',
        b'{"kind": "x", "site": 1, "keys": {"k": "c0ffee", "k": "00"}, "facts": {}}',
    ],
)
def test_file_that_opens_but_holds_no_keystore_is_damaged_and_quotes_no_key(plaintext: bytes) -> None:
    with pytest.raises(DamagedData) as caught:
        open_keystore(sealed(plaintext), SECRET)
    assert "c0ffee" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_costs_are_refused_before_memory_is_spent() -> None:
    for offset, value in ((6, 9), (6, 19), (6, 31), (6, 255), (7, 255), (8, 255)):
        changed = bytearray(FILE)
        changed[offset] = value
        tracemalloc.start()
        with pytest.raises(Malformed, match="cost"):
            open_keystore(bytes(changed), SECRET)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
        tracemalloc.stop()


def test_file_above_the_limit_is_refused_by_its_length() -> None:
    with pytest.raises(TooLong):
        open_keystore(memoryview(bytearray(KEYSTORE_BYTES_MAX + 1)), SECRET)
    with pytest.raises(OutOfRange, match="at most"):
        seal_keystore(
            Keystore("x", 1, facts={"long": "x" * KEYSTORE_BYTES_MAX}), SECRET, salt=SALT, nonce=NONCE, log2_n=10
        )


def test_misuse_is_told_before_anything_is_encrypted() -> None:
    good = Keystore("x", 1, {"k": KEY})
    for secret, salt, nonce, log2_n in (
        (b"", SALT, NONCE, 10),
        (SECRET, SALT[:-1], NONCE, 10),
        (SECRET, SALT, NONCE + b"\0", 10),
        (SECRET, SALT, NONCE, 9),
        (SECRET, SALT, NONCE, 19),
    ):
        with pytest.raises(OutOfRange):
            seal_keystore(good, secret, salt=salt, nonce=nonce, log2_n=log2_n)
    for contents in (Keystore("x", 1, {"k": b""}), Keystore("x", 1, facts={"f": KEY})):
        with pytest.raises(OutOfRange):
            seal_keystore(contents, SECRET, salt=SALT, nonce=NONCE, log2_n=10)


def test_repr_shows_names_and_no_key_and_no_fact() -> None:
    shown = repr(Keystore("frontend", 42, {"batch_key": KEY}, {"pin": "secret"}))
    assert shown == "Keystore('frontend', site 42, keys ['batch_key'])"


def test_missing_key_is_named() -> None:
    with pytest.raises(DamagedData, match=r"'frontend'.*'batch_key'"):
        Keystore("frontend", 42).key("batch_key")
    assert Keystore("frontend", 42, {"batch_key": KEY}).key("batch_key") == KEY


def test_versions_of_a_branch_are_found_by_number() -> None:
    keys = {"link_master.1": b"1", "link_master.12": b"12", "link_master.x": b"x", "seal_master.1": b"s"}
    assert Keystore("x", 1, keys).versions("link_master") == {1: b"1", 12: b"12"}


def test_unlock_secret_is_the_file_without_one_line_end() -> None:
    for content in (b"secret", b"secret\n", b"secret\r\n"):
        assert unlock_secret_of(content) == b"secret"
    assert unlock_secret_of(b"secret\n\n") == b"secret\n"
    for content in (b"", b"\n", b"\r\n"):
        with pytest.raises(Malformed, match="empty"):
            unlock_secret_of(content)


def test_hostile_bytes_in_a_keystore_file() -> None:
    small = seal_keystore(Keystore("x", 1), SECRET, salt=SALT, nonce=NONCE, log2_n=10)
    kit = HostileKit(small, lambda data: open_keystore(data, SECRET), authenticated=True, garbage_rounds=100)
    kit.decodes_from_any_buffer()
    kit.refuses_truncation_at_every_offset()
    kit.refuses_oversize()
    kit.survives_garbage()
    # Every bit would cost 800 key derivations; the header's bits and one of each later byte tell the same.
    for offset in range(len(small)):
        changed = bytearray(small)
        changed[offset] ^= 1 << offset % 8
        if offset == 6 and 10 < changed[6] <= 18:
            continue  # a dearer but allowed cost: refused by the tag as well, at the price of memory
        with pytest.raises(RemoteError):
            open_keystore(bytes(changed), SECRET)
