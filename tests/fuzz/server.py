"""A front-end under virtual time with one terminal that is authenticated and broken, and one that works.

The broken one sends valid messages in any order, bent ones and raw bytes. Whatever it does, the server raises nothing,
acknowledges nothing that is not on disk, and goes on serving the other.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any, Final

from protocol.codes import TombstoneReason
from protocol.messages import Baseline, BaselineEntry, Heartbeat, Tombstone, Upload
from protocol.proofs import seal_baseline, seal_tombstone
from tests.frontend.scripted_terminal import ScriptedTerminal, purchase_chain
from tests.frontend.site import ADDRESS, ENROLMENT_ID, LINK_MASTER, ROOT_PUBLIC, Site
from tests.fuzz.corpus import pieces
from tests.fuzz.mutate import mutated
from tests.simulation.world import Host

INPUTS: Final = 60
RECORDS: Final = 12
BROKEN: Final = 101
GOOD: Final = 102


class Broken(ScriptedTerminal):
    """Keys, records and session as they should be; `claimed` are the baselines that it has stated."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.claimed: set[int] = set()

    def baseline(self) -> bytes:
        self.claimed.add(self.first_unacknowledged)
        return super().baseline()


def play_server(source: random.Random) -> tuple[int, int]:
    """One site, some sixty inputs; (messages sent by the broken terminal, sessions it lost)."""
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory), seed=source.randrange(1 << 30), enrolled=3)
        try:
            return _play(source, site)
        finally:
            site.close()


def _play(source: random.Random, site: Site) -> tuple[int, int]:
    good = site.logged_in(GOOD, records=RECORDS)
    broken = Broken(
        Host(site.world, "broken"),
        ADDRESS,
        site.terminal(BROKEN).identity,
        LINK_MASTER,
        ENROLMENT_ID,
        root_public=ROOT_PUBLIC,
        records=purchase_chain(BROKEN, 1, ENROLMENT_ID, RECORDS),
    )
    broken.says_hello_after_log_in = source.random() < 0.7
    sent = lost = 0
    uploaded = 0
    for _ in range(INPUTS):
        if broken.stream is None or broken.is_closed:
            lost += 1
            broken.connect()
            site.run(50)
            continue
        _misbehave(source, broken)
        sent += 1
        if source.random() < 0.5:
            site.run(source.choice((1, 20, 300)))
            _acknowledged_is_held(site, broken)
        if source.random() < 0.15 and uploaded < RECORDS:
            uploaded += 1
            good.upload(uploaded, uploaded)
    site.run(2_000)
    assert good.is_established, "the terminal that behaves lost its session"
    assert not good.byes()
    assert good.first_unacknowledged == uploaded + 1, "the terminal that behaves was not acknowledged"
    _acknowledged_is_held(site, broken)
    return sent, lost


def _misbehave(source: random.Random, terminal: Broken) -> None:
    """One hostile input; a session that is over swallows it."""
    session, stream = terminal.session, terminal.stream
    if session is None or stream is None:
        return
    if not session.established or source.random() < 0.02:
        stream.write(mutated(source, pieces("03_frames", "04_handshake")))
        return
    message = _message(source, terminal)
    if source.random() < 0.25:
        message = mutated(source, [message])
    terminal.say(message[: session.body_bytes_max])


def _message(source: random.Random, terminal: Broken) -> bytes:
    """A message that a terminal may send in some state, true or not."""
    choice = source.randrange(8)
    first = source.randint(1, RECORDS)
    last = min(RECORDS, first + source.randint(0, 3))
    if choice < 3:
        return Upload.of(terminal.records[first - 1 : last]).encode()
    if choice == 3:
        tombstone = Tombstone(TombstoneReason.UNREADABLE, 1, terminal.identity.terminal, first, last)
        tombstone.seal = seal_tombstone(terminal.seal_key, tombstone.sealed_part())
        return tombstone.encode()
    if choice == 4:
        return Heartbeat(1, source.randint(1, 3), source.randrange(1000), 0, first, first).encode()
    if choice == 5:
        terminal.claimed.add(first)
        entry = BaselineEntry(1, 1, first, last + 1, terminal.seal_at(first - 1))
        baseline = Baseline(1, terminal.identity.terminal, 100, 0, [entry])
        baseline.seal = seal_baseline(terminal.seal_key, baseline.sealed_part())
        return baseline.encode()
    if choice == 6:
        return terminal.baseline()
    return source.choice(pieces("06_messages"))


def _acknowledged_is_held(site: Site, terminal: Broken) -> None:
    """Promise 1, asked of the spool itself: all up to `durable` is a record or a tombstone on disk."""
    durable = max((ack.durable for ack in terminal.acks() if ack.epoch == 1), default=0)
    if not durable:
        return
    # A baseline may state that what lies before `first` was acknowledged elsewhere; its seal is what proves it.
    claims = {1, *terminal.claimed}
    held = {max(first - 1, site.spool.ack(terminal.identity.terminal, 1, first)[0]) for first in claims}
    assert durable <= max(held), f"acknowledged to {durable}, on disk to {max(held)}"
