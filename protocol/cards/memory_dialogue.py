"""The terminal's side of a debit dialogue with a memory card, behind `port.PurseDialogue` (docs/cards.md, R4). Pure.

    UID, sector 0: directory and facts → the caller looks at the card
      → markers, purse, backup; repair if needed → the caller writes the intent
      → marker → backup → purse → the caller writes the record

Which commands can leave a question open is this card's whole difficulty: only the TRANSFER into the backup. Before it
was sent there is certainly no debit, after its answer there certainly is one, whatever becomes of the card.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from protocol.cards import memory_apdu as apdu
from protocol.cards.apdu import CardFacts, DebitOrder, StatusWord, split_answer
from protocol.cards.dialogue import Input
from protocol.cards.events import (
    Authenticated,
    CardGone,
    CardSeen,
    Debited,
    Event,
    Finished,
    Reason,
    Refused,
    Step,
    Unknown,
)
from protocol.cards.memory_apdu import ValueOperation
from protocol.cards.memory_layout import (
    BACKUP_BLOCK,
    DIRECTORY_BLOCK,
    DIRECTORY_SECTOR,
    FACTS_BLOCK,
    MARKER_BLOCKS,
    MARKER_SECTOR,
    OWNER_OF_SECTOR,
    PURSE_BLOCK,
    PURSE_SECTOR,
    KeyLetter,
    Marker,
    MarkerKind,
    MemoryFacts,
    decode_directory,
    decode_value,
)
from protocol.cards.memory_purse import PurseState, Repair, judge
from protocol.cards.memory_sam import MemorySam
from protocol.cards.port import DebitTerms
from protocol.cards.turns import Turns
from protocol.codes import CardKind
from protocol.errors import RemoteError, StateMisuse
from protocol.mac import SEAL_BYTES

NO_PROOF: Final = bytes(SEAL_BYTES)
"""The card proof of a memory card's records: there is none (R4)."""


class State(Enum):
    IDLE = "nothing sent"
    FINDING = "reading UID and sector 0"
    SEEN = "card known, not yet proved; the caller checks it"
    READING = "opening the purse's sectors, reading, repairing"
    READY = "the caller writes the intent"
    MARKING = "writing the marker, loading the register: certainly no debit yet"
    BACKUP = "TRANSFER into the backup sent: the only question there is"
    LOOKING = "its answer is missing; the backup is read"
    PURSE = "the debit stands; bringing the purse after the backup"
    DEBITED = "the caller writes the record"
    DONE = "record written"
    UNKNOWN = "the caller writes a grey record"
    REFUSED = "no debit; the caller writes `aborted` if it holds a sequence"
    GONE = "card left before the intent; as REFUSED"


ENDED: Final = frozenset({State.DONE, State.UNKNOWN, State.REFUSED, State.GONE})
_BEFORE_INTENT: Final = (State.IDLE, State.FINDING, State.SEEN, State.READING, State.READY)
_MAY_HAVE_DEBITED: Final = frozenset({State.BACKUP, State.LOOKING, State.PURSE, State.DEBITED, State.UNKNOWN})

TRANSITIONS: Final[Mapping[tuple[State, Input], frozenset[State]]] = MappingProxyType(
    {
        (State.IDLE, Input.START): frozenset({State.FINDING}),
        (State.FINDING, Input.ANSWER): frozenset({State.FINDING, State.SEEN, State.REFUSED, State.GONE}),
        (State.SEEN, Input.AUTHENTICATE): frozenset({State.READING, State.REFUSED}),
        (State.READING, Input.ANSWER): frozenset({State.READING, State.READY, State.REFUSED, State.GONE}),
        (State.READY, Input.INTENT_WRITTEN): frozenset({State.MARKING, State.REFUSED}),
        (State.MARKING, Input.ANSWER): frozenset({State.MARKING, State.BACKUP, State.REFUSED}),
        (State.MARKING, Input.CARD_GONE): frozenset({State.REFUSED}),
        (State.BACKUP, Input.ANSWER): frozenset({State.PURSE, State.LOOKING, State.REFUSED}),
        (State.BACKUP, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.LOOKING, Input.ANSWER): frozenset({State.PURSE, State.REFUSED, State.UNKNOWN}),
        (State.LOOKING, Input.CARD_GONE): frozenset({State.UNKNOWN}),
        (State.PURSE, Input.ANSWER): frozenset({State.PURSE, State.DEBITED}),
        (State.PURSE, Input.CARD_GONE): frozenset({State.DEBITED}),
        (State.DEBITED, Input.CARD_GONE): frozenset({State.DEBITED}),
        (State.DEBITED, Input.RECORD_WRITTEN): frozenset({State.DONE}),
        **{(state, Input.CARD_GONE): frozenset({State.GONE}) for state in _BEFORE_INTENT},
        **{(state, Input.ABANDON): frozenset({State.REFUSED}) for state in _BEFORE_INTENT},
        **{(state, Input.CARD_GONE): frozenset({state}) for state in ENDED},
    }
)
"""(state, input) → possible next states; a pair that is missing is the caller's mistake, StateMisuse."""

