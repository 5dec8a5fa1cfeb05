"""Vectors of section 10: certificate, head, snapshot and delta of a deny list, and wrong ones."""

from tests.oracle import reference
from tests.oracle.fields import Fields, build, parse
from tests.oracle.lists import (
    CERTIFICATE,
    CONTENT,
    DELTA,
    HEAD,
    OFFLINE_PREFIX,
    Signed,
    apply_delta,
    build_content,
    document,
    make_delta,
    sign_certificate,
    sign_head,
)
from tests.oracle.primitives import ed25519_public
from tests.oracle.reference import (
    LEDGER_PUBLIC,
    LEDGER_SEED,
    NOW_MS,
    ROOT_PUBLIC,
    ROOT_SEED,
    Case,
    case,
    counting,
    section,
)

KEY_ID = 9
YEAR_MS = 31_536_000_000
LISTS_KEY_ID = 3
LISTS_SEED = counting(0x50, 32)
PARAMETERS = {"zh": "午餐", "limits": {"amount_max_cents": 5000, "list_age_ms_max": 86_400_000}, "groups": [1, 2]}


def certificate(site: int = reference.SITE) -> bytes:
    given = {
        "key_id": KEY_ID,
        "site": site,
        "valid_from_ms": NOW_MS,
        "valid_to_ms": NOW_MS + YEAR_MS,
        "public_key": LEDGER_PUBLIC.hex(),
    }
    return sign_certificate(given, ROOT_SEED)


def _head(version: tuple[int, int], content: bytes) -> bytes:
    given = {
        "key_id": KEY_ID,
        "site": reference.SITE,
        "list_kind": 1,
        "generation": version[0],
        "counter": version[1],
        "issued_ms": NOW_MS + 1000 * version[1],
    }
    return sign_head(given, content, LEDGER_SEED)


def issued() -> Signed:
    base = build_content([100, 200, 300, 4_000_000_000], [7])
    content = build_content([100, 250, 300, 301, 4_000_000_000], [7, 8])
    return Signed(
        certificate=certificate(),
        base_version=(2, 8),
        base_content=base,
        base_head=_head((2, 8), base),
        version=(2, 9),
        content=content,
        head=_head((2, 9), content),
        delta=make_delta(base, content),
    )


def _delta(**arrays: list[int]) -> bytes:
    names = ("cards_added", "cards_removed", "lots_added", "lots_removed")
    return build(DELTA, {name: arrays.get(name, []) for name in names})


def published() -> list[Case]:
    """The offline key's certificate and a version of the parameters under it."""
    facts = {"key_id": LISTS_KEY_ID, "site": reference.SITE, "valid_from_ms": NOW_MS, "valid_to_ms": NOW_MS + YEAR_MS}
    by_root = sign_certificate(
        {**facts, "public_key": ed25519_public(LISTS_SEED).hex()}, ROOT_SEED, prefix=OFFLINE_PREFIX
    )
    content = document(PARAMETERS)
    version = {"list_kind": 2, "generation": 1, "counter": 4, "issued_ms": NOW_MS}
    head = sign_head({"key_id": LISTS_KEY_ID, "site": reference.SITE, **version}, content, LISTS_SEED)
    keys = {"root_public_key": ROOT_PUBLIC.hex(), "lists_public_key": ed25519_public(LISTS_SEED).hex()}
    return [
        case("offline certificate", parse(CERTIFICATE, by_root), by_root, expected=keys),
        case("parameters, canonical", {"document": PARAMETERS}, content),
        case("signed head of the parameters", parse(HEAD, head), head, expected=keys),
        case(
            "refused: offline certificate where the ledger's is due",
            {"root_public_key": ROOT_PUBLIC.hex()},
            by_root,
            error="signature wrong",
        ),
    ]


def section_10(signed: Signed) -> Fields:
    keys = {"root_public_key": ROOT_PUBLIC.hex(), "ledger_public_key": LEDGER_PUBLIC.hex()}
    seeds = {"root_seed": ROOT_SEED.hex(), "ledger_seed": LEDGER_SEED.hex()}
    cases: list[Case] = [
        case("public keys of the seeds", seeds, ROOT_PUBLIC + LEDGER_PUBLIC, expected=keys),
        case("certificate", parse(CERTIFICATE, signed.certificate), signed.certificate, expected=keys),
        case("deny list content, empty", parse(CONTENT, build_content([], [])), build_content([], [])),
        case("deny list content, base", parse(CONTENT, signed.base_content), signed.base_content),
        case("signed head of the base", parse(HEAD, signed.base_head), signed.base_head, expected=keys),
        case("deny list content, next", parse(CONTENT, signed.content), signed.content),
        case("signed head of the next", parse(HEAD, signed.head), signed.head, expected=keys),
        case(
            "delta from base to next",
            parse(DELTA, signed.delta),
            signed.delta,
            expected={"base_content": signed.base_content.hex(), "content": signed.content.hex()},
        ),
        case("delta that changes nothing", parse(DELTA, _delta()), _delta()),
    ]
    assert apply_delta(signed.base_content, signed.delta) == signed.content
    base = {"base_content": signed.base_content.hex()}
    unsorted = (2).to_bytes(4, "big") + bytes(4) + (5).to_bytes(4, "big") + (5).to_bytes(4, "big")
    other_site = certificate(reference.SITE + 1)
    cases += [
        case("refused: delta adds what is there", base, _delta(cards_added=[200]), error="delta wrong"),
        case("refused: delta removes what is not", base, _delta(lots_removed=[8]), error="delta wrong"),
        case("refused: content not strictly ascending", {}, unsorted, error="malformed"),
        case("refused: content one byte short", {}, signed.content[:-1], error="malformed"),
        case("refused: content one byte long", {}, signed.content + b"\0", error="malformed"),
        case(
            "refused: certificate with a changed bit",
            keys,
            signed.certificate[:8] + b"\xff" + signed.certificate[9:],
            error="signature wrong",
        ),
        case(
            "refused: head with a higher counter under the old signature",
            keys,
            signed.head[:19] + b"\x0a" + signed.head[20:],
            error="signature wrong",
        ),
        case(
            "rightly signed certificate of another site",
            parse(CERTIFICATE, other_site),
            other_site,
            expected=keys,
        ),
    ]
    cases += published()
    return section("10. Signed versions and the deny list", cases)
