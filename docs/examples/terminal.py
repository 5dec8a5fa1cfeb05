"""A selling terminal in one file, written from docs/protocol.md alone (§: its sections, R: its rules).

    python terminal.py --keys terminal.json --state state.json --connect 127.0.0.1:4700 --taps 5 [--new]

To make a device of it, replace `debit` by a card reader and `State` by flash. Left out: suite B, the line, skipping
garbage, grey records and completions (this card never leaves during a debit), epochs before the present one,
parameters, every kind but the till.
"""

# ruff: noqa: T201  (it speaks to a person)
import argparse
import fcntl
import hashlib
import json
import os
import secrets
import socket
import struct
import time
from binascii import crc_hqx
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

# Codes and layouts stand where they are used, as on the page. In a layout, `x` is a reserved byte.
SUITE_A = ROLE_TERMINAL = TCP = CLASS_TERMINAL = KIND_POS = PROOF_AES = CARD_AES = DENY_LIST = 1
SIGNED_HEAD, CERTIFICATE, LIST_OFFER = ">IIBxxxIIQI32s64s", ">IIQQ32s64s", ">BBxxIII128s120s"
BODY_BYTES_MAX, BODY_BYTES_MIN, RECORDS_PER_FRAME_MAX, RECORD_BYTES_MAX = 4096, 320, 63, 112
SESSION_FRAMES_MAX, SESSION_S_MAX, HANDSHAKE_S_MAX, HEARTBEAT_S = 1 << 20, 86_400, 10, 30
LIST_BYTES_MAX = 8 + 4 * 500_000
SILENCE_S_MAX, TAP_S, STAY_S, RECORDS_HELD_MAX = 60, 1, 2, 2000  # our own choice; a device holds more records
BYE_REASONS = {1: "going down", 2: "re-key", 3: "a newer session took over", 4: "protocol error"}
BYE_REASONS |= {5: "our chain differs: this terminal must be enrolled again", 6: "idle", 7: "cannot store now"}


class SessionEnded(Exception):
    """The session is over, and why."""


def unpack(layout: str, data: bytes) -> tuple[Any, ...]:
    """The fields; raises ValueError for a wrong length or a reserved byte that is not zero (§6)."""
    if len(data) == struct.calcsize(layout):
        values = struct.unpack(layout, data)
        if struct.pack(layout, *values) == data:
            return values
    raise ValueError(f"malformed message {data[:1].hex()}")


def cmac(key: bytes, data: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(data)
    return mac.finalize()


def kdf(key: bytes, label: str, context: bytes, bits: int = 128) -> bytes:
    """SP 800-108 in counter mode (§2); nothing here is longer than its first round."""
    return cmac(key, struct.pack(">I", 1) + label.encode() + b"\0" + context + struct.pack(">I", bits))[: bits // 8]


def debit(card: dict[str, Any], purse: list[int], cents: int, *identity: int) -> tuple[int, int, bytes]:
    """What a card does in DEBIT (§12): balance after, counter, card proof (TAC, §7.3)."""
    purse[:] = balance, counter = purse[0] - cents, purse[1] + 1
    said = struct.pack(">BIHIIHIIi", 0x01, cents, card["currency"], card["number"], *identity, counter, balance)
    return balance, counter, cmac(card["tac_key"], said)[:8]


def load(path: Path) -> dict[str, Any]:
    """A JSON file; bytes stand in it as {"hex": "…"}."""
    hook = lambda found: bytes.fromhex(found["hex"]) if list(found) == ["hex"] else found  # noqa: E731
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), object_hook=hook)
    return values


