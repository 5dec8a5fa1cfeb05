"""State machines under hostile sequences: right messages at the wrong time, again, from elsewhere, and bent ones.

`play` makes a machine, throws some dozen inputs at it and checks after each what must hold in every state. It returns
(inputs that had an effect or an answer, inputs that were refused). Anything raised fails the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ledger_sync.link.session import FrontEndLink, LinkState
from protocol.cards.apdu import DebitOrder, Identity
from protocol.cards.events import Authenticated, CardSeen, Debited, PendingCleared, PendingProof, Step
from protocol.cards.port import CardDialogue, DebitTerms
from protocol.codes import CardKind, Medium
from protocol.errors import RemoteError, StateMisuse
from protocol.link_messages import LinkHello, LinkWelcome, Pong, RecollectRequest, encode_down
from protocol.list_transfer import Apply
from protocol.messages import ListChunk, ListOffer, decode_down
from protocol.session import Established, FrontEndSession, State, TerminalSession
from protocol.signed import SignedHead
from tests.fuzz.corpus import pieces
from tests.fuzz.lists import contents, new_memory, offers_and_chunks
from tests.fuzz.mutate import mutated
from tests.fuzz.server import play_server
from tests.link.scripted_ledger import BATCH_KEY, CERTIFICATE, ROOT, SIGNER, SITE, STRANGER
from tests.protocol.card_till import CLOCK_MS, CORES, KINDS, START_CENTS, balance
from tests.protocol.samples import CNY, EPOCH, TERMINAL
from tests.protocol.test_session import IDENTITY, KEY, START_MS, enrolled
from tests.simulation.world import EPOCH_MS

INPUTS: Final = 24
Source = random.Random
Played = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Machine:
    """One state machine: `play` runs it once through a hostile sequence."""

    name: str
    play: Callable[[Source], Played]
    frames_share: float


# -- sessions ---------------------------------------------------------------------------------------------------------


def _front_end(source: Source, medium: Medium, find_key: Callable[[Any], bytes | None]) -> FrontEndSession:
    return FrontEndSession(
        frontend=7,
        site=42,
        medium=medium,
        body_bytes_max=960,
        nonce=source.randbytes(16),
        find_key=find_key,
        now_ms=START_MS,
        address=17 if medium is Medium.LINE else 0,
    )


def _terminal(source: Source, medium: Medium, key: bytes) -> TerminalSession:
    return TerminalSession(
        IDENTITY,
        key,
        medium=medium,
        nonce=source.randbytes(16),
        body_bytes_max=960,
        now_ms=START_MS,
        address=17 if medium is Medium.LINE else 0,
    )


def _play_front_end_session(source: Source) -> Played:
    """A front-end with a stranger who has recorded another session, knows everything but the key, and interrupts."""
    medium = source.choice(list(Medium))
    recorded = _recording(source, medium)
    session = _front_end(source, medium, enrolled)
    stranger = _terminal(source, medium, bytes(16))
    has_key = source.random() < 0.3
    honest = _terminal(source, medium, KEY) if has_key else stranger
    taken = refused = 0
    lies = source.choice((0.05, 0.2, 0.6))
    for _ in range(INPUTS):
        data = _perhaps_bent(source, honest.take_output(), recorded, lies)
        was = session.state
        events = session.receive(data, START_MS)
        if any(isinstance(event, Established) for event in events):
            assert has_key, "established without the key"
        assert has_key or all(not isinstance(event, bytes) for event in events), "a stranger's message was taken"
        taken, refused = taken + bool(events), refused + (not events)
        if was is State.CLOSED:
            assert not events, "something was taken after the end"
            assert session.state is State.CLOSED
        answer = session.take_output()
        if answer and source.random() < 0.8:
            honest.receive(answer, START_MS)
            if honest.established and source.random() < 0.5:
                honest.send(source.choice(pieces("06_messages"))[:900])
    return taken, refused


def _play_terminal_session(source: Source) -> Played:
    """A terminal before a front-end that does not know its key, and one that sends what others were sent."""
    medium = source.choice(list(Medium))
    recorded = _recording(source, medium)
    terminal = _terminal(source, medium, KEY)
    impostor = _front_end(source, medium, lambda _: bytes(16))
    taken = refused = 0
    lies = source.choice((0.05, 0.2, 0.6))
    for _ in range(INPUTS):
        output = terminal.take_output()
        if output:
            impostor.receive(output, START_MS)
        data = _perhaps_bent(source, impostor.take_output(), recorded, lies)
        events = terminal.receive(data, START_MS)
        assert not terminal.established, "a front-end without the key was believed"
        assert not any(isinstance(event, bytes) for event in events), "an impostor's message was taken"
        taken, refused = taken + bool(events), refused + (not events)
    return taken, refused


def _perhaps_bent(source: Source, true: bytes, recorded: list[bytes], lies: float) -> bytes:
    """What a sender has to say, or in its place something of a recording, bent or not."""
    if source.random() >= lies:
        return true
    return source.choice(recorded) if source.random() < 0.5 else mutated(source, recorded)


def _recording(source: Source, medium: Medium) -> list[bytes]:
    """Every write of an honest session of the same terminal, both directions."""
    terminal, front_end = _terminal(source, medium, KEY), _front_end(source, medium, enrolled)
    writes: list[bytes] = []
    for turn in range(8):
        for sender, receiver in ((terminal, front_end), (front_end, terminal)):
            if sender.established and turn < 6:
                sender.send(bytes((1 + turn,)) * 8)
            data = sender.take_output()
            if data:
                writes.append(data)
                receiver.receive(data, START_MS)
    assert terminal.established
    assert front_end.established
    return writes


# -- cards ------------------------------------------------------------------------------------------------------------


def _play_card(source: Source) -> Played:
    """A card before somebody who knows every command and no key: nothing that it keeps may change."""
    kind = source.choice(list(CORES))
    core = CORES[kind]()
    before, commands = core.image, pieces("12_card")
    taken = refused = 0
    for _ in range(INPUTS):
        if source.random() < 0.1:
            core.reset()
        data = mutated(source, commands) if source.random() < 0.7 else source.choice(commands)
        answer, written = core.command(data, source.randbytes(16))
        assert isinstance(answer, bytes), "a card always answers in bytes"
        assert written is None, "a card wrote without a key"
        assert core.image == before
        is_good = answer[-2:] == b"\x90\x00"
        taken, refused = taken + is_good, refused + (not is_good)
    return taken, refused


def _play_dialogue(source: Source) -> Played:
    """A terminal's dialogue with a card that answers wrongly: at any time, with anything, or not at all.

    What must hold: only a genuine card's answer debits, no more than once, and an open debit is known as such.
    """
    kind = source.choice(list(CORES))
    core = CORES[kind]()
    terms = DebitTerms(source.choice((1, 450, START_CENTS)), CNY, TERMINAL, EPOCH)
    dialogue = CardDialogue(KINDS, terms)
    order = DebitOrder(terms.amount_cents, CNY, Identity(TERMINAL, EPOCH, source.randint(1, 9)))
    step, debits, answers = dialogue.start(), 0, 0
    lies = source.choice((0.0, 0.05, 0.3))
    for _ in range(INPUTS * 2):
        if step.command is not None:
            answers += 1
            step = _answered(source, dialogue, core, step.command, lies)
            continue
        event = step.event
        if isinstance(event, CardSeen | PendingCleared):
            step = dialogue.authenticate(source.randbytes(16))
        elif isinstance(event, PendingProof):
            step = dialogue.completion_written()
        elif isinstance(event, Authenticated):
            step = dialogue.intent_written(order, clock_ms=CLOCK_MS)
        elif isinstance(event, Debited):
            debits += 1
            step = dialogue.record_written()
        else:
            break
    left = balance(core)
    assert debits <= 1
    assert left in {START_CENTS, START_CENTS - terms.amount_cents}, f"{left} cents on the card"
    if kind is not CardKind.MEMORY:  # a memory card proves nothing: what it answers is believed (R4)
        assert left == START_CENTS - terms.amount_cents or not debits, "a debit was believed that did not happen"
        if left != START_CENTS and not (debits or dialogue.may_have_debited):
            # A debit, and then the status word of a refusal: it is believed, and the next tap brings the debit home.
            assert _pending(source, core) == order.identity, "a debit happened that nobody will ever record"
    _refuses_out_of_turn(source, dialogue, order)
    return debits, answers


def _pending(source: Source, core: Any) -> Identity | None:
    """The identity of the proof that an honest next tap is shown."""
    core.reset()
    dialogue = CardDialogue(KINDS, DebitTerms(1, CNY, TERMINAL, EPOCH))
    step = dialogue.start()
    while True:
        if step.command is not None:
            answer, _ = core.command(step.command, source.randbytes(16))
            step = dialogue.answered(answer)
        elif isinstance(step.event, CardSeen):
            step = dialogue.authenticate(source.randbytes(16))
        else:
            return step.event.proof.identity if isinstance(step.event, PendingProof) else None


def _answered(source: Source, dialogue: CardDialogue, core: Any, command: bytes, lies: float) -> Step:
    if source.random() < lies / 3:
        return dialogue.card_gone()
    answer, _ = core.command(command, source.randbytes(16))
    if source.random() >= lies:
        return dialogue.answered(answer)
    kind_of_lie = source.random()
    if kind_of_lie < 0.3:
        return dialogue.answered(None)
    if kind_of_lie < 0.6:
        return dialogue.answered(source.choice(pieces("12_card")))
    return dialogue.answered(mutated(source, [answer or b"\0"]))


def _refuses_out_of_turn(source: Source, dialogue: CardDialogue, order: DebitOrder) -> None:
    """After its end a dialogue does nothing more, whatever is asked of it."""
    if not dialogue.ended:
        return
    verbs: tuple[Callable[[], Step], ...] = (
        lambda: dialogue.authenticate(bytes(16)),
        lambda: dialogue.intent_written(order, clock_ms=CLOCK_MS),
        dialogue.record_written,
        dialogue.completion_written,
        lambda: dialogue.answered(b"\x90\x00"),
    )
    try:
        step = source.choice(verbs)()
    except StateMisuse:
        return
    assert step.command is None, "a dialogue that has ended sends commands"


# -- lists ------------------------------------------------------------------------------------------------------------


def _play_lists(source: Source) -> Played:
    """A terminal that is sent offers and chunks of several versions in any order, old, foreign and bent ones too."""
    memory = new_memory()
    genuine = offers_and_chunks()
    taken = refused = 0
    at = source.randrange(len(genuine))
    for _ in range(INPUTS * 2):
        # In order often enough that transfers come to their end, and then out of it.
        at = (at + 1) % len(genuine) if source.random() < 0.85 else source.randrange(len(genuine))
        body = genuine[at] if source.random() < 0.9 else mutated(source, genuine)
        version = memory.receiver.held_version
        try:
            message = decode_down(body)
            if not isinstance(message, ListOffer | ListChunk):
                continue
            events = memory.take(message)
        except RemoteError:
            refused += 1
            assert memory.receiver.held_version == version
            continue
        taken += 1
        for event in events:
            if isinstance(event, Apply):
                head = SignedHead.decode(event.head)
                assert head.version > version, f"{head.version} was applied over {version}"
                assert event.content in contents(), "a content was applied that nobody has signed"
    return taken, refused


# -- link -------------------------------------------------------------------------------------------------------------


def _play_link(source: Source) -> Played:
    """A front-end's link before a ledger that is not the site's, replays another's words, or says them in any order."""
    hello = LinkHello(7, bytes(range(16)), 1, 0, source.randbytes(16), 1, 0)
    link = FrontEndLink(hello, batch_key=BATCH_KEY, root_public_key=ROOT.public_key, site=SITE)
    is_genuine = source.random() < 0.5
    nonce = hello.nonce if is_genuine else source.randbytes(16)
    signer = SIGNER if is_genuine else source.choice((SIGNER, STRANGER))
    words = [
        encode_down(LinkWelcome(SITE, 1, 0, nonce, EPOCH_MS, CERTIFICATE.encode()), signer),
        encode_down(Pong(source.randbytes(16)), signer),
        encode_down(RecollectRequest(TERMINAL, EPOCH, 1, 4), signer),
    ]
    strange = [each for each in pieces("11_link") if int.from_bytes(each[:4], "big") == len(each) - 4]
    taken = refused = 0
    lies = source.choice((0.05, 0.2, 0.6))
    for turn in range(INPUTS):
        data = _perhaps_bent(source, words[0] if turn == 0 else source.choice(words[1:]), strange, lies)
        was_closed = link.state is LinkState.CLOSED
        events = link.receive(data, EPOCH_MS)
        assert not (was_closed and events), "something was taken after the end"
        if link.state is LinkState.UP:
            assert is_genuine, "a ledger without the certified key, or an old welcome, was believed"
        taken, refused = taken + bool(events), refused + (not events)
    return taken, refused


MACHINES: Final = {
    machine.name: machine
    for machine in (
        Machine("front-end session", _play_front_end_session, 0.15),
        Machine("terminal session", _play_terminal_session, 0.15),
        Machine("cards without a key", _play_card, 0.3),
        Machine("dialogue with a lying card", _play_dialogue, 0.1),
        Machine("lists in any order", _play_lists, 0.1),
        Machine("link to a strange ledger", _play_link, 0.1),
        Machine("server and a broken terminal", play_server, 0.02),
    )
}