_DONE: Final = StatusWord.DONE.to_bytes(2, "big")
_REFUSALS: Final = frozenset({StatusWord.MAC_WRONG, StatusWord.NOT_IN_THIS_STATE, StatusWord.WRONG_LENGTH})
"""Answers to TRANSFER by which the card says that it wrote nothing."""

Commands = Generator[bytes, bytes, Event | None]
"""Commands one after another, each answered with its data; ends with what to tell the caller."""


class NotDone(Exception):  # of this dialogue and the one built on it; no error of the protocol
    def __init__(self, reason: Reason, status: int | None = None) -> None:
        self.refused = Refused(reason, status)


class MemoryDialogue:
    """One memory card, from its arrival until it leaves; a `port.PurseDialogue` without proofs."""

    __slots__ = ("_card", "_commands", "_order", "_purse", "_salt", "_sam", "_terms", "_turns", "_uid", "_used")

    def __init__(self, sam: MemorySam, terms: DebitTerms) -> None:
        self._turns = Turns(TRANSITIONS, State.IDLE)
        self._sam = sam
        self._terms = terms
        self._commands: Commands | None = None
        self._salt = bytes(apdu.CHALLENGE_BYTES)
        self._used = 0
        self._uid = b""
        self._card: MemoryFacts | None = None
        self._purse: PurseState | None = None
        self._order: DebitOrder | None = None

    @property
    def state(self) -> State:
        return self._turns.state

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def may_have_debited(self) -> bool:
        return self.state in _MAY_HAVE_DEBITED

    @property
    def found(self) -> PurseState | None:
        """The purse as it was read, the interrupted transaction before it included; for logs and hints."""
        return self._purse

    def start(self) -> Step:
        self._turns.take(Input.START)
        return self._begin(Input.START, State.FINDING, self._find())

    def authenticate(self, challenge: bytes) -> Step:
        self._turns.take(Input.AUTHENTICATE)
        assert self._card is not None
        if not self._sam.holds(self._card.key_version):
            return self._refuse_key_version()
        self._salt, self._used = challenge[: apdu.CHALLENGE_BYTES], 0
        return self._begin(Input.AUTHENTICATE, State.READING, self._read_and_repair())

    def completion_written(self) -> Step:
        raise StateMisuse("a memory card keeps no proof to complete")

    def intent_written(self, order: DebitOrder, *, clock_ms: int) -> Step:  # the card keeps no time
        self._turns.take(Input.INTENT_WRITTEN)
        self._terms.check(order)
        assert self._purse is not None
        self._order = order
        if self._purse.balance_cents < order.amount_cents:
            return self._turns.go(Input.INTENT_WRITTEN, State.REFUSED, event=Refused(Reason.BALANCE_TOO_LOW))
        return self._begin(Input.INTENT_WRITTEN, State.MARKING, self._mark())

    def record_written(self) -> Step:
        self._turns.take(Input.RECORD_WRITTEN)
        return self._turns.go(Input.RECORD_WRITTEN, State.DONE, event=Finished(confirmed=True))

    def abandon(self) -> Step:
        self._turns.take(Input.ABANDON)
        return self._turns.go(Input.ABANDON, State.REFUSED, event=Refused(Reason.ABANDONED))

    def card_gone(self) -> Step:
        self._turns.take(Input.CARD_GONE)
        state = self.state
        if state in ENDED or state is State.DEBITED:
            return Step()
        if state is State.PURSE:
            return self._debited(Input.CARD_GONE)
        if state in {State.BACKUP, State.LOOKING}:
            return self._unknown(Input.CARD_GONE)
        if state is State.MARKING:
            return self._turns.go(Input.CARD_GONE, State.REFUSED, event=Refused(Reason.NOT_DEBITED))
        return self._turns.go(Input.CARD_GONE, State.GONE, event=CardGone())

    def answered(self, answer: bytes | None) -> Step:
        self._turns.take(Input.ANSWER)
        if self.state is State.BACKUP:
            return self._backup_answered(answer)
        if self.state is State.LOOKING:
            return self._looked(answer)
        if self.state is State.PURSE:
            return self._go_on(answer) if answer is not None and answer[-2:] == _DONE else self._debited(Input.ANSWER)
        if answer is None and self.state is State.MARKING:
            return self._turns.go(Input.ANSWER, State.REFUSED, event=Refused(Reason.NOT_DEBITED))
        if answer is None:
            return self._turns.go(Input.ANSWER, State.GONE, event=CardGone())
        return self._go_on(answer)

    # -- running a series of commands

    def _begin(self, given: Input, state: State, commands: Commands) -> Step:
        self._commands = commands
        return self._turns.go(given, state, next(commands))

    def _go_on(self, answer: bytes) -> Step:
        """The next command of the series, or its end."""
        assert self._commands is not None
        try:
            data, status = split_answer(answer)
            if status != StatusWord.DONE:
                raise NotDone(self._reason(Reason.CARD_REFUSED), status)
            command = self._commands.send(data)
        except StopIteration as end:
            return self._series_ended(end.value)
        except NotDone as not_done:
            return self._turns.go(Input.ANSWER, State.REFUSED, event=not_done.refused)
        except RemoteError:
            refused = Refused(self._reason(Reason.NOT_GENUINE))
            return self._turns.go(Input.ANSWER, State.REFUSED, event=refused)
        is_backup = self.state is State.MARKING and command == apdu.transfer_command(BACKUP_BLOCK)
        return self._turns.go(Input.ANSWER, State.BACKUP if is_backup else self.state, command)

    def _series_ended(self, event: Event | None) -> Step:
        if self.state is State.PURSE:
            return self._debited(Input.ANSWER)
        return self._turns.go(Input.ANSWER, State.SEEN if self.state is State.FINDING else State.READY, event=event)

    def _reason(self, later: Reason) -> Reason:
        return Reason.NOT_OUR_CARD if self.state is State.FINDING else later

    # -- the series

    def _open(self, sector: int, key_version: int) -> Generator[bytes, bytes, None]:
        """The three passes. Raises NotDone for a card that does not have this sector's key."""
        sam, letter = self._key_of(sector)
        challenge = self._salt[:-1] + bytes((self._used,))
        self._used += 1
        answer = yield apdu.auth_command(sector, letter, challenge)
        card, proof = apdu.parse_auth(answer)
        named = (key_version, self._uid, sector)
        if not sam.card_is_genuine(*named, terminal=challenge, card=card, proof=proof):
            raise NotDone(self._reason(Reason.NOT_GENUINE))
        yield apdu.prove_command(sam.terminal_proof(*named, terminal=challenge, card=card))

    def _key_of(self, sector: int) -> tuple[MemorySam, KeyLetter]:
        """Whose key opens a sector: a load station's overrides this."""
        return self._sam, KeyLetter.A

    def _block(self, index: int) -> Generator[bytes, bytes, bytes]:
        return apdu.parse_block((yield apdu.read_command(index)))

    def _find(self) -> Commands:
        self._uid = apdu.parse_uid((yield apdu.GET_UID_COMMAND))
        yield from self._open(DIRECTORY_SECTOR, 0)
        if decode_directory((yield from self._block(DIRECTORY_BLOCK))) != tuple(OWNER_OF_SECTOR[1:]):
            raise NotDone(Reason.NOT_OUR_CARD)
        card = self._card = MemoryFacts.decode((yield from self._block(FACTS_BLOCK)))
        facts = (card.number, card.currency, False, card.valid_until_day, card.group)
        return CardSeen(CardFacts(CardKind.MEMORY, card.key_version, self._uid, *facts))

    def _read_and_repair(self) -> Commands:
        assert self._card is not None
        version = self._card.key_version
        yield from self._open(MARKER_SECTOR, version)
        even = yield from self._block(MARKER_BLOCKS[0])
        odd = yield from self._block(MARKER_BLOCKS[1])
        yield from self._open(PURSE_SECTOR, version)
        purse = yield from self._block(PURSE_BLOCK)
        backup = yield from self._block(BACKUP_BLOCK)
        try:
            found = self._purse = judge(purse, backup, (even, odd))
        except RemoteError:
            raise NotDone(Reason.CARD_REFUSED) from None
        if found.repair is not Repair.NONE:
            pair = (BACKUP_BLOCK, PURSE_BLOCK)
            source, target = pair if found.repair is Repair.PURSE_FROM_BACKUP else pair[::-1]
            yield apdu.value_command(ValueOperation.RESTORE, source)
            yield apdu.transfer_command(target)
        return (yield from self._decided(found))

    def _decided(self, found: PurseState) -> Commands:
        """Both sectors have been read and the purse is whole; the purse's is open."""
        yield from ()
        return Authenticated(found.balance_cents, found.counter)

    def _mark(self) -> Commands:
        assert self._card is not None
        marker, version = self._marker(), self._card.key_version
        yield from self._open(MARKER_SECTOR, version)
        yield apdu.write_command(marker.block, marker.encode())
        yield from self._open(PURSE_SECTOR, version)
        yield apdu.value_command(ValueOperation.DECREMENT, BACKUP_BLOCK, marker.amount_cents)
        yield apdu.transfer_command(BACKUP_BLOCK)
        return None

    def _follow(self) -> Commands:
        yield apdu.value_command(ValueOperation.DECREMENT, PURSE_BLOCK, self._marker().amount_cents)
        yield apdu.transfer_command(PURSE_BLOCK)
        return None

    # -- around the debit

    def _backup_answered(self, answer: bytes | None) -> Step:
        if answer == _DONE:
            return self._begin(Input.ANSWER, State.PURSE, self._follow())
        if answer is not None and len(answer) == 2 and int.from_bytes(answer, "big") in _REFUSALS:
            refused = Refused(Reason.CARD_REFUSED, int.from_bytes(answer, "big"))
            return self._turns.go(Input.ANSWER, State.REFUSED, event=refused)
        return self._turns.go(Input.ANSWER, State.LOOKING, apdu.read_command(BACKUP_BLOCK))

    def _looked(self, answer: bytes | None) -> Step:
        """The backup itself says whether it was written; torn or unreadable, it stays a question."""
        marker = self._marker()
        try:
            data, status = split_answer(answer or b"")
            held = decode_value(apdu.parse_block(data)) if status == StatusWord.DONE else None
        except RemoteError:
            held = None
        if held == (marker.after_cents, PURSE_BLOCK):
            return self._begin(Input.ANSWER, State.PURSE, self._follow())
        if held == (marker.before_cents, PURSE_BLOCK):
            return self._turns.go(Input.ANSWER, State.REFUSED, event=Refused(Reason.NOT_DEBITED))
        return self._unknown(Input.ANSWER)

    def _debited(self, given: Input) -> Step:
        assert self._order is not None
        marker = self._marker()
        event = Debited(self._order, marker.after_cents, marker.counter, NO_PROOF)
        return self._turns.go(given, State.DEBITED, event=event)

    def _refuse_key_version(self) -> Step:
        return self._turns.go(Input.AUTHENTICATE, State.REFUSED, event=Refused(Reason.KEY_VERSION))

    def _unknown(self, given: Input) -> Step:
        assert self._order is not None
        assert self._purse is not None
        event = Unknown(self._order, self._purse.balance_cents, self._purse.counter)
        return self._turns.go(given, State.UNKNOWN, event=event)

    def _marker(self) -> Marker:
        assert self._order is not None
        assert self._purse is not None
        return self._purse.next_marker(MarkerKind.DEBIT, self._order.amount_cents)
