"""Section 12: the AES card's commands and answers, and a card that answers them.

APDU-like: CLA INS P1 P2 Lc data; answer data SW1 SW2.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from construct import Array, Struct

from tests.oracle import keys
from tests.oracle.fields import Fields, OracleError, build, flags, hexed, i32, parse, reserved, u8, u16, u32
from tests.oracle.primitives import cmac8
from tests.oracle.records import card_proof

SELECT: Final = bytes.fromhex("00A4040003") + keys.APPLICATION_ID
GET_PROOF: Final = bytes.fromhex("805A000000")
READ_MEALS: Final = bytes.fromhex("8066000000")
AUTHENTICATE_INS, DEBIT_INS, CONFIRM_INS = 0x82, 0x54, 0x5C
LENGTHS: Final = {AUTHENTICATE_INS: 0x10, DEBIT_INS: 0x18, CONFIRM_INS: 0x12}
OTHERS: Final[dict[str, tuple[int, int, str, int]]] = {
    "REFUND": (0x58, 0x04, "refund", 0x03),
    "LOAD": (0x52, 0x05, "load", 0x04),
    "BOOK": (0x56, 0x06, "debit", 0x20),
    "CANCEL": (0x62, 0x07, "refund", 0x21),
    "COLLECT": (0x64, 0x08, "debit", 0x22),
}
"""The other transactions: instruction, label, key, type in the proof."""
NAME_OF_INS: Final = {ins: name for name, (ins, *_) in OTHERS.items()}
OTHERS_LENGTH: Final = 0x20
TOKEN_PLACES: Final = 4

SELECT_ANSWER: Final = Struct(
    "card_kind" / u8,
    "key_version" / u8,
    "card_uid" / hexed(7),
    "card_number" / u32,
    "currency" / u16,
    "flags" / flags(0),
    "valid_until_days" / u32,
    "card_group" / u8,
    reserved(1),
)
AUTHENTICATE_ANSWER: Final = Struct("rnd_c" / hexed(16), "balance" / i32, "counter" / u32, "mac" / hexed(8))
DEBIT_DATA: Final = Struct(
    "amount" / u32,
    "currency" / u16,
    "terminal" / u32,
    "epoch" / u16,
    "sequence" / u32,
    "mac" / hexed(8),
)
DEBIT_ANSWER: Final = Struct("balance_after" / i32, "counter" / u32, "card_proof" / hexed(8))
GET_PROOF_ANSWER: Final = Struct(
    "type" / u8,
    reserved(1),
    "epoch" / u16,
    "terminal" / u32,
    "sequence" / u32,
    "amount" / u32,
    "currency" / u16,
    reserved(2),
    "counter" / u32,
    "balance_after" / i32,
    "card_proof" / hexed(8),
    "reference" / u32,
)
OTHERS_DATA: Final = Struct(
    "amount" / u32,
    "currency" / u16,
    "terminal" / u32,
    "epoch" / u16,
    "sequence" / u32,
    "reference" / u32,
    "detail" / hexed(4),
    "mac" / hexed(8),
)
TOKEN: Final = Struct("serial" / u32, "meal_day" / u16, "meal" / u8, "menu" / u8, "price" / u32)
READ_MEALS_ANSWER: Final = Struct("load_serial" / u32, "booking_serial" / u32, "tokens" / Array(TOKEN_PLACES, TOKEN))
CONFIRM_DATA: Final = Struct("terminal" / u32, "epoch" / u16, "sequence" / u32, "mac" / hexed(8))
SIZES: Final = (SELECT_ANSWER, AUTHENTICATE_ANSWER, DEBIT_DATA, DEBIT_ANSWER, GET_PROOF_ANSWER, CONFIRM_DATA)
assert [one.sizeof() for one in SIZES] == [22, 32, 24, 16, 40, 18]
assert (OTHERS_DATA.sizeof(), READ_MEALS_ANSWER.sizeof()) == (OTHERS_LENGTH, 56)
FREE: Final = {"serial": 0, "meal_day": 0, "meal": 0, "menu": 0, "price": 0}


def command(ins: int, key_version: int, data: bytes) -> bytes:
    assert len(data) == LENGTHS.get(ins, OTHERS_LENGTH)
    return bytes([0x80, ins, key_version, 0, len(data)]) + data


def authenticate_mac(key: bytes, rnd_t: bytes, rnd_c: bytes, card_number: int, balance: int, counter: int) -> bytes:
    """The card proves that it is there, and what is on it."""
    numbers = card_number.to_bytes(4, "big") + balance.to_bytes(4, "big", signed=True) + counter.to_bytes(4, "big")
    return cmac8(key, b"\x01" + rnd_t + rnd_c + numbers)


def debit_data(key: bytes, rnd_t: bytes, rnd_c: bytes, given: Fields) -> bytes:
    unproved = build(DEBIT_DATA, {**given, "mac": "00" * 8})[:16]
    return unproved + cmac8(key, b"\x02" + rnd_t + rnd_c + unproved)


def others_data(name: str, key: bytes, rnd_t: bytes, rnd_c: bytes, given: Fields) -> bytes:
    unproved = build(OTHERS_DATA, {**given, "mac": "00" * 8})[:24]
    return unproved + cmac8(key, bytes([OTHERS[name][1]]) + rnd_t + rnd_c + unproved)


def confirm_data(key: bytes, rnd_t: bytes, rnd_c: bytes, given: Fields) -> bytes:
    unproved = build(CONFIRM_DATA, {**given, "mac": "00" * 8})[:10]
    return unproved + cmac8(key, b"\x03" + rnd_t + rnd_c + unproved)


@dataclass(slots=True)
class Card:
    """The card's side. `rnd_c` stands for its random generator."""

    keys: dict[str, bytes]
    facts: Fields
    balance: int
    counter: int
    rnd_c: bytes
    unconfirmed: bool = False
    last_proof: Fields | None = None
    rnd_t: bytes | None = field(default=None)
    selected: bool = False
    debited: bool = False
    load_serial: int = 0
    booking_serial: int = 0
    tokens: list[Fields] = field(default_factory=lambda: [dict(FREE) for _ in range(TOKEN_PLACES)])
    last_debit: Fields | None = None
    refunded: bool = False

    def power_off(self) -> None:
        self.selected = False
        self.rnd_t = None
        self.debited = False

    def answer(self, apdu: bytes) -> bytes:
        """Data and status word; the state changes only with 90 00."""
        try:
            return self._dispatch(apdu) + b"\x90\x00"
        except OracleError as error:
            return bytes.fromhex(error.code)

    def _dispatch(self, apdu: bytes) -> bytes:
        if apdu == SELECT:
            self.power_off()
            self.selected = True
            return build(SELECT_ANSWER, {**self.facts, "flags": int(self.unconfirmed)})
        if apdu == GET_PROOF:
            return self._get_proof()
        if apdu == READ_MEALS:
            return self._read_meals()
        lengths = {**LENGTHS, **dict.fromkeys(NAME_OF_INS, OTHERS_LENGTH)}
        if len(apdu) < 5 or apdu[0] != 0x80 or apdu[1] not in lengths:
            raise OracleError("6D00")
        if apdu[4] != len(apdu) - 5 or apdu[4] != lengths[apdu[1]]:
            raise OracleError("6700")
        if apdu[2] != self.facts["key_version"]:
            raise OracleError("9403")
        if not self.selected:
            raise OracleError("6985")
        if apdu[1] == AUTHENTICATE_INS:
            return self._authenticate(apdu[5:])
        if self.rnd_t is None:
            raise OracleError("6985")
        if apdu[1] in NAME_OF_INS:
            return self._other(NAME_OF_INS[apdu[1]], apdu[5:], self.rnd_t)
        return self._debit(apdu[5:], self.rnd_t) if apdu[1] == DEBIT_INS else self._confirm(apdu[5:], self.rnd_t)

    def _authenticate(self, rnd_t: bytes) -> bytes:
        self.rnd_t, self.debited = rnd_t, False
        number = self.facts["card_number"]
        mac = authenticate_mac(self.keys["authenticate"], rnd_t, self.rnd_c, number, self.balance, self.counter)
        given = {"rnd_c": self.rnd_c.hex(), "balance": self.balance, "counter": self.counter, "mac": mac.hex()}
        return build(AUTHENTICATE_ANSWER, given)

    def _debit(self, data: bytes, rnd_t: bytes) -> bytes:
        asked = parse(DEBIT_DATA, data)
        if self.unconfirmed or self.debited:
            raise OracleError("6985")
        if debit_data(self.keys["debit"], rnd_t, self.rnd_c, asked) != data:
            raise OracleError("6982")
        if asked["amount"] == 0 or asked["currency"] != self.facts["currency"]:
            raise OracleError("6A80")
        if self.balance < asked["amount"]:
            raise OracleError("9401")
        if self.counter == 0xFFFFFFFF:
            raise OracleError("9406")
        self.last_debit, self.refunded = asked, False
        return self._made(asked, 1, self.balance - asked["amount"])

    def _made(self, asked: Fields, kind: int, balance: int) -> bytes:
        self.balance = balance
        self.counter += 1
        self.last_proof = self._prove({"reference": 0, **asked}, kind)
        self.unconfirmed = self.debited = True
        return build(DEBIT_ANSWER, {**self.last_proof, "counter": self.counter})

    def _other(self, name: str, data: bytes, rnd_t: bytes) -> bytes:
        """REFUND to COLLECT: terms, the command's own rule, balance, counter; then all of it at once."""
        _, _, key, kind = OTHERS[name]
        asked = parse(OTHERS_DATA, data)
        if self.unconfirmed or self.debited:
            raise OracleError("6985")
        if others_data(name, self.keys[key], rnd_t, self.rnd_c, asked) != data:
            raise OracleError("6982")
        is_meal = kind >= 0x20
        if asked["currency"] != self.facts["currency"] or asked["reference"] == 0:
            raise OracleError("6A80")
        if not is_meal and (asked["amount"] == 0 or asked["detail"] != "00000000"):
            raise OracleError("6A80")
        tokens = self._tokens_after(name, asked)
        if name == "LOAD" and asked["reference"] <= self.load_serial:
            raise OracleError("9408")
        if name == "REFUND" and not self._may_refund(asked):
            raise OracleError("9407")
        sign = {"BOOK": -1, "COLLECT": 0}.get(name, 1)
        balance = self.balance + sign * asked["amount"]
        if name == "BOOK" and self.balance < asked["amount"]:
            raise OracleError("9401")
        if balance >= 1 << 31:
            raise OracleError("6A80")
        if self.counter == 0xFFFFFFFF:
            raise OracleError("9406")
        self.tokens = tokens
        self.refunded = self.refunded or name == "REFUND"
        if name == "LOAD":
            self.load_serial = asked["reference"]
        if name == "BOOK":
            self.booking_serial = asked["reference"]
        return self._made(asked, kind, balance)

    def _may_refund(self, asked: Fields) -> bool:
        debit = self.last_debit
        if debit is None or self.refunded or asked["amount"] > debit["amount"]:
            return False
        named = (asked["terminal"], asked["epoch"], asked["reference"])
        return named == (debit["terminal"], debit["epoch"], debit["sequence"])

    def _tokens_after(self, name: str, asked: Fields) -> list[Fields]:
        """The four places after BOOK, CANCEL or COLLECT, booked ones first."""
        detail = bytes.fromhex(asked["detail"])
        token = {
            "serial": asked["reference"],
            "meal_day": int.from_bytes(detail[:2], "big"),
            "meal": detail[2],
            "menu": detail[3],
            "price": asked["amount"],
        }
        booked = [one for one in self.tokens if one["serial"]]
        if name == "BOOK":
            if asked["reference"] <= self.booking_serial:
                raise OracleError("9408")
            if len(booked) == TOKEN_PLACES:
                raise OracleError("6A84")
            booked.append(token)
        elif name in {"CANCEL", "COLLECT"}:
            if token not in booked:
                raise OracleError("6A83")
            booked.remove(token)
        return booked + [dict(FREE)] * (TOKEN_PLACES - len(booked))

    def _read_meals(self) -> bytes:
        if not self.selected or self.rnd_t is None:
            raise OracleError("6985")
        serials = {"load_serial": self.load_serial, "booking_serial": self.booking_serial}
        return build(READ_MEALS_ANSWER, {**serials, "tokens": self.tokens})

    def _prove(self, asked: Fields, kind: int) -> Fields:
        given: dict[str, Any] = {**asked, "type": kind, "card_number": self.facts["card_number"]}
        given |= {"card_counter": self.counter, "balance_after": self.balance}
        return {**given, "counter": self.counter, "card_proof": card_proof(self.keys["tac"], given).hex()}

    def _get_proof(self) -> bytes:
        if not self.selected:
            raise OracleError("6985")
        if self.last_proof is None:
            raise OracleError("6A88")
        return build(GET_PROOF_ANSWER, self.last_proof)

    def _confirm(self, data: bytes, rnd_t: bytes) -> bytes:
        asked = parse(CONFIRM_DATA, data)
        if confirm_data(self.keys["authenticate"], rnd_t, self.rnd_c, asked) != data:
            raise OracleError("6982")
        if self.last_proof is None:
            raise OracleError("6A88")
        if all(self.last_proof[name] == asked[name] for name in ("terminal", "epoch", "sequence")):
            self.unconfirmed = False
        return b""
