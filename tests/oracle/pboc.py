"""The PBOC purse's MACs a second time, from docs/cards.md alone: block by block, on single DES and nothing else."""

from typing import Final

from Crypto.Cipher import DES

ZERO: Final = bytes(8)


def des(key: bytes, block: bytes) -> bytes:
    return bytes(DES.new(key, DES.MODE_ECB).encrypt(block))


def undo_des(key: bytes, block: bytes) -> bytes:
    return bytes(DES.new(key, DES.MODE_ECB).decrypt(block))


def xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")


def triple(key: bytes, block: bytes) -> bytes:
    return des(key[:8], undo_des(key[8:], des(key[:8], block)))


def blocks(data: bytes) -> list[bytes]:
    padded = data + b"\x80"
    while len(padded) % 8:
        padded += b"\x00"
    return [padded[at : at + 8] for at in range(0, len(padded), 8)]


def mac(key: bytes, data: bytes) -> bytes:
    state = ZERO
    for block in blocks(data):
        state = des(key, xor(state, block))
    return state[:4]


def retail_mac(key: bytes, first: bytes, data: bytes) -> bytes:
    state = first
    for block in blocks(data):
        state = des(key[:8], xor(state, block))
    return des(key[:8], undo_des(key[8:], state))[:4]


def card_key(master: bytes, uid: bytes) -> bytes:
    left = uid + b"\x03"
    return triple(master, left) + triple(master, xor(left, b"\xff" * 8))


def stated(amount: int, kind: int, terminal: int, epoch: int) -> bytes:
    return amount.to_bytes(4, "big") + bytes([kind]) + terminal.to_bytes(4, "big") + epoch.to_bytes(2, "big")


def purchase_session(key: bytes, random: bytes, counter: int, sequence: int) -> bytes:
    return triple(key, random + counter.to_bytes(2, "big") + sequence.to_bytes(4, "big")[2:])


def load_session(key: bytes, random: bytes, counter: int) -> bytes:
    return triple(key, random + counter.to_bytes(2, "big") + b"\x80\x00")


def purchase_tac(key: bytes, amount: int, terminal: int, epoch: int, sequence: int, moment: bytes) -> bytes:
    return mac(xor(key[:8], key[8:]), stated(amount, 6, terminal, epoch) + sequence.to_bytes(4, "big") + moment)


def load_tac(
    key: bytes, *, balance_after: int, counter: int, amount: int, terminal: int, epoch: int, moment: bytes
) -> bytes:
    head = balance_after.to_bytes(4, "big") + counter.to_bytes(2, "big")
    return mac(xor(key[:8], key[8:]), head + stated(amount, 2, terminal, epoch) + moment)
