"""From a durable BASELINE to the first ACKs (docs/protocol.md §8, R7). Pure: the connection carries the messages.

entry decided DURABLE ──────────────────────────▶ its ACK
entry to ASK ── SEAL_QUERY ▶ SEAL_ANSWER ───────▶ its ACK, or fork
fork of the session's epoch                       BYE `forked`, nothing is acknowledged
fork of an older epoch                            its records are kept as suspects, and acknowledged so (R10)
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger_sync.spool.intake import EntryLogin
from protocol.codes import SealStatus
from protocol.errors import UnexpectedMessage
from protocol.messages import SealAnswer, SealQuery
from protocol.ranges import LoginAction, LoginDecision


class EpochAck:
    """What one session knows of one epoch: what its next ACK says."""

    __slots__ = ("dirty", "durable", "epoch", "first_unacknowledged", "is_suspect", "proved_to", "ranges", "settled")

    def __init__(self, epoch: int, first_unacknowledged: int) -> None:
        self.epoch = epoch
        self.first_unacknowledged = first_unacknowledged
        self.durable = first_unacknowledged - 1
        self.settled = 0
        self.ranges: tuple[tuple[int, int], ...] = ()
        self.is_suspect = False
        """An older epoch whose chain differs: its frames are kept as suspects."""
        self.proved_to: int | None = None
        """Set where the terminal could not show the seal asked for: nothing above what it has offered since is
        proved to be of its chain, so no ACK goes beyond."""
        self.dirty = False
        """An ACK is due."""

    def advance(self, durable: int, settled: int, ranges: tuple[tuple[int, int], ...], last: int) -> None:
        """Take over what the spool holds after a frame up to `last` was stored; within one session nothing falls."""
        if self.proved_to is not None:
            self.proved_to = max(self.proved_to, last)
            if durable > self.proved_to:
                durable, ranges = self.proved_to, ()
        if durable >= self.durable:
            self.durable = durable
            self.ranges = ranges
        if settled > self.settled:
            self.settled = max(self.settled, min(settled, self.durable))
        self.dirty = True

    def advance_suspect(self, first: int, last: int) -> None:
        """Records of an older epoch were kept as suspects; they need not be sent again."""
        self.is_suspect = True
        if first <= self.durable + 1:
            self.durable = max(self.durable, last)
        self.ranges = ()
        self.dirty = True


class LogIn:
    """The questions of one log-in, and what follows from the answers."""

    __slots__ = ("_asked", "_session_epoch", "epochs", "is_forked")

    def __init__(self, logins: Iterable[EntryLogin], session_epoch: int) -> None:
        self._session_epoch = session_epoch
        self._asked: dict[tuple[int, int], tuple[EpochAck, LoginDecision]] = {}
        self.epochs: list[EpochAck] = []
        self.is_forked = False
        """The session's own chain differs from what is held."""
        for login in logins:
            state = EpochAck(login.epoch, login.first_unacknowledged)
            self.epochs.append(state)
            state.settled = login.settled
            if login.decision.action is LoginAction.ASK:
                self._asked[login.epoch, login.decision.sequence] = (state, login.decision)
            else:
                self._decide(state, login.decision)

    @property
    def is_decided(self) -> bool:
        """Whether no question is open any more."""
        return not self._asked

    def queries(self) -> list[SealQuery]:
        """The questions that are open."""
        return [SealQuery(epoch, sequence) for epoch, sequence in self._asked]

    def take(self, answer: SealAnswer) -> None:
        """Raises UnexpectedMessage for an answer that nobody asked for."""
        asked = self._asked.pop((answer.epoch, answer.sequence), None)
        if asked is None:
            raise UnexpectedMessage("a SEAL_ANSWER that was not asked for")
        state, decision = asked
        if answer.status in {SealStatus.OVERWRITTEN, SealStatus.UNREADABLE}:
            state.proved_to = state.durable
        self._decide(state, decision.answered(answer.status, answer.seal))

    def _decide(self, state: EpochAck, decision: LoginDecision) -> None:
        if decision.action is LoginAction.FORK:
            if state.epoch == self._session_epoch:
                self.is_forked = True
            state.is_suspect = True
            state.settled = 0
        else:
            state.durable = decision.durable
            state.ranges = decision.ranges
            state.settled = min(state.settled, decision.durable)
