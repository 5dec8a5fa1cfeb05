"""What must hold at every moment of a simulated site, checked against flash bytes, spool file, ledger file and cards.

acknowledged        a record that a terminal's flash calls acknowledged is committed in the spool, byte for byte
settled             a row that the spool calls settled was committed by the ledger, at the position it states
once                no identity's money is booked twice, none is booked that no card has paid
conserved           both formulas of R18: the ledger's own, and the oracle's over the true purses
forward             list versions, ledger positions and watermarks never fall
denied              a card on the list in force at a terminal is refused there; no other is refused for the list
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from protocol.cards.apdu import Identity
from protocol.codes import ListKind, RecordType
from protocol.errors import RemoteError
from protocol.limits import BATCHES_OUTSTANDING_MAX
from protocol.list_kinds import DOCUMENT_KINDS
from protocol.signed import NO_VERSION, Version
from terminal_sim.card import CardStore
from terminal_sim.errors import RecordGone, SectorDead
from terminal_sim.firmware import Outcome, TapResult, Why
from terminal_sim.oracle import Oracle
from tests.simulation.eyes import SpoolEye
from tests.simulation.frontend_host import FrontendHost
from tests.simulation.ledger_eye import TAKEN_SIGN, LedgerEye
from tests.simulation.till import Till

STRANGERS_MAX: Final = 64  # connections of attackers, the ledger and a hijacker that one front-end may see at once


class Violation(AssertionError):
    """Something that must never be; the text names what, where and by how much."""


class Invariants:
    """An `Observer` of every terminal, and the judge of the whole site."""

    def __init__(self, oracle: Oracle, cards: CardStore) -> None:
        self.oracle = oracle
        self.cards = cards
        self.tills: dict[int, Till] = {}
        self.spool_eyes: list[SpoolEye] = []
        """Of every front-end, in their order."""
        self.ledger: LedgerEye | None = None
        self.books_every_commits = 1
        """Of the ledger; on a very large site not each."""
        self._commits = 0
        self.now_ms: Callable[[], int] = lambda: 0
        self.checks = 0
        self.found: Violation | None = None
        self.ack_ms: list[int] = []
        self.online_since_ms: dict[int, int] = {}
        self.list_applied_ms: dict[tuple[int, Version], int] = {}
        self._written_ms: dict[tuple[int, int, int], int] = {}
        self._acknowledged: dict[tuple[int, int], int] = {}
        self._highest: dict[tuple[int, int], int] = {}
        self._settlements: set[tuple[bytes, int, int, int, int]] = set()
        self._list_of: dict[int, Version] = {}
        self._frontend_lists: dict[int, Version] = {}
        self._documents_of: dict[tuple[int, ListKind], Version] = {}
        self._position = (0, 0)
        self._booked: set[Identity] = set()
        self._taken_cents: dict[int, int] = {}

    @property
    def records_acknowledged(self) -> int:
        """Sequences that some flash has once called acknowledged."""
        return sum(self._highest.values())

    # -- Observer

    def written(self, terminal: int, epoch: int, sequence: int, at_ms: int) -> None:
        self._written_ms[terminal, epoch, sequence] = at_ms

    def sent(self, terminal: int, epoch: int, first: int, last: int, at_ms: int, *, live: bool) -> None:
        pass

    def acknowledged(self, terminal: int, epoch: int, first: int, last: int, at_ms: int) -> None:
        self._keep(lambda: self.check_acknowledged(self.tills[terminal]))
        made = self._written_ms.pop((terminal, epoch, last), None)
        if made is not None:
            self.ack_ms.append(at_ms - made)

    def online(self, terminal: int, at_ms: int, *, is_online: bool) -> None:
        if is_online:
            self.online_since_ms[terminal] = at_ms
        else:
            self.online_since_ms.pop(terminal, None)

    def list_applied(self, terminal: int, version: tuple[int, int], at_ms: int) -> None:
        self.list_applied_ms[terminal, version] = at_ms
        self._keep(lambda: self._check_list_of(terminal, version))

    def _keep(self, check: Callable[[], None]) -> None:
        """Judge inside a callback of the product, which may catch what is raised: found is found."""
        try:
            check()
        except Violation as error:
            self.found = self.found or error

    def raise_found(self) -> None:
        """What a callback has found."""
        if self.found is not None:
            raise self.found

    # -- moments

    def replaced(self, till: Till) -> None:
        """Another device: it has none of the lists of the old one."""
        self._list_of.pop(till.number, None)
        for kind in DOCUMENT_KINDS:
            self._documents_of.pop((till.number, kind), None)

    def booted(self, till: Till) -> None:
        """What flash says after a boot is what counts."""
        assert till.terminal is not None
        self.check_acknowledged(till)
        self._check_list_of(till.number, till.terminal.deny_list.memory.version)
        self._check_documents_of(till)

    def spool_worked(self) -> None:
        """The front-end's disk has done something: nothing may be settled that the ledger has not committed."""
        if self.ledger is None:
            return
        for spool in self.spools():
            if spool.has_changed():
                self._keep(partial(self._check_settled, spool))

    def spools(self) -> list[SpoolEye]:
        """Of every front-end, as far as eyes are on them."""
        return self.spool_eyes

    @property
    def spool(self) -> SpoolEye | None:
        """Of the first front-end."""
        return self.spool_eyes[0] if self.spool_eyes else None

    def disk_lost_power(self) -> None:
        """Everything that was ever acknowledged or settled is looked for again, on what the cut has left."""
        self._acknowledged.clear()
        self._settlements.clear()
        for till in self.tills.values():
            self._keep(partial(self.check_acknowledged, till))
        for spool in self.spools():
            spool.forget_settled()
            self._keep(partial(self._check_settled, spool))

    def check_acknowledged(self, till: Till) -> None:
        """Every sequence newly called acknowledged is committed in a spool, as this very record."""
        terminal = till.terminal
        if terminal is None or terminal.memory is None:
            return
        assert self.spool is not None
        for epoch, marks in sorted(terminal.memory.ring.epochs.items()):
            key = (till.number, epoch)
            first, last = self._acknowledged.get(key, 0) + 1, marks.acknowledged
            self._acknowledged[key] = last  # it may have fallen: flash that lost a mark is acknowledged again
            if first > last:
                continue
            stored: dict[int, bytes | None] = {}
            for spool in self.spools():
                for sequence, record in spool.stored(till.number, epoch, first, last).items():
                    if record is not None or sequence not in stored:
                        stored[sequence] = record
            for sequence in range(first, last + 1):
                if sequence not in stored:
                    raise Violation(f"terminal {till.number}: {epoch}/{sequence} is acknowledged and not in the spool")
                record = stored[sequence]
                try:
                    held = terminal.memory.ring.read(epoch, sequence)
                except (RecordGone, SectorDead):
                    continue
                if record is not None and record != held:
                    raise Violation(f"terminal {till.number}: {epoch}/{sequence} is stored as another record")
            self._highest[key] = max(self._highest.get(key, 0), last)

    def tapped(self, till: Till, card: int, held: Version, result: TapResult | None) -> None:
        """`held` is the list version in force when the card came."""
        assert self.ledger is not None
        if self.oracle.faults:
            raise Violation("; ".join(self.oracle.faults))
        if result is None:
            return
        denied = self._denied(till, held)
        if card in denied and result.outcome in {Outcome.SOLD, Outcome.GREY, Outcome.DONE}:
            raise Violation(f"terminal {till.number} with list {held} has sold to a card on it")
        if card not in denied and result.why is Why.DENY_LIST:
            raise Violation(f"terminal {till.number} with list {held} has refused a card that is not on it")

    def presented(self, till: Till, card: int, held: Version, *, is_granted: bool) -> None:
        """A card at a door; `held` as for `tapped`."""
        assert self.ledger is not None
        if is_granted and card in self._denied(till, held):
            raise Violation(f"door {till.number} with list {held} has opened for a card on it")

    def _denied(self, till: Till, held: Version) -> frozenset[int]:
        assert self.ledger is not None
        issued = self.ledger.denied() | {NO_VERSION: frozenset()}
        if held not in issued:
            raise Violation(f"terminal {till.number} holds list {held}, which nobody has issued")
        return issued[held]

    # -- every so often

    def check(self, *frontends: FrontendHost) -> None:
        """Everything that is judged every so often; what callbacks have found is raised first."""
        self.checks += 1
        self.raise_found()
        for frontend in frontends:
            self._check_list_at(frontend)
            self._check_sessions(frontend)
            self._check_bounds(frontend)

    def _check_sessions(self, frontend: FrontendHost) -> None:
        """Whoever is logged in is who it says it is: its connection comes from that terminal's machine."""
        if frontend.server is None:
            return
        for status in frontend.server.parts.sessions.statuses():
            if status.live is not None and not status.address.startswith(f"till-{status.terminal}:"):
                raise Violation(f"{status.address} is logged in as terminal {status.terminal}")

    def _check_bounds(self, frontend: FrontendHost) -> None:
        """Nothing that a server keeps grows beyond what it has promised, whoever talks to it."""
        server, forwarder = frontend.server, frontend.forwarder
        if server is None or forwarder is None:
            return
        settings = server.parts.settings
        bounds = {
            "frames in the intake": (len(server.parts.intake), settings.intake_frames_max + len(frontend.host.streams)),
            "batches without a receipt": (len(forwarder._outbox), BATCHES_OUTSTANDING_MAX),
            "connections": (len(frontend.host.streams), 3 * len(self.tills) + STRANGERS_MAX),
            "bytes to one peer": (
                max((each.write_buffer_bytes() for each in frontend.host.streams), default=0),
                2 * settings.write_buffer_bytes_max,
            ),
        }
        for what, (count, most) in bounds.items():
            if count > most:
                raise Violation(f"front-end: {count} {what}, at most {most} are meant to be")

    def check_cards(self) -> None:
        """All of them, and all that was ever wrong; `tapped` has looked at each as it was used."""
        wrong = self.oracle.check_cards(self.cards)
        if wrong:
            raise Violation("; ".join(wrong))

    def ledger_worked(self) -> None:
        """The ledger's disk has done something: its books must be right, and say what cards have done."""
        ledger = self.ledger
        if ledger is not None and ledger.has_changed():
            self._commits += 1
            if self._commits % self.books_every_commits:
                return
            self._keep(self._check_books)
            self._keep(self._check_position)

    def forget_books(self) -> None:
        """The ledger was put back to an older state; what it has booked is read again."""
        self._booked.clear()
        self._taken_cents.clear()

    def _check_books(self) -> None:
        ledger = self.ledger
        assert ledger is not None
        wrong = ledger.out_of_balance()
        if wrong:
            raise Violation("; ".join(wrong))
        for one in ledger.newly_booked():
            if one.identity in self._booked:
                raise Violation(f"{one.identity} is booked twice")
            executed = self.oracle.executed.get(one.identity)
            if executed is None:
                raise Violation(f"{one.identity} is booked, and no card has paid it")
            merchant = executed.merchant if one.type != RecordType.LOAD else one.merchant
            paid = (executed.type, executed.amount_cents, executed.card, merchant)
            if paid != (one.type, one.amount_cents, one.card, one.merchant):
                raise Violation(f"{one.identity} is booked with another type, amount, card or merchant than was paid")
            self._booked.add(one.identity)
            taken = TAKEN_SIGN[RecordType(one.type)] * one.amount_cents
            self._taken_cents[one.card] = self._taken_cents.get(one.card, 0) + taken
        self._check_mirrors(ledger)

    def _check_mirrors(self, ledger: LedgerEye) -> None:
        """R18's second formula, card by card: opening less what is booked, less what is in suspense."""
        grey_cents: dict[int, int] = {}
        for _, identity, cents, card, _ in ledger.open_suspense("grey"):
            if identity in self._booked:
                raise Violation(f"{identity} is booked and in suspense too")
            grey_cents[card] = grey_cents.get(card, 0) + cents
        for _, cents, card in ledger.decided_spent():
            grey_cents[card] = grey_cents.get(card, 0) + cents
        opening = self.oracle.opening_cents
        for card, mirror in ledger.mirrors().items():
            expected = opening.get(card, 0) - self._taken_cents.get(card, 0) - grey_cents.get(card, 0)
            if mirror != expected:
                raise Violation(f"the mirror of a card holds {mirror} cents, its proofs say {expected}")

    def _check_settled(self, spool: SpoolEye) -> None:
        """The spool settles nothing that the ledger has not committed; what a restored ledger lost is waited for."""
        ledger = self.ledger
        assert ledger is not None
        generations = ledger.generations()
        spool_id = spool.spool_id()
        for settlement in spool.new_settlements():
            if (spool_id, *settlement) in self._settlements:
                continue
            first, last, generation, position = settlement
            if any(later > generation and position > start for later, start in generations):
                continue
            missing = set(spool.row_ids(first, last)) - ledger.has_rows(spool_id, position, first, last)
            if missing:
                raise Violation(f"spool row {min(missing)} is settled, and the ledger has not booked it")
            self._settlements.add((spool_id, *settlement))

    def _check_list_of(self, terminal: int, version: Version) -> None:
        before = self._list_of.get(terminal, NO_VERSION)
        if version < before:
            raise Violation(f"terminal {terminal}: list {version} after {before}")
        self._list_of[terminal] = version

    def _check_documents_of(self, till: Till) -> None:
        for kind in DOCUMENT_KINDS:
            version = till.version_of(kind)
            before = self._documents_of.get((till.number, kind), NO_VERSION)
            if version < before:
                raise Violation(f"terminal {till.number}: {kind.name.lower()} {version} after {before}")
            self._documents_of[till.number, kind] = version

    def _check_list_at(self, frontend: FrontendHost) -> None:
        before = self._frontend_lists.get(frontend.number, NO_VERSION)
        try:
            durable = frontend.list_on_disk()
        except RemoteError as error:
            raise Violation(f"front-end: the list on its disk is not what was issued: {error}") from error
        if durable < before:
            raise Violation(f"front-end: list {durable} on disk after {before}")
        self._frontend_lists[frontend.number] = durable
        if frontend.server is not None:
            # it may know more than a failing disk has taken, never less
            distribution = frontend.server.parts.distribution
            version = distribution.version(ListKind.DENY)
            if version < durable and ListKind.DENY not in distribution._making:
                raise Violation(f"front-end: list {version}, on disk is {durable}")

    def _check_position(self) -> None:
        assert self.ledger is not None
        standing = (self.ledger.generations()[-1][0], self.ledger.position())
        if standing < self._position:
            raise Violation(f"ledger: position {standing} after {self._position}")
        self._position = standing
