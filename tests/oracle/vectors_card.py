"""Vectors of sections 12 and 13: a dialogue with the AES card, command by command, and a keystore file."""

import json
from typing import Any, Final

from tests.oracle import card, keystore, reference
from tests.oracle.fields import Fields, build, parse
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
    "READ MEALS": card.READ_MEALS_ANSWER,
    **dict.fromkeys(card.OTHERS, card.DEBIT_ANSWER),
}
IDENTITY: Final = {"terminal": TERMINAL, "epoch": EPOCH, "sequence": 1}
DEBIT: Final = {"amount": 1250, "currency": CURRENCY, **IDENTITY}
OTHER: Final = {**DEBIT, "reference": 7, "detail": "00000000"}
LUNCH: Final = "4f880203"
"""Meal day 20360, meal 2, menu 3."""

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


def read_meals() -> Step:
    return "READ MEALS", {}, card.READ_MEALS


def other(name: str, **changes: Any) -> Step:
    """REFUND, LOAD, BOOK, CANCEL or COLLECT with the key it belongs to, and `changes` of OTHER."""
    key = CARD_KEYS[card.OTHERS[name][2]]
    data = card.others_data(name, key, RND_T, RND_C, {**OTHER, **changes})
    return name, _with_version(parse(card.OTHERS_DATA, data)), card.command(card.OTHERS[name][0], KEY_VERSION, data)


def _with_version(given: Fields) -> Fields:
    return {"key_version": KEY_VERSION, **given}


def _exchange(chip: card.Card, title: str, step: Step) -> Case:
    name, given, apdu = step
    state: Fields = {
        "balance": chip.balance,
        "counter": chip.counter,
        "last_proof_not_confirmed": chip.unconfirmed,
        "selected": chip.selected,
        "authenticated": chip.rnd_t is not None,
        "transaction_made": chip.debited,
    }
    if chip.last_proof is not None:
        state["last_proof"] = build(card.GET_PROOF_ANSWER, chip.last_proof).hex()
    if chip.load_serial or chip.booking_serial:
        serials = {"load_serial": chip.load_serial, "booking_serial": chip.booking_serial}
        state["meals"] = build(card.READ_MEALS_ANSWER, {**serials, "tokens": chip.tokens}).hex()
    if chip.last_debit is not None:
        state["last_debit"] = {name: chip.last_debit[name] for name in ("terminal", "epoch", "sequence", "amount")}
        state["last_debit"]["refunded"] = chip.refunded
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


def _after(*steps: Step, chip: card.Card | None = None) -> card.Card:
    """A card that has made these steps, each with a 90 00."""
    chip = chip if chip is not None else new_card()
    for _, _, apdu in steps:
        assert chip.answer(apdu)[-2:] == b"\x90\x00"
    return chip


def _identity(sequence: int) -> Fields:
    return {"sequence": sequence}


def _other_transactions() -> list[Case]:
    """A day of the card: booked, cancelled, booked again, collected, loaded, bought and refunded; all confirmed."""
    chip = _after(select())
    steps: list[tuple[str, Step]] = []
    for sequence, (title, step) in enumerate(
        (
            ("book lunch for 9.00", other("BOOK", amount=900, reference=1, detail=LUNCH, sequence=1)),
            ("book a free dinner", other("BOOK", amount=0, reference=2, detail="4f880301", sequence=2)),
            ("cancel the lunch", other("CANCEL", amount=900, reference=1, detail=LUNCH, sequence=3)),
            ("collect the free dinner", other("COLLECT", amount=0, reference=2, detail="4f880301", sequence=4)),
            ("load 20.00", other("LOAD", amount=2000, reference=9, sequence=5)),
            ("debit before a refund", debit(sequence=6)),
            ("refund 5.00 of the debit", other("REFUND", amount=500, reference=6, sequence=7)),
        ),
        1,
    ):
        steps += [
            (f"{title}: authenticate", authenticate()),
            (title, step),
            (f"{title}: get proof", get_proof()),
            (f"{title}: read meals", read_meals()),
            (f"{title}: confirm", confirm(**_identity(sequence))),
        ]
    return [_exchange(chip, title, step) for title, step in steps]


