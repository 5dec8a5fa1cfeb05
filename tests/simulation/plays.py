"""Scenes that more than one test plays: each runs on a site of its own, and raises Violation where a promise breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.codes import LinkType
from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.firmware import Outcome, Why
from terminal_sim.ring import SLOTS_PER_SECTOR
from terminal_sim.uplink import UplinkState
from tests.simulation.agreement import Agreement, agree
from tests.simulation.attacker import TYPE_AT, Attacker
from tests.simulation.breakage import LEDGER_HOST
from tests.simulation.invariants import Violation
from tests.simulation.keys import FIRST_CARD
from tests.simulation.runner import drain
from tests.simulation.site import FRONTEND_HOST, Site
from tests.simulation.streams import VirtualStream
from tests.simulation.till import Till

SEED: Final = 2026
CENTS: Final = 850
TAPS_THAT_FILL: Final = 200  # more than five sectors hold
TAP_COMMANDS: Final = 6  # of an AES card's sale, with some room
MISSED: Final = 4  # times a list is hit, each at another bit


def started(directory: Path) -> Site:
    """A site of four terminals and twenty cards, drained, checked closely."""
    site = Site(SEED, directory / "site", check_every_events=100)
    site.start()
    site.run(3_000)
    drain(site)
    return site


def sell(site: Site, count: int, *, cents: int = CENTS, every_ms: int = 100) -> int:
    """`count` sales over all terminals and cards, one after the other; returns how many were made."""
    sold = 0
    for at in range(count):
        till = site.tills[at % len(site.tills)]
        result = site.tap(till, FIRST_CARD + at % 20, cents)
        sold += result is not None and result.outcome is Outcome.SOLD
        site.run(every_ms)
    return sold


def play_restored_ledger(directory: Path) -> Agreement:
    """Yesterday's ledger is put back under a higher generation and gets everything again (R17)."""
    with started(directory) as site:
        early = sell(site, 10)
        drain(site)
        backup = directory / "yesterday.db"
        site.ledger.back_up(backup)
        late = sell(site, 30)
        drain(site)
        site.crash_ledger()
        told = site.restore_ledger(backup)
        assert told["generation"] == 2
        site.start_ledger()
        site.run(1_000)
        drain(site)
        totals = agree(site)
        assert totals.records == early + late
        return totals


def play_rolled_back(directory: Path) -> set[str]:
    """A terminal's memory goes back in time, and it sells other things under numbers that are taken (R10).

    Returns the alarms that stand for it.
    """
    with started(directory) as site:
        till = site.tills[0]
        site.tap(till, FIRST_CARD, 500)
        drain(site)
        image = till.flash.snapshot()
        for card in range(1, 6):
            site.tap(till, FIRST_CARD + card, 600)
        drain(site)
        site.power_cut(till)
        till.flash.restore(image)
        site.reboot(till)
        for card in range(6, 11):  # the oracle is not asked any more: the terminal itself is broken
            till.tap(FIRST_CARD + card, 700)
        site.world.run_until(site.world.time_ms + 40_000)
        site.invariants.raise_found()
        assert till.uplink is not None
        if till.uplink.state is not UplinkState.FORKED:
            raise Violation(f"terminal {till.number} has forked and nobody has told it: {till.uplink.state}")
        alarms = [] if site.frontend.server is None else site.frontend.server.parts.alarms.standing()
        own = {one.kind.value for one in alarms if one.subject == str(till.number)}
        if not own:
            raise Violation(f"terminal {till.number} has forked and no alarm stands")
        return own


def play_dead_sector(directory: Path) -> tuple[Agreement, int]:
    """Unacknowledged records become unreadable: named as tombstones, with their amount (R9); returns how many."""
    with started(directory) as site:
        till = site.tills[0]
        site.cut_network(FRONTEND_HOST)
        for at in range(60):
            site.tap(till, FIRST_CARD + at % 20, 100)
        assert till.terminal is not None
        assert till.terminal.memory is not None
        sector = till.terminal.memory.ring.epochs[1].segments[0].sector
        till.flash.dead_sectors.add(sector)
        site.heal()
        drain(site)
        site.tap(till, FIRST_CARD, 100)
        drain(site)
        return agree(site, allowed=frozenset({"grey", "tombstone"})), SLOTS_PER_SECTOR


