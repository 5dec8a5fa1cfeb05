"""LIST_OFFER and LIST_CHUNK messages of three versions of a deny list, and of one that another site's ledger signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from protocol.codes import ListKind
from protocol.deny_list import DenyList
from protocol.list_receiver import ListEvent
from protocol.list_transfer import (
    Apply,
    ListReceiver,
    ListSender,
    ListVersion,
    StageAppend,
    StageBegin,
    StageClear,
)
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import SoftwareSigner, issue_certificate, sign_head

SITE: Final = 42
BODY_BYTES: Final = 320  # the smallest: a list takes several chunks
ROOT: Final = SoftwareSigner(bytes(range(32)))
ROOT_PUBLIC: Final = ROOT.public_key
LEDGER_SEED: Final = bytes(range(40, 72))


def _version(site: int, counter: int, cards: DenyList) -> ListVersion:
    certificate = issue_certificate(
        ROOT,
        key_id=1,
        site=site,
        valid_from_ms=0,
        valid_to_ms=100,
        public_key=SoftwareSigner(LEDGER_SEED).public_key,
    )
    content = cards.content()
    head = sign_head(
        LEDGER_SEED,
        key_id=1,
        site=site,
        list_kind=ListKind.DENY,
        generation=1,
        counter=counter,
        issued_ms=5,
        content=content,
    )
    return ListVersion(head, certificate, content, {})


class Memory:
    """A terminal's memory for one list: does what the receiver's events say."""

    def __init__(self, receiver_of: Callable[[Memory], ListReceiver]) -> None:
        self.staged = b""
        self.content = b""
        self.receiver = receiver_of(self)

    def staged_data(self) -> bytes:
        return self.staged

    def held_content(self) -> bytes:
        return self.content

    def take(self, message: ListOffer | ListChunk) -> list[ListEvent]:
        """Carry everything out; the events come back. Raises as the receiver does."""
        receiver = self.receiver
        events = receiver.receive_offer(message) if isinstance(message, ListOffer) else receiver.receive_chunk(message)
        for event in events:
            if isinstance(event, StageBegin | StageClear):
                self.staged = b""
            elif isinstance(event, StageAppend):
                assert event.offset == len(self.staged)
                self.staged += event.data
            elif isinstance(event, Apply):
                self.content = event.content
        return events


def new_memory(site: int = SITE) -> Memory:
    """A terminal that holds no list yet."""
    return Memory(lambda store: ListReceiver(site=site, root_public=ROOT_PUBLIC, room_bytes=1 << 16, store=store))


def _messages_of(version: ListVersion) -> Iterator[bytes]:
    """All that a sender says to a terminal that holds nothing and takes everything."""
    memory = new_memory(version.head.site)
    sender = ListSender(version, body_bytes_max=BODY_BYTES)
    waiting = sender.on_state(memory.receiver.state())
    while waiting:
        output = waiting.pop(0)
        assert isinstance(output, ListOffer | ListChunk), output
        yield output.encode()
        for event in memory.take(output):
            if isinstance(event, ListState):
                waiting += sender.on_state(event)
    assert memory.content == version.content


@cache
def _versions() -> tuple[ListVersion, ...]:
    lists = [DenyList(range(1_000, 1_000 + size, 3), [4]) for size in (30, 600, 900)]
    ours = [_version(SITE, number, cards) for number, cards in enumerate(lists, 1)]
    return (*ours, _version(SITE + 1, 9, DenyList([7])))


@cache
def offers_and_chunks() -> tuple[bytes, ...]:
    """In the order of sending, version after version."""
    return tuple(message for version in _versions() for message in _messages_of(version))


@cache
def contents() -> frozenset[bytes]:
    """What this site's ledger has signed."""
    return frozenset(version.content for version in _versions() if version.head.site == SITE)