@dataclass
class State:
    """What survives a power cut: saved whole and synced before anything made of it leaves (R1).

    Whoever loses this file, or goes back to an older copy, must enrol the terminal again: sequences would repeat.
    """

    terminal: int
    epoch: int
    last_seal: bytes  # at first the genesis seal
    boot: int = 0
    next: int = 1
    first_unacknowledged: int = 1
    count: int = 0
    sum_cents: int = 0
    records: list[bytes] = field(default_factory=list)  # those held; the last one is next - 1
    purses: dict[str, list[int]] = field(default_factory=dict)  # card number: balance, counter
    head: bytes = bytes(128)  # of the deny list in force
    content: bytes = bytes(8)
    offer: bytes = b""  # of the list being staged
    staged: bytes = b""

    def save(self, path: Path) -> None:
        draft = path.with_suffix(".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, default=lambda held: {"hex": held.hex()})
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    @property
    def oldest(self) -> int:
        return self.next - len(self.records)

    @property
    def waiting(self) -> int:
        return self.next - self.first_unacknowledged

    def seal_of(self, sequence: int) -> bytes:
        """From oldest - 1 to next - 1: a record holds its predecessor's seal too."""
        return self.last_seal if sequence == self.next - 1 else self.records[sequence + 1 - self.oldest][-16:-8]


class Link:
    """TCP, frames (§3), handshake (§4) and sealed frames (§5)."""

    def __init__(self, connection: socket.socket, keys: dict[str, Any]) -> None:
        self.socket, self.buffer, self.sent, self.taken = connection, b"", 0, 0
        self.up: AESCCM | None = None
        key, ours = keys["link_key"], (SUITE_A, ROLE_TERMINAL, TCP, keys["link_key_version"])
        limits = (BODY_BYTES_MAX, CLASS_TERMINAL, KIND_POS, secrets.token_bytes(16))
        hello = struct.pack(">BBBBIHHBBxx16s", *ours, keys["terminal"], keys["epoch"], *limits)
        transcript = self._send(0x01, hello) + self._answer(0x02)
        *theirs, _, site, limit, _ = unpack(">BBBBIIHxx16s", transcript[56:])
        if theirs != [SUITE_A, 2, TCP, ours[3]] or site != keys["site"] or limit < BODY_BYTES_MIN:
            raise SessionEnded("a downgrade, or the front-end of another site")
        proof = cmac(kdf(key, "session.prove.terminal", transcript), b"\1" + transcript)
        self._send(0x03, proof)
        right = cmac(kdf(key, "session.prove.frontend", transcript), b"\2" + transcript + proof)
        if not secrets.compare_digest(self._answer(0x04)[12:], right):
            raise SessionEnded("the front-end does not know our key")
        self.up, self.down = (AESCCM(kdf(key, f"session.{way}.key", transcript)) for way in ("up", "down"))
        self.up_salt, self.down_salt = (kdf(key, f"session.{way}.salt", transcript, 40) for way in ("up", "down"))
        self.body_bytes_max = min(limit, BODY_BYTES_MAX)

    def _answer(self, kind: int) -> bytes:
        frame = self._frame(HANDSHAKE_S_MAX)
        if frame[2:3] == b"\5":
            code, retry_s = unpack(">BxH", frame[12:])
            raise SessionEnded("refused" if code == 1 else f"the front-end is busy, come back after {retry_s} s")
        if frame[2:3] != bytes([kind]):
            raise SessionEnded("no answer in the handshake")
        return frame

    def send(self, message: bytes) -> None:
        self._send(0x10, message)

    def _send(self, kind: int, body: bytes) -> bytes:
        start = struct.pack(">BBBBIH", 0xC3, 0x11 if self.up else 0x10, kind, 0, self.sent, len(body))
        header = start + struct.pack(">H", crc_hqx(start, 0xFFFF))
        if self.up:
            body = self.up.encrypt(self.up_salt + struct.pack(">Q", self.sent), body, header)
            self.sent += 1
        self.socket.sendall(header + body)
        return header + body

    def receive(self, seconds: float) -> bytes:
        """The next message; empty if none is whole in that time."""
        if not (frame := self._frame(seconds)):
            return b""
        message = self.down.decrypt(self.down_salt + struct.pack(">Q", self.taken), frame[12:], frame[:12])
        self.taken += 1
        return message

    def _frame(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while (size := self._size()) > len(self.buffer):
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return b""
            if not data:
                raise SessionEnded("the front-end closed the connection")
            self.buffer += data
        frame, self.buffer = self.buffer[:size], self.buffer[size:]
        return frame

    def _size(self) -> int:
        """Bytes of the frame that begins the buffer, by its header, which must be the next one's."""
        if len(self.buffer) < 12:
            return 12
        magic, flags, kind, line, counter, length, check = struct.unpack(">BBBBIHH", self.buffer[:12])
        right = (0xC3, 0x13 if self.up else 0x12, 0, self.taken, crc_hqx(self.buffer[:10], 0xFFFF))
        if (magic, flags, line, counter, check) != right or (kind == 0x10) != bool(self.up) or length > BODY_BYTES_MAX:
            raise SessionEnded("not the next frame of this session")
        return 12 + int(length) + (16 if self.up else 0)


def arrays(data: bytes, count: int) -> list[set[int]]:
    """That many counts, then as many arrays, strictly ascending (§10); raises struct.error."""
    sizes = struct.unpack_from(f">{count}I", data)
    numbers = iter(struct.unpack(f">{count + sum(sizes)}I", data)[count:])
    found = [[next(numbers) for _ in range(size)] for size in sizes]
    if any(array != sorted(set(array)) for array in found):
        raise struct.error("not ascending")
    return [set(array) for array in found]


def patched(content: bytes, delta: bytes) -> bytes:
    """The content after a delta; a wrong one gives another digest or raises struct.error."""
    (cards, lots), (cards_in, cards_out, lots_in, lots_out) = arrays(content, 2), arrays(delta, 4)
    if cards & cards_in or cards_out - cards or lots & lots_in or lots_out - lots:
        return b""
    cards, lots = (cards | cards_in) - cards_out, (lots | lots_in) - lots_out
    return struct.pack(f">{2 + len(cards) + len(lots)}I", len(cards), len(lots), *sorted(cards), *sorted(lots))


def genuine(head: bytes, certificate: bytes, keys: dict[str, Any]) -> bool:
    """The root vouches for the ledger's key and site, that key for the head; no clock here could judge validity."""
    key_id, site, _, _, public_key, root_signature = unpack(CERTIFICATE, certificate)
    signer, head_site, kind, *_, signature = unpack(SIGNED_HEAD, head)
    try:
        root = Ed25519PublicKey.from_public_bytes(keys["root_public_key"])
        root.verify(root_signature, b"onecard.certificate.v1\0" + certificate[:56])
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, b"onecard.head.v1\0" + head[:64])
    except InvalidSignature:
        return False
    return (key_id, site, keys["site"], DENY_LIST) == (signer, head_site, site, kind)


def take_offer(message: bytes, state: State, keys: dict[str, Any]) -> int:
    """The checks of §10 in their order; returns the status for LIST_STATE. A version is compared as its 8 bytes."""
    _, form, _, _, size, head, certificate = unpack(LIST_OFFER, message[:264])
    if not genuine(head, certificate, keys):
        return 2
    if head[12:20] <= state.head[12:20]:
        return 0 if head == state.head else 3
    if form == 2 and message[4:12] != state.head[12:20]:
        return 4
    if max(size, unpack(SIGNED_HEAD, head)[6]) > LIST_BYTES_MAX:
        return 6
    if state.offer[:144] != message[:144]:  # another head, form, base or size: staging starts anew
        state.offer, state.staged = message[:264], b""
    return stage(message[264 + len(state.staged) :], state)


def take_chunk(message: bytes, state: State) -> int:
    _, kind, version, offset = unpack(">BBxx8sI", message[:16])
    if not state.offer or (kind, version, offset) != (DENY_LIST, state.offer[28:36], len(state.staged)):
        return 1  # not the next one; the answer says what is staged
    return stage(message[16:], state)


def stage(data: bytes, state: State) -> int:
    _, form, _, _, size, head, _ = unpack(LIST_OFFER, state.offer)
    state.staged += data
    if len(state.staged) < size:
        return 1
    content, state.offer, state.staged = state.staged, b"", b""
    try:
        content = patched(state.content, content) if form == 2 else content
        arrays(content, 2)
    except struct.error:
        return 5
    if (len(content), hashlib.sha256(content).digest()) != unpack(SIGNED_HEAD, head)[6:8]:
        return 5
    state.head, state.content = head, content
    return 0


class Terminal:
    """Sells, uploads, answers."""

    def __init__(self, keys: dict[str, Any], path: Path, state: State, taps: int) -> None:
        self.keys, self.path, self.state, self.taps_left = keys, path, state, taps
        self.to_offer, self.in_flight, self.credit = list(range(state.first_unacknowledged, state.next)), [0][:0], 0
        self.booted, self.clock_at_boot_ms = time.monotonic(), 0  # no clock until the first TIME
        state.boot += 1
        state.save(path)

    def clocks(self) -> tuple[int, int]:
        """Tenths of a second since boot, UTC in milliseconds."""
        uptime_ds = int((time.monotonic() - self.booted) * 10)
        return uptime_ds, self.clock_at_boot_ms and self.clock_at_boot_ms + 100 * uptime_ds

    def tap(self) -> None:
        """A card is held to the terminal: a purchase, or an `aborted` record that says why not (§7.2)."""
        state, card = self.state, self.keys["cards"][self.taps_left % len(self.keys["cards"])]
        self.taps_left -= 1
        if state.waiting >= RECORDS_HELD_MAX:
            return print("memory is full: nothing is sold until records are acknowledged (R12)")
        purse = state.purses.setdefault(str(card["number"]), [card["balance_cents"], 0])
        cents, denied = 100 + 25 * (state.next % 8), card["number"] in arrays(state.content, 2)[0]
        if denied or purse[0] < cents:
            self.keep(0x60, struct.pack(">BBxxI", 0x01, 3 if denied else 4, card["number"]))
            return print(f"record {state.next - 1}: refused, {'card is on deny list' if denied else 'balance too low'}")
        balance, counter, proof = debit(card, purse, cents, self.keys["terminal"], self.keys["epoch"], state.next)
        state.count, state.sum_cents = state.count + 1, state.sum_cents + cents
        who = (self.keys["merchant"], card["number"], card["uid"], card["key_version"])
        self.keep(0x01, struct.pack(">II7sBIiIHBx8s", *who, cents, balance, counter, card["currency"], CARD_AES, proof))
        return print(f"record {state.next - 1}: sold for {cents / 100:.2f}, {balance / 100:.2f} left on the card")

    def keep(self, kind: int, body: bytes) -> None:
        """Seal a record (§7) and save it together with the purse: from here on it exists."""
        state, keys = self.state, self.keys
        identity = (keys["epoch"], state.boot, keys["terminal"], state.next)
        head = (kind, 40 + len(body) + 16, PROOF_AES, 0, *identity, *self.clocks(), state.count, state.sum_cents)
        record = struct.pack(">BBBBHHIIIQIq", *head) + body + state.last_seal
        state.last_seal = cmac(keys["seal_key"], record)[:8]
        state.records = [*state.records, record + state.last_seal][-RECORDS_HELD_MAX:]
        self.to_offer.append(state.next)
        state.next += 1
        state.save(self.path)

    def run(self, link: Link) -> None:
        """One session; the peer's malformed messages end it with BYE (§14)."""
        try:
            self.session(link)
        except ValueError as error:
            link.send(b"\x07\x04")  # BYE: protocol error
            raise SessionEnded(str(error)) from error

    def session(self, link: Link) -> None:
        """Log in (§4), then sell, upload and answer until nothing is left to do."""
        self.link, state = link, self.state
        entry = (self.keys["epoch"], state.oldest, state.first_unacknowledged, state.next)
        baseline = struct.pack(">BBHIIQ", 0x01, 1, state.boot, self.keys["terminal"], *self.clocks())
        baseline += struct.pack(">HIII8s", *entry, state.seal_of(state.first_unacknowledged - 1))
        link.send(baseline + cmac(self.keys["seal_key"], b"\xff\x02" + baseline)[:8])
        self.report_list(0)
        self.heartbeat()
        now = began = heard = spoke = tapped = time.monotonic()
        while self.taps_left or state.waiting or state.offer or now - tapped < STAY_S:
            sent, message = link.sent, link.receive(0.05)
            now = time.monotonic()
            if message:
                heard = now
                self.answer(message)
            if self.taps_left and now - tapped > TAP_S:
                tapped = now
                self.tap()
            self.upload()
            if now - spoke > HEARTBEAT_S:
                self.heartbeat()
            spoke = now if link.sent > sent else spoke
            if now - began > SESSION_S_MAX or link.sent >= SESSION_FRAMES_MAX - 100:
                link.send(b"\x07\x02")  # BYE: re-key
                return
            if now - heard > SILENCE_S_MAX:
                raise SessionEnded("the front-end is silent")
        link.send(b"\x07\x01")  # BYE: going down

    def answer(self, message: bytes) -> None:
        state, kind, held_epoch = self.state, message[0], self.keys["epoch"]
        if kind == 0x81 and message[2:4] == struct.pack(">H", held_epoch):  # SEAL_QUERY
            sequence = unpack(">BxHI", message)[2]
            status = 2 if sequence >= state.next else 1 if sequence < state.oldest - 1 else 0
            seal = bytes(8) if status else state.seal_of(sequence)
            self.link.send(struct.pack(">BBHI8s", 0x03, status, held_epoch, sequence, seal))
        elif kind == 0x82 and len(message) > 1:
            self.acknowledged(*unpack(f">BBHIIBBxx{2 * message[1]}I", message)[2:])
        elif kind == 0x83:  # RECOLLECT
            _, epoch, first, last = unpack(">BxHII", message)
            if epoch != held_epoch:
                return  # a former life of this terminal's number
            self.to_offer = sorted({*self.to_offer, *range(max(first, 1), min(last + 1, state.next))})
            print(f"asked for records {first} to {last} again")
        elif kind == 0x84:  # TIME
            _, boot, uptime_ds, utc_ms = unpack(">BxHIQ", message)
            if boot == state.boot:
                self.clock_at_boot_ms = utc_ms - 100 * uptime_ds
        elif kind == 0x85:
            self.report_list(take_offer(message, state, self.keys))
        elif kind == 0x86:
            self.report_list(take_chunk(message, state))
        elif kind == 0x87:
            raise SessionEnded(f"the front-end says BYE: {BYE_REASONS.get(unpack('>BB', message)[1])}")
        else:
            raise ValueError(f"unknown message {kind:02x}, or of an epoch not held")

    def acknowledged(self, epoch: int, durable: int, settled: int, credit: int, _flags: int, *bounds: int) -> None:
        """ACK (§8): what the front-end has on disk is not offered any more, unless it was asked for again."""
        state, was = self.state, self.state.first_unacknowledged
        if epoch != self.keys["epoch"] or durable >= state.next:
            raise ValueError("an acknowledgement of what never was")
        ranges = [(1, durable), *zip(bounds[::2], bounds[1::2], strict=True)]
        for first, last in ranges:
            self.to_offer = [each for each in self.to_offer if each < was or not first <= each <= last]
            self.in_flight = [each for each in self.in_flight if not first <= each <= last]
        self.credit = credit
        if durable >= was:
            state.first_unacknowledged = durable + 1
            state.save(self.path)
        print(f"acknowledged up to {durable}, settled up to {settled}")

    def upload(self) -> None:
        """UPLOAD within the credit, which is 0 before the first ACK; a TOMBSTONE for what is no longer held (R9)."""
        state = self.state
        while self.to_offer and len(self.in_flight) < self.credit:
            first = self.to_offer[0]
            run = [sequence for place, sequence in enumerate(self.to_offer) if sequence == first + place]
            if first < state.oldest:
                run = [sequence for sequence in run if sequence < state.oldest]
                tombstone = struct.pack(">BBHIII", 0x04, 2, self.keys["epoch"], self.keys["terminal"], first, run[-1])
                self.link.send(tombstone + cmac(self.keys["seal_key"], b"\xff\x03" + tombstone)[:8])
            else:
                run = run[: min(RECORDS_PER_FRAME_MAX, (self.link.body_bytes_max - 4) // RECORD_BYTES_MAX)]
                records = [state.records[sequence - state.oldest] for sequence in run]
                boot, uptime_ds = struct.unpack_from(">H8xI", records[0], 6)
                live = boot == state.boot and self.clocks()[0] - uptime_ds < 20
                self.link.send(struct.pack(">BBBB", 0x02, len(run), len(records[-1]), live) + b"".join(records))
                self.in_flight.append(run[-1])
            del self.to_offer[: len(run)]
            print(f"{'uploaded' if first >= state.oldest else 'gave up'} records {first} to {run[-1]}")

    def report_list(self, status: int) -> None:
        """LIST_STATE, after saving what was staged or applied."""
        state = self.state
        state.save(self.path)
        staged = (state.offer[28:36], len(state.staged))  # both 0 if nothing is staged
        self.link.send(struct.pack(">BBBx8sI128s", 0x06, DENY_LIST, status, *staged, state.head))
        generation, counter, cards = struct.unpack(">II", state.head[12:20]) + struct.unpack(">I", state.content[:4])
        print(f"deny list: status {status}, holding version {generation}.{counter} with {cards} cards")

    def heartbeat(self) -> None:
        state, uptime_ds, clock_ms = self.state, *self.clocks()
        full = state.waiting / RECORDS_HELD_MAX
        flags = (not clock_ms) | (full >= 0.8) << 1 | (full >= 1) << 2
        where = (self.keys["epoch"], state.boot, uptime_ds, clock_ms, state.next, state.first_unacknowledged)
        self.link.send(struct.pack(">BBHHxxIQII", 0x05, flags, *where))


def main() -> int:
    parser = argparse.ArgumentParser(description="An example terminal of the one-card protocol.")
    parser.add_argument("--keys", type=Path, required=True, help="what enrolment gave the terminal, and its cards")
    parser.add_argument("--state", type=Path, required=True, help="the terminal's memory")
    parser.add_argument("--new", action="store_true", help="begin an empty memory: once in the life of an epoch")
    parser.add_argument("--connect", default="127.0.0.1:4700", help="host:port of the front-end")
    parser.add_argument("--taps", type=int, default=5, help="cards held to the terminal in this run")
    options = parser.parse_args()
    if options.new == options.state.exists():
        parser.error("the state file exists already" if options.new else "no state file: --new begins one")
    with options.state.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two processes would give out one sequence twice
        keys = load(options.keys)
        start = (keys["terminal"], keys["epoch"])
        genesis = cmac(keys["seal_key"], b"\xff\x01" + struct.pack(">IH", *start) + keys["enrolment_id"])[:8]
        state = State(*start, genesis) if options.new else State(**load(options.state))
        if (state.terminal, state.epoch) != start:
            parser.error("the state file is of another terminal or epoch")
        terminal = Terminal(keys, options.state, state, options.taps)
        host, _, port = options.connect.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), HANDSHAKE_S_MAX) as connection:
                terminal.run(Link(connection, keys))
        except (SessionEnded, InvalidTag, OSError) as error:
            print(f"session over: {str(error) or 'a forged frame'}")
        while terminal.taps_left:
            terminal.tap()  # a terminal sells without a network, too
    print(f"next record is {state.next}; {state.waiting} wait for the front-end")
    return 3 if state.waiting else 0


if __name__ == "__main__":
    raise SystemExit(main())
