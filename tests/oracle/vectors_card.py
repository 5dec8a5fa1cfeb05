"""Vectors of sections 12 and 13: a dialogue with the AES card, command by command, and a keystore file."""

import json
from typing import Final

from tests.oracle import card, keystore, reference
from tests.oracle.fields import Fields, parse
from tests.oracle.reference import CARD_KEYS, CARD_NUMBER, CURRENCY, EPOCH, TERMINAL, Case, case, section

RND_T: Final = reference.counting(0x90, 16)
RND_C: Final = reference.counting(0xB0, 16)
KEY_VERSION: Final = reference.CARD_KEY_VERSION
FACTS: Final = {
    "card_kind": 1,
    "key_version": KEY_VERSION,
    "card_uid": reference.CARD_UID.hex(),
    "card_number": CARD_NUMBER,
    "currency": CURRENCY,
    "valid_until_days": 21_915,
    "card_group": 4,
}
ANSWERS: Final = {
    "SELECT": card.SELECT_ANSWER,
    "AUTHENTICATE": card.AUTHENTICATE_ANSWER,
    "DEBIT": card.DEBIT_ANSWER,
    "GET PROOF": card.GET_PROOF_ANSWER,
}
IDENTITY: Final = {"terminal": TERMINAL, "epoch": EPOCH, "sequence": 1}
DEBIT: Final = {"amount": 1250, "currency": CURRENCY, **IDENTITY}

Step = tuple[str, Fields, bytes]  # command, its fields, its bytes


def new_card() -> card.Card:
    """Before the first purchase of section 7's chain."""
    return card.Card(keys=CARD_KEYS, facts=FACTS, balance=10_000, counter=100, rnd_c=RND_C)


def select() -> Step:
    return "SELECT", {}, card.SELECT


def authenticate(key_version: int = KEY_VERSION) -> Step:
    given = {"key_version": key_version, "rnd_t": RND_T.hex()}
    return "AUTHENTICATE", given, card.command(card.AUTHENTICATE_INS, key_version, RND_T)


def debit(**changes: int) -> Step:
    data = card.debit_data(CARD_KEYS["debit"], RND_T, RND_C, {**DEBIT, **changes})
    return "DEBIT", _with_version(parse(card.DEBIT_DATA, data)), card.command(card.DEBIT_INS, KEY_VERSION, data)


def get_proof() -> Step:
    return "GET PROOF", {}, card.GET_PROOF


def confirm(**changes: int) -> Step:
    data = card.confirm_data(CARD_KEYS["authenticate"], RND_T, RND_C, {**IDENTITY, **changes})
    given = _with_version(parse(card.CONFIRM_DATA, data))
    return "CONFIRM", given, card.command(card.CONFIRM_INS, KEY_VERSION, data)


def _with_version(given: Fields) -> Fields:
    return {"key_version": KEY_VERSION, **given}


def _exchange(chip: card.Card, title: str, step: Step) -> Case:
    name, given, apdu = step
    state = {
        "balance": chip.balance,
        "counter": chip.counter,
        "last_proof_not_confirmed": chip.unconfirmed,
        "selected": chip.selected,
        "authenticated": chip.rnd_t is not None,
    }
    answer = chip.answer(apdu)
    expected: Fields = {"answer": answer.hex(), "sw": answer[-2:].hex()}
    if answer[-2:] == b"\x90\x00" and name in ANSWERS:
        expected["answer_data"] = parse(ANSWERS[name], answer[:-2])
    return case(title, {"command": name, **given, "card_before": state}, apdu, expected=expected)


def purchase_dialogue() -> list[Case]:
    """The purchase of 12.50 with which section 7's chain begins."""
    chip = new_card()
    steps = [
        ("select", select()),
        ("authenticate", authenticate()),
        ("debit 12.50", debit()),
        ("get proof", get_proof()),
        ("confirm", confirm()),
    ]
    return [_exchange(chip, title, step) for title, step in steps]


def _after_loss_of_power() -> list[Case]:
    """The answer to DEBIT was lost; the next dialogue fetches the proof, confirms, then debits."""
    chip = new_card()
    for _, _, apdu in (select(), authenticate(), debit()):
        chip.answer(apdu)
    chip.power_off()
    steps = [
        ("after loss of power: select shows the flag", select()),
        ("after loss of power: get proof needs no authentication", get_proof()),
        ("after loss of power: confirm without authentication", confirm()),
        ("after loss of power: authenticate", authenticate()),
        ("after loss of power: debit while not confirmed", debit(sequence=2)),
        ("after loss of power: confirm of another identity changes nothing", confirm(sequence=2)),
        ("after loss of power: confirm", confirm()),
        ("after loss of power: select shows no flag", select()),
        ("after loss of power: get proof still answers", get_proof()),
    ]
    return [_exchange(chip, title, step) for title, step in steps]


