"""The oracle against published vectors and a second library, and the vector files against the oracle.

What the oracle says is what the product is measured by; so it is first measured itself.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import cmac as library_cmac
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

from tests.oracle import card, examples, frames, handshake, keystore, link, lists, messages, records, sealed, sm4
from tests.oracle.fields import OracleError, parse
from tests.oracle.keys import diversify, kdf
from tests.oracle.make_vectors import VECTORS, all_vectors, as_text
from tests.oracle.primitives import (
    SUITE_A,
    SUITE_B,
    ccm_open,
    ccm_seal,
    cmac,
    crc16,
    crc32,
    ed25519_public,
    ed25519_sign,
    ed25519_verify,
    scrypt_key,
)
from tests.oracle.reference import BATCH_KEY, CARD_KEYS, LEDGER_PUBLIC, ROOT_PUBLIC, SEAL_KEY

FILES: Final = sorted(all_vectors())
RFC_4493_KEY: Final = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
RFC_4493_MESSAGE: Final = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
SM4_EXAMPLE: Final = bytes.fromhex("0123456789abcdeffedcba9876543210")


def cases_of(file: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / file).read_text(encoding="utf-8"))["cases"]
    return cases


# -- published vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_cmac_agrees_with_rfc_4493(size: int, expected: str) -> None:
    assert cmac(RFC_4493_KEY, RFC_4493_MESSAGE[:size]).hex() == expected


def test_ccm_agrees_with_example_1_of_sp_800_38c() -> None:
    key, nonce, header = bytes(range(0x40, 0x50)), bytes(range(0x10, 0x17)), bytes(range(8))
    body, tag = ccm_seal(key, nonce, header, bytes(range(0x20, 0x24)), 4)
    assert (body.hex(), tag.hex()) == ("7162015b", "4dac255d")


def test_ccm_with_a_nonce_of_13_bytes_agrees_with_rfc_3610() -> None:
    key, nonce, header = bytes(range(0xC0, 0xD0)), bytes.fromhex("00000003020100a0a1a2a3a4a5"), bytes(range(8))
    body, tag = ccm_seal(key, nonce, header, bytes(range(8, 0x1F)), 8)
    assert body.hex() == "588c979a61c663d2f066d0c2c0f989806d5f6b61dac384"
    assert tag.hex() == "17e8d12cfdf926e0"
    assert ccm_open(key, nonce, header, body, tag) == bytes(range(8, 0x1F))


def test_ed25519_agrees_with_test_1_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519_public(seed).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = ed25519_sign(seed, b"")
    assert signature.hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555f"
        "b8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert ed25519_verify(ed25519_public(seed), b"", signature)
    assert not ed25519_verify(ed25519_public(seed), b"x", signature)


def test_diversification_agrees_with_an10922() -> None:
    made = diversify(
        bytes.fromhex("00112233445566778899aabbccddeeff"),
        bytes.fromhex("04782e21801d80"),
        bytes.fromhex("3042f5"),
        bytes.fromhex("4e585020416275"),
    )
    assert made.hex() == "a8dd63a3b89d54b37ca802473fda9175"


def test_scrypt_agrees_with_rfc_7914() -> None:
    key = scrypt_key(b"password", b"NaCl", 10, 8, 16)
    assert key.hex() == "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"


def test_check_sums_agree_with_their_catalogue_values() -> None:
    assert crc16(b"123456789") == 0x29B1
    assert crc32(b"123456789") == 0xCBF43926


def test_sm4_agrees_with_the_example_of_its_standard() -> None:
    assert sm4.encrypt_block(SM4_EXAMPLE, SM4_EXAMPLE).hex() == "681edf34d206965e86b3e94f536e4246"


def test_sm4_gcm_agrees_with_rfc_8998() -> None:
    body = b"".join(bytes([value]) * 8 for value in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
    header = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    nonce = bytes.fromhex("00001234567800000000abcd")
    made, tag = sm4.gcm_seal(SM4_EXAMPLE, nonce, header, body)
    assert made.hex() == (
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
    )
    assert tag.hex() == "83de3541e4c2b58177e065a9bf7b62ec"
    assert sm4.gcm_open(SM4_EXAMPLE, nonce, header, made, tag) == body


# -- a second library ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 40])
def test_sm4_cmac_agrees_with_a_second_library(size: int) -> None:
    other = library_cmac.CMAC(algorithms.SM4(SM4_EXAMPLE))
    other.update(RFC_4493_MESSAGE[:size])
    assert cmac(SM4_EXAMPLE, RFC_4493_MESSAGE[:size], SUITE_B) == other.finalize()


@pytest.mark.parametrize("suite", [SUITE_A, SUITE_B])
@pytest.mark.parametrize("bits", [40, 128, 256, 264])
def test_kdf_agrees_with_a_second_library(suite: int, bits: int) -> None:
    context = RFC_4493_MESSAGE
    other = KBKDFCMAC(
        algorithm=algorithms.AES if suite == SUITE_A else algorithms.SM4,
        mode=Mode.CounterMode,
        length=bits // 8,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=b"session.up.key",
        context=context,
        fixed=None,
    )
    assert kdf(RFC_4493_KEY, "session.up.key", context, bits, suite) == other.derive(RFC_4493_KEY)


# -- vector files ----------------------------------------------------------------------------------------------------


def test_making_the_vectors_again_gives_the_same_files() -> None:
    made = {name: as_text(vectors) for name, vectors in all_vectors().items()}
    stored = {path.name: path.read_text(encoding="utf-8") for path in VECTORS.glob("*.json")}
    assert set(stored) == set(made)
    assert [name for name in made if made[name] != stored[name]] == []


def test_the_worked_examples_on_the_page_are_what_the_oracle_makes() -> None:
    page = examples.PAGE.read_text(encoding="utf-8")
    assert examples.block_of(page) == examples.render()


def _parse_frame(data: bytes, given: Mapping[str, Any]) -> object:
    return frames.parse_frame(data, line=given["line"], body_limit=given["body_limit"])


def _parse_list(data: bytes, given: Mapping[str, Any]) -> object:
    if "base_content" in given:
        return lists.apply_delta(bytes.fromhex(given["base_content"]), data)
    signed: dict[int, tuple[Callable[[bytes, bytes], bool], bytes]] = {
        120: (lists.certificate_is_signed, ROOT_PUBLIC),
        128: (lists.head_is_signed, LEDGER_PUBLIC),
    }
    if len(data) in signed and given:
        verify, public = signed[len(data)]
        if not verify(data, public):
            raise OracleError("signature wrong")
        return None
    return parse(lists.CONTENT, data)


REFUSE: Final[dict[str, Callable[[bytes, Mapping[str, Any]], object]]] = {
    "03_frames.json": _parse_frame,
    "04_handshake.json": lambda data, given: parse(handshake.BODIES[given["kind"]], data),
    "06_messages.json": lambda data, _: messages.parse_message(data),
    "07_records.json": lambda data, _: records.parse_record(data),
    "07c_record_kinds.json": lambda data, _: records.parse_record(data),
    "10_lists.json": _parse_list,
    "11_link.json": lambda data, _: link.parse_message(data, batch_key=BATCH_KEY, ledger_public=LEDGER_PUBLIC),
    "13_keystore.json": lambda data, given: keystore.open_keystore(data, bytes.fromhex(given["unlock_secret"])),
}
REFUSED: Final = [
    pytest.param(file, one, id=f"{file}: {one['name']}") for file in REFUSE for one in cases_of(file) if "error" in one
]


@pytest.mark.parametrize(("file", "one"), REFUSED)
def test_a_case_with_an_error_is_refused_with_just_that_error(file: str, one: dict[str, Any]) -> None:
    with pytest.raises(OracleError) as caught:
        REFUSE[file](bytes.fromhex(one["bytes"]), one["given"])
    assert caught.value.code == one["error"]


def test_every_case_but_an_error_is_accepted() -> None:
    for file in ("03_frames.json", "04_handshake.json"):
        for one in (each for each in cases_of(file) if "error" not in each and "kind" in each["given"]):
            given, data = one["given"], bytes.fromhex(one["bytes"])
            found = (
                frames.parse_frame(data, line=given["line"])
                if file == "03_frames.json"
                else parse(handshake.BODIES[given["kind"]], data)
            )
            assert {name: given[name] for name in given if name in found}.items() <= found.items(), one["name"]


@pytest.mark.parametrize(("file", "length"), [("07_records.json", 7), ("07c_record_kinds.json", 21)])
def test_seals_of_the_chain_link_each_record_to_its_predecessor(file: str, length: int) -> None:
    (genesis,) = [one for one in cases_of("07_records.json") if one["name"] == "genesis seal"]
    before = genesis["bytes"]
    chain = [one for one in cases_of(file) if "sealed_over" in one.get("expected", {})]
    assert len(chain) == length
    for one in chain:
        data = bytes.fromhex(one["bytes"])
        assert data[-16:-8].hex() == before
        assert records.seal_of(SEAL_KEY, data) == data[-8:]
        before = data[-8:].hex()


def test_the_card_of_the_dialogue_proves_the_first_purchase_of_the_chain() -> None:
    dialogue = {one["name"]: one for one in cases_of("12_card.json")}
    purchase = next(one for one in cases_of("07_records.json") if one["name"] == "purchase")
    proof = dialogue["debit 12.50"]["expected"]["answer_data"]["card_proof"]
    assert proof == purchase["given"]["body"]["card_proof"]


def test_every_record_type_of_the_page_stands_in_a_chain() -> None:
    shown = {
        one["given"]["type"]
        for file in ("07_records.json", "07c_record_kinds.json")
        for one in cases_of(file)
        if "predecessor_seal" in one["given"]
    }
    assert set(records.BODIES) <= shown


def test_every_status_word_of_the_page_is_shown_by_some_case() -> None:
    shown = {one["expected"]["sw"] for one in cases_of("12_card.json") if "expected" in one}
    assert shown == {"9000", "6700", "6982", "6985", "6a80", "6a83", "6a84", "6a88", "6d00", "9401", "9403", "9406"} | {
        "9407",
        "9408",
    }


def test_a_changed_bit_anywhere_in_a_sealed_frame_is_noticed() -> None:
    for one in cases_of("05_sealed_frames.json"):
        given, frame = one["given"], bytearray.fromhex(one["bytes"])
        if len(frame) > 64:
            continue
        secret: dict[str, Any] = {"key": bytes.fromhex(given["key"]), "salt": bytes.fromhex(given["salt"])}
        facts: dict[str, Any] = {"counter": given["counter"], "line": given["line"], "suite": given["suite"]}
        assert sealed.open_frame(bytes(frame), **secret, **facts).hex() == given["message"]
        for bit in range(8 * len(frame)):
            changed = bytearray(frame)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(OracleError):
                sealed.open_frame(bytes(changed), **secret, **facts)


def test_the_keystore_case_opens_with_its_secret_and_no_other() -> None:
    (one,) = [each for each in cases_of("13_keystore.json") if "error" not in each]
    data, secret = bytes.fromhex(one["bytes"]), bytes.fromhex(one["given"]["unlock_secret"])
    assert keystore.open_keystore(data, secret) == one["expected"]
    with pytest.raises(OracleError, match="tag wrong"):
        keystore.open_keystore(data, secret + b"!")


def test_nothing_of_the_product_is_imported() -> None:
    product = ("protocol", "ledger_sync", "frontend_server", "terminal_sim", "firmware_tools", "onecard")
    for path in Path(examples.__file__).parent.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.strip().startswith(tuple(f"{verb} {one}" for verb in ("import", "from") for one in product))


def test_a_failed_command_leaves_the_card_as_it_was() -> None:
    for one in cases_of("12_card.json"):
        if "card_before" not in one["given"] or one["expected"]["sw"] == "9000":
            continue
        chip = card.Card(keys=CARD_KEYS, facts=_facts(), balance=50, counter=9, rnd_c=bytes(16))
        before = (chip.balance, chip.counter, chip.unconfirmed, chip.last_proof)
        chip.answer(bytes.fromhex(one["bytes"]))
        assert (chip.balance, chip.counter, chip.unconfirmed, chip.last_proof) == before


def _facts() -> dict[str, Any]:
    (given,) = [one["given"] for one in cases_of("12_card.json") if one["name"].startswith("the card and")]
    facts: dict[str, Any] = given["card"]
    return facts