def _refused_others() -> list[Case]:
    begin = [select(), authenticate()]
    settle = [confirm(), authenticate()]
    lunch = {"reference": 3, "detail": LUNCH, "amount": 900}
    four = [
        each
        for serial in range(1, 5)
        for each in (
            authenticate(),
            other("BOOK", amount=100, reference=serial, detail=LUNCH, sequence=serial),
            confirm(sequence=serial),
        )
    ]
    forged = other("LOAD")
    by_debit_key = card.others_data("LOAD", CARD_KEYS["debit"], RND_T, RND_C, OTHER)
    refunded = [other("REFUND", amount=1, reference=1, sequence=2), confirm(sequence=2), authenticate()]
    cases: list[tuple[str, list[Step], Step]] = [
        ("book without authentication", [select()], other("BOOK", **lunch)),
        ("read meals without authentication", [select()], read_meals()),
        ("load with the debit key", begin, (*forged[:2], card.command(0x52, KEY_VERSION, by_debit_key))),
        ("load of 0", begin, other("LOAD", amount=0)),
        ("load with reference 0", begin, other("LOAD", reference=0)),
        ("load with a detail", begin, other("LOAD", detail=LUNCH)),
        ("load with a serial used already", [*begin, other("LOAD"), *settle], other("LOAD", sequence=2)),
        ("load beyond the largest balance", begin, other("LOAD", amount=(1 << 31) - 10_000)),
        ("book in another currency", begin, other("BOOK", **lunch, currency=840)),
        ("book with reference 0", begin, other("BOOK", **{**lunch, "reference": 0})),
        ("book with a serial used already", [*begin, other("BOOK", **lunch), *settle], other("BOOK", **lunch)),
        ("book above the balance", begin, other("BOOK", **{**lunch, "amount": 10_001})),
        ("book a fifth meal", [select(), *four, authenticate()], other("BOOK", **{**lunch, "reference": 5})),
        ("cancel what is not booked", begin, other("CANCEL", **lunch)),
        (
            "cancel at another price",
            [*begin, other("BOOK", **lunch), *settle],
            other("CANCEL", **{**lunch, "amount": 901}),
        ),
        (
            "collect another menu",
            [*begin, other("BOOK", **lunch), *settle],
            other("COLLECT", **{**lunch, "detail": "4f880204"}),
        ),
        ("refund with no debit", begin, other("REFUND", reference=1, sequence=2)),
        ("refund of another sequence", [*begin, debit(), *settle], other("REFUND", reference=2, sequence=2)),
        (
            "refund of another terminal",
            [*begin, debit(), *settle],
            other("REFUND", reference=1, terminal=1, sequence=2),
        ),
        ("refund above the debit", [*begin, debit(), *settle], other("REFUND", reference=1, amount=1251, sequence=2)),
        ("second refund", [*begin, debit(), *settle, *refunded], other("REFUND", reference=1, amount=1, sequence=3)),
        ("load while the debit is not confirmed", [*begin, debit(), authenticate()], other("LOAD", sequence=2)),
        ("debit after a booking of one authentication", [*begin, other("BOOK", **lunch), confirm()], debit(sequence=2)),
    ]
    return [_exchange(_after(*before), f"refused: {title}", step) for title, before, step in cases]


def section_12() -> Fields:
    facts = {
        "card_keys": {name: key.hex() for name, key in CARD_KEYS.items()},
        "rnd_t": RND_T.hex(),
        "rnd_c": RND_C.hex(),
        "card": {**FACTS, "balance": 10_000, "counter": 100},
    }
    shared = [case("the card and the random numbers of all dialogues", facts, b"")]
    return section(
        "12. The AES card",
        [
            *shared,
            *purchase_dialogue(),
            *_after_loss_of_power(),
            *_refusals(),
            *_other_transactions(),
            *_refused_others(),
        ],
    )


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