def _refusals() -> list[Case]:
    name, given, apdu = debit()
    forged = (name, {**given, "mac": "00" * 8}, apdu[:-8] + bytes(8))
    steps = [
        ("no proof kept", [select()], get_proof()),
        ("get proof before select", [], get_proof()),
        ("authenticate before select", [], authenticate()),
        ("debit without authentication", [select()], debit()),
        ("debit with a wrong MAC", [select(), authenticate()], forged),
        ("debit of 0", [select(), authenticate()], debit(amount=0)),
        ("debit in another currency", [select(), authenticate()], debit(currency=840)),
        ("debit above the balance", [select(), authenticate()], debit(amount=10_001)),
        ("key version unknown", [select()], authenticate(KEY_VERSION + 1)),
        ("second debit of one authentication", [select(), authenticate(), debit(), confirm()], debit(sequence=2)),
        ("confirm with no proof kept", [select(), authenticate()], confirm()),
        ("unknown command", [select()], ("80 99", {}, bytes.fromhex("8099000000"))),
        ("wrong length", [select()], ("AUTHENTICATE", {}, bytes.fromhex("80820100") + b"\x0f" + RND_T[:15])),
    ]
    cases = []
    for title, before, step in steps:
        chip = new_card()
        for _, _, apdu in before:
            chip.answer(apdu)
        cases.append(_exchange(chip, f"refused: {title}", step))
    worn = card.Card(keys=CARD_KEYS, facts=FACTS, balance=10_000, counter=0xFFFFFFFF, rnd_c=RND_C)
    for _, _, apdu in (select(), authenticate()):
        worn.answer(apdu)
    return [*cases, _exchange(worn, "refused: counter exhausted", debit())]


def section_12() -> Fields:
    facts = {
        "card_keys": {name: key.hex() for name, key in CARD_KEYS.items()},
        "rnd_t": RND_T.hex(),
        "rnd_c": RND_C.hex(),
        "card": {**FACTS, "balance": 10_000, "counter": 100},
    }
    shared = [case("the card and the random numbers of all dialogues", facts, b"")]
    return section("12. The AES card", [*shared, *purchase_dialogue(), *_after_loss_of_power(), *_refusals()])


def section_13() -> Fields:
    content = {
        "kind": "front-end",
        "site": reference.SITE,
        "keys": {"link.master.2": reference.LINK_MASTER.hex()},
        "facts": {"note": "测试 keys only"},
    }
    plaintext = json.dumps(content, ensure_ascii=False).encode("utf-8")
    secret, salt, nonce = b"an unlock secret for tests", reference.counting(0, 16), reference.counting(0x10, 12)
    given = {
        "unlock_secret": secret.hex(),
        "log2_n": 10,
        "r": 8,
        "p": 1,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
        "plaintext": plaintext.decode("utf-8"),
    }
    made = keystore.seal_keystore(plaintext, secret, salt, nonce, 10)

    def wrong(title: str, data: bytes, error: str) -> Case:
        return case(f"refused: {title}", {"unlock_secret": secret.hex()}, data, error=error)

    def changed(at: int, value: int) -> bytes:
        return made[:at] + bytes([value]) + made[at + 1 :]

    cases = [
        case("keystore file", given, made, expected=content),
        wrong("magic", changed(0, 0), "malformed"),
        wrong("format 2", changed(4, 2), "malformed"),
        wrong("kdf 2", changed(5, 2), "malformed"),
        wrong("log2 N of 9", changed(6, 9), "malformed"),
        wrong("log2 N of 19", changed(6, 19), "malformed"),
        wrong("r of 9", changed(7, 9), "malformed"),
        wrong("p of 2", changed(8, 2), "malformed"),
        wrong("reserved byte", changed(11, 1), "malformed"),
        wrong("shorter than header and tag", made[:55], "malformed"),
        wrong("last bit of the tag", changed(len(made) - 1, made[-1] ^ 1), "tag wrong"),
        wrong("bit of the salt", changed(12, 0x80), "tag wrong"),
    ]
    return section("13. Keystore files", cases)
