"""protocol.signed: certificates and signed heads (docs/protocol.md §10, R27, R36)."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.codes import ListKind
from protocol.errors import Malformed, OutOfRange, ProofError
from protocol.signed import (
    CERTIFICATE_CONTEXT,
    HEAD_CONTEXT,
    Certificate,
    SignedHead,
    SoftwareSigner,
    issue_certificate,
    sign_context,
    sign_head,
    verify_certificate,
    verify_head,
    verify_signature,
)
from tests.hostile import REFUSED, HostileKit, flipped, outcome

VECTORS: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[1] / "vectors" / "10_lists.json").read_text(encoding="utf-8"))[
        "cases"
    ]
}
SEEDS = VECTORS["public keys of the seeds"]["given"]
ROOT_SEED = bytes.fromhex(SEEDS["root_seed"])
LEDGER_SEED = bytes.fromhex(SEEDS["ledger_seed"])
ROOT = SoftwareSigner(ROOT_SEED)
LEDGER = SoftwareSigner(LEDGER_SEED)
SITE = 42
FROM_MS, TO_MS = 1_772_438_400_000, 1_803_974_400_000


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["bytes"])


CERTIFICATE_BYTES = vector("certificate")
HEAD_BYTES = vector("signed head of the base")
CERTIFICATE = Certificate.decode(CERTIFICATE_BYTES)


def make_certificate(**changes: Any) -> Certificate:
    facts = {"key_id": 9, "site": SITE, "valid_from_ms": FROM_MS, "valid_to_ms": TO_MS, **changes}
    return issue_certificate(ROOT_SEED, public_key=LEDGER.public_key, **facts)


def make_head(**changes: Any) -> SignedHead:
    facts = {
        "key_id": 9,
        "site": SITE,
        "list_kind": ListKind.DENY,
        "generation": 2,
        "counter": 8,
        "issued_ms": FROM_MS,
        "content": bytes(8),
        **changes,
    }
    return sign_head(LEDGER_SEED, **facts)


def test_public_keys_of_the_vector_seeds() -> None:
    assert ROOT.public_key + LEDGER.public_key == vector("public keys of the seeds")


def test_certificate_is_issued_byte_for_byte_as_in_the_vector() -> None:
    assert make_certificate().encode() == CERTIFICATE_BYTES
    assert make_certificate() == CERTIFICATE
    verify_certificate(CERTIFICATE, ROOT.public_key, SITE, FROM_MS)


@pytest.mark.parametrize("which", ["base", "next"])
def test_head_is_signed_byte_for_byte_as_in_the_vector(which: str) -> None:
    given = VECTORS[f"signed head of the {which}"]["given"]
    content = vector(f"deny list content, {which}")
    head = make_head(
        generation=given["generation"],
        counter=given["counter"],
        issued_ms=given["issued_ms"],
        content=content,
    )
    assert head.encode() == vector(f"signed head of the {which}")
    assert SignedHead.decode(head.encode()) == head
    assert head.version == (given["generation"], given["counter"])
    assert head.names(content)
    assert not head.names(content[:-1] + b"\x09")
    assert not head.names(content + b"\0")
    verify_head(head, CERTIFICATE)


def test_changed_bit_in_a_certificate_or_counter_of_a_head_is_refused() -> None:
    changed = Certificate.decode(vector("refused: certificate with a changed bit"))
    with pytest.raises(ProofError):
        verify_certificate(changed, ROOT.public_key, SITE, None)
    raised = SignedHead.decode(vector("refused: head with a higher counter under the old signature"))
    with pytest.raises(ProofError):
        verify_head(raised, CERTIFICATE)


def test_rightly_signed_certificate_of_another_site_is_refused() -> None:
    other = Certificate.decode(vector("rightly signed certificate of another site"))
    verify_certificate(other, ROOT.public_key, 43, None)
    with pytest.raises(ProofError, match="site"):
        verify_certificate(other, ROOT.public_key, SITE, None)


def test_certificate_outside_its_validity_is_refused_where_a_clock_is_trusted() -> None:
    for now_ms in (FROM_MS, TO_MS):
        verify_certificate(CERTIFICATE, ROOT.public_key, SITE, now_ms)
    for now_ms in (0, FROM_MS - 1, TO_MS + 1):
        with pytest.raises(ProofError, match="not valid"):
            verify_certificate(CERTIFICATE, ROOT.public_key, SITE, now_ms)
        verify_certificate(CERTIFICATE, ROOT.public_key, SITE, None)


def test_head_of_another_key_or_site_than_the_certificate_is_refused() -> None:
    for head in (make_head(key_id=10), make_head(site=43)):
        with pytest.raises(ProofError):
            verify_head(head, CERTIFICATE)


@pytest.mark.parametrize(
    ("issued_ms", "is_good"), [(FROM_MS - 1, False), (FROM_MS, True), (TO_MS, True), (TO_MS + 1, False)]
)
def test_head_issued_outside_the_validity_of_its_certificate_is_refused(issued_ms: int, is_good: bool) -> None:
    head = make_head(issued_ms=issued_ms)
    if is_good:
        verify_head(head, make_certificate())
        return
    with pytest.raises(ProofError, match="issued outside the validity"):
        verify_head(head, make_certificate())


def test_no_signature_serves_in_another_context() -> None:
    head = make_head()
    signed = head.signed_bytes()
    verify_signature(LEDGER.public_key, head.signature, sign_context(HEAD_CONTEXT, signed), what="head")
    for context in (CERTIFICATE_CONTEXT, "onecard.link.v1", ""):
        with pytest.raises(ProofError):
            verify_signature(LEDGER.public_key, head.signature, sign_context(context, signed), what="head")


def test_context_and_data_are_divided_by_a_zero_byte() -> None:
    assert sign_context("onecard.head.v1", b"\x01\x02") == b"onecard.head.v1\x00\x01\x02"


def test_hsm_signs_in_the_place_of_a_seed() -> None:
    class Hsm:
        def __init__(self) -> None:
            self._key = Ed25519PrivateKey.from_private_bytes(LEDGER_SEED)
            self.asked = 0

        @property
        def public_key(self) -> bytes:
            return self._key.public_key().public_bytes_raw()

        def sign(self, data: bytes) -> bytes:
            self.asked += 1
            return self._key.sign(data)

    hsm = Hsm()
    facts = {"key_id": 9, "site": SITE, "list_kind": 1, "generation": 2, "counter": 8, "issued_ms": FROM_MS}
    assert sign_head(hsm, content=bytes(8), **facts) == make_head()
    assert hsm.asked == 1


def test_wrong_public_key_is_a_proof_error_and_not_a_crash() -> None:
    for public_key in (bytes(32), b"\xff" * 32, bytes(31), b""):
        with pytest.raises(ProofError):
            verify_certificate(CERTIFICATE, public_key, SITE, None)


def test_signer_shows_nothing_of_its_seed() -> None:
    for shown in (repr(LEDGER), str(LEDGER), f"{LEDGER}"):
        assert shown == "SoftwareSigner(…)"
    assert not hasattr(LEDGER, "__dict__")


def test_our_own_misuse_is_told_before_anything_is_signed() -> None:
    with pytest.raises(OutOfRange):
        SoftwareSigner(bytes(31))
    for changes in ({"site": 0}, {"valid_to_ms": FROM_MS - 1}, {"key_id": 1 << 32}):
        with pytest.raises(OutOfRange):
            make_certificate(**changes)
    for changes in ({"site": 0}, {"generation": 0, "counter": 0}, {"list_kind": 256}):
        with pytest.raises(OutOfRange):
            make_head(**changes)


def test_head_with_reserved_bytes_or_without_a_version_is_malformed() -> None:
    for offset in (9, 10, 11):
        changed = bytearray(HEAD_BYTES)
        changed[offset] = 1
        with pytest.raises(Malformed, match="reserved"):
            SignedHead.decode(changed)
    with pytest.raises(Malformed, match="none"):
        SignedHead.decode(HEAD_BYTES[:12] + bytes(8) + HEAD_BYTES[20:])
    with pytest.raises(Malformed, match="site 0"):
        SignedHead.decode(bytes(128))


def test_every_flipped_bit_of_a_certificate_or_head_is_refused() -> None:
    def certified(data: bytes) -> Certificate:
        certificate = Certificate.decode(data)
        verify_certificate(certificate, ROOT.public_key, SITE, None)
        return certificate

    def headed(data: bytes) -> SignedHead:
        head = SignedHead.decode(data)
        verify_head(head, CERTIFICATE)
        return head

    for decode, good in ((certified, CERTIFICATE_BYTES), (headed, HEAD_BYTES)):
        decode(good)
        for offset, bit, changed in flipped(good):
            assert outcome(decode, changed, f"{offset}.{bit}") is REFUSED


def test_hostile_bytes_in_certificate_and_head() -> None:
    HostileKit(CERTIFICATE_BYTES, Certificate.decode, bytes_max=120).run_all()
    HostileKit(HEAD_BYTES, SignedHead.decode, bytes_max=128).run_all()