def play_full_memory(directory: Path) -> tuple[Agreement, int]:
    """A till without a cable sells until its memory is full, and no further; nothing of it is lost (R12).

    Returns how many sales it refused.
    """
    with started(directory) as site:
        till, refused = site.tills[0], 0
        site.cut_network(till.host.name)
        for at in range(TAPS_THAT_FILL):
            result = site.tap(till, FIRST_CARD + at % 20, 1)
            refused += result is not None and result.why is Why.MEMORY_FULL
        site.heal()
        drain(site)
        return agree(site), refused


def play_torn_taps(directory: Path) -> Agreement:
    """The power goes at every command of a tap, a card each; each card is seen once more and buys nothing (R20).

    Then the ledger starts again, and all of it once more, without the last look: what it knew of cards must be on disk.
    """
    with started(directory) as site:
        till, other, *_ = site.tills
        _tear(site, till)
        for at in range(TAP_COMMANDS):
            site.serve(other, FIRST_CARD + at, lambda terminal, field: terminal.check(field))
        drain(site)
        assert not site.invariants.ledger.open_greys()  # type: ignore[union-attr]
        site.crash_ledger()
        site.start_ledger()
        site.run(1_000)
        _tear(site, till)
        return agree(site)


def _tear(site: Site, till: Till) -> None:
    for at in range(TAP_COMMANDS):
        site.tap(till, FIRST_CARD + at, CENTS, Disturbance(at, Moment.AFTER_WRITE, Effect.POWER_CUT))
        site.reboot(till)
        drain(site)


def play_missed_list(directory: Path) -> list[Why]:
    """A list is damaged on its way and the next one comes before it is asked for again: every card on both is refused.

    Returns why each terminal refused each card.
    """
    with started(directory) as site:
        found = []
        for at in range(MISSED):
            site.world.wiretap = _hits_the_next_list(site)
            cards = (FIRST_CARD + 2 * at, FIRST_CARD + 2 * at + 1)
            for card in cards:
                site.report_lost(card)
                site.run(300)
            drain(site)
            issued = site.invariants.ledger.denied()  # type: ignore[union-attr]
            for card in sorted(issued[max(issued)] & set(cards)):
                for till in site.tills:
                    result = site.tap(till, card, 10)
                    if result is not None and result.why is not Why.DENY_LIST:
                        raise Violation(f"terminal {till.number}: a card reported lost is {result.outcome.value}")
                    found.append(Why.NONE if result is None else result.why)
        drain(site)
        agree(site)
        return found


def _hits_the_next_list(site: Site) -> Callable[[VirtualStream, bytes], None]:
    """A bit of it flips, and nobody hears any more."""

    def hears(stream: VirtualStream, data: bytes) -> None:
        if stream.host.name == LEDGER_HOST and data[TYPE_AT : TYPE_AT + 1] == bytes((LinkType.LIST,)):
            site.world.corrupt_next[LEDGER_HOST] = 0
            site.world.wiretap = None

    return hears


def play_old_list_again(directory: Path) -> Agreement:
    """Somebody on the wire says every list of the ledger again, the oldest last: nothing goes back (R27)."""
    with Site(SEED, directory / "site", check_every_events=100) as site:
        attacker = Attacker(site)
        site.start()
        site.run(3_000)
        for card in range(3):
            site.report_lost(FIRST_CARD + card)
            site.run(2_000)
        lists = attacker.lists_heard()
        assert len(lists) > 3
        for data in reversed(lists):
            link = next(each for each in site.frontend.host.streams if each.other in list(site.ledger.host.streams))
            link.arrive(data)
            site.run(500)
        drain(site)
        return agree(site)


def play_lost_card(directory: Path) -> list[Outcome]:
    """A card reported lost is refused within a second at every terminal online, and sells again after its release.

    Returns how each terminal answered, first while it was lost, then after its release.
    """
    with started(directory) as site:
        outcomes: list[Outcome] = []
        answers: list[dict[str, object] | None] = []
        site.report_lost(FIRST_CARD, answers.append)
        site.run(1_000)
        assert answers[0] is not None
        assert answers[0]["ok"]
        for till in site.tills:
            result = site.tap(till, FIRST_CARD, 10)
            assert result is not None
            if result.why is not Why.DENY_LIST:
                raise Violation(f"terminal {till.number}: a card reported lost a second ago is {result.outcome.value}")
            outcomes.append(result.outcome)
        site.release(FIRST_CARD)
        site.run(1_000)
        for till in site.tills:
            result = site.tap(till, FIRST_CARD, 10)
            assert result is not None
            if result.outcome is not Outcome.SOLD:
                raise Violation(f"terminal {till.number}: a card released a second ago is {result.outcome.value}")
            outcomes.append(result.outcome)
        drain(site)
        agree(site)
        return outcomes
