"""Who may pass: the evaluator of permissions at a door (docs/doors.md, docs/protocol.md §7.2). Pure.

    facts about the card, the clock, the code ─▶ evaluate ─▶ Decision: granted, reason, flags, what to do, what to keep

The reasons are asked in one fixed order, the first that applies decides. Nothing is changed by asking: what a grant
changes is its `passage`, and `AccessState.remember` is told of it when the record is committed. The same passages are
read back out of the records at boot, so that a power cut forgets no more than the records do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocol.codes import AccessIdentity, AccessReason
from protocol.local_time import LocalTime
from protocol.permissions import AntiPassback, Clockless, Door, DuressRule, Permissions
from protocol.record_bodies import card_masked

PASSBACK_CARDS_MAX: Final = 2_048  # some 200 kB of a controller; beyond, the card seen longest ago is forgotten
DAY_UNKNOWN: Final = -1
FLAG_DURESS: Final = 0x01
FLAG_FIRST_CARD: Final = 0x02


class Mode(Enum):
    """What the door's keeper has ordered."""

    NORMAL = "normal"
    LOCKED = "locked"
    """No card opens; the way out stays free."""
    UNLOCKED = "unlocked"
    """Open to everybody."""


@dataclass(frozen=True, slots=True, repr=False)
class Facts:
    """What is known of who stands before the door."""

    card: int = 0
    """The card's number, proved unless `identity` says otherwise; 0: no card of ours."""
    group: int = 0
    valid_until_day: int = 0
    """Days since 1970, the last on which the card is good; 0: no end."""
    is_denied: bool = False
    """On the deny list."""
    is_genuine: bool = True
    """False: it answered as a card of ours, and its authentication failed."""
    identity: int = AccessIdentity.CARD_PROVED
    code: str = ""
    """Keyed in."""
    now: LocalTime | None = None
    """None: the clock was never set."""

    def __repr__(self) -> str:
        return f"Facts({card_masked(self.card)}, group={self.group}, now={self.now})"


@dataclass(frozen=True, slots=True, repr=False)
class Passage:
    """What a grant leaves behind: where the card is now, and whose day has begun."""

    card: int
    area: int
    """Where the card is now."""
    lock: int
    first_day: int | None = None
    """The local day on which this was the first card; DAY_UNKNOWN without a clock; None: it was not."""

    def __repr__(self) -> str:
        return f"Passage({card_masked(self.card)}, area={self.area}, lock={self.lock})"


@dataclass(frozen=True, slots=True)
class Decision:
    """`flags` are those of the record; `passage` is kept once the record is committed."""

    granted: bool
    reason: AccessReason
    flags: int = 0
    release_ms: int = 0
    """How long the strike is released; 0: not."""
    passage: Passage | None = None

    @property
    def is_duress(self) -> bool:
        """Somebody is being forced: the door behaves as if nothing were wrong, an alarm is raised (胁迫)."""
        return bool(self.flags & FLAG_DURESS)


@dataclass(slots=True)
class AccessState:
    """What a terminal's doors know of earlier passages: bounded, the oldest is forgotten first.

    A card that is forgotten counts as one never seen: it may pass once in any direction. `forgotten` says how many.
    """

    cards_max: int = PASSBACK_CARDS_MAX
    forgotten: int = 0
    _areas: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _first_days: dict[int, int] = field(default_factory=dict)

    def area_of(self, card: int) -> int | None:
        """Where the card was last let in; None: not known."""
        return self._areas.get(card)

    def has_begun(self, lock: int, day: int) -> bool:
        """Whether a first card was seen there on that day."""
        return self._first_days.get(lock) == day

    def remember(self, passage: Passage) -> None:
        if passage.first_day is not None:
            self._first_days[passage.lock] = passage.first_day  # at most one per lock
        if not passage.card:
            return
        self._areas[passage.card] = passage.area
        self._areas.move_to_end(passage.card)
        if len(self._areas) > self.cards_max:
            self._areas.popitem(last=False)
            self.forgotten += 1

    def forget(self, card: int) -> None:
        """Let this card off: it may pass once in any direction."""
        self._areas.pop(card, None)

    def __len__(self) -> int:
        return len(self._areas)


def evaluate(
    permissions: Permissions, door: Door, facts: Facts, state: AccessState, mode: Mode = Mode.NORMAL
) -> Decision:
    """Whether the door opens; `door` is one of `permissions`. The order of reasons is that of docs/doors.md."""
    code_right, is_duress = _look_at_code(door, facts.code)
    flags = FLAG_DURESS if is_duress else 0
    reason = _card_refused(facts)
    if reason is None and mode is not Mode.UNLOCKED:
        reason = AccessReason.LOCKED if mode is Mode.LOCKED else _not_permitted(permissions, door, facts)
        if reason is None and not code_right:
            reason = AccessReason.WRONG_CODE
    if reason is not None:
        return Decision(granted=False, reason=reason, flags=flags)
    return _granted(door, facts, state, mode, flags)


def _card_refused(facts: Facts) -> AccessReason | None:
    """Reasons that lie in the card, whatever the door."""
    if not facts.is_genuine:
        return AccessReason.NOT_GENUINE
    if facts.card == 0:
        return AccessReason.UNKNOWN_CARD
    if facts.is_denied:
        return AccessReason.DENY_LIST
    is_over = facts.valid_until_day and facts.now is not None and facts.now.day > facts.valid_until_day
    return AccessReason.EXPIRED if is_over else None


def _not_permitted(permissions: Permissions, door: Door, facts: Facts) -> AccessReason | None:
    """Group and time."""
    profiles = [profile for group, profile in door.grants if group == facts.group]
    if not profiles or not permissions.is_member(facts.group, facts.card):
        return AccessReason.NO_PERMISSION
    if facts.now is None and door.clockless is Clockless.CLOSED:
        return AccessReason.OUTSIDE_TIME_PROFILE
    if not any(permissions.is_open(profile, facts.now) for profile in profiles):
        return AccessReason.OUTSIDE_TIME_PROFILE
    return None


def _granted(door: Door, facts: Facts, state: AccessState, mode: Mode, flags: int) -> Decision:
    """Nothing stands against this card here and now; what is left is where it has been, and who came first."""
    reason = AccessReason.PERMITTED
    first_day: int | None = None
    if mode is not Mode.UNLOCKED:
        if _is_passed_back(door, facts.card, state):
            reason = AccessReason.ANTI_PASSBACK
            if door.anti_passback is AntiPassback.HARD:
                return Decision(granted=False, reason=reason, flags=flags)
        if door.first_groups:
            today = facts.now.day if facts.now is not None else DAY_UNKNOWN
            if state.has_begun(door.lock, today):
                reason = AccessReason.FIRST_CARD_SEEN if reason is AccessReason.PERMITTED else reason
            elif facts.group in door.first_groups:
                first_day, flags = today, flags | FLAG_FIRST_CARD
            else:
                return Decision(granted=False, reason=AccessReason.FIRST_CARD_MISSING, flags=flags)
    is_tracked = door.anti_passback is not AntiPassback.OFF
    passage = Passage(facts.card if is_tracked else 0, door.area_to, door.lock, first_day)
    return Decision(granted=True, reason=reason, flags=flags, release_ms=door.unlock_ms, passage=passage)


def _is_passed_back(door: Door, card: int, state: AccessState) -> bool:
    """Known to be elsewhere than where this door leads from; a card that is not known may be anywhere."""
    if door.anti_passback is AntiPassback.OFF:
        return False
    area = state.area_of(card)
    return area is not None and area != door.area_from


def _look_at_code(door: Door, code: str) -> tuple[bool, bool]:
    """(right, duress): a duress code is right."""
    if not door.code or code == door.code:
        return True, False
    if door.duress is DuressRule.PLUS_ONE:
        digits = len(door.code)
        is_duress = code == f"{(int(door.code) + 1) % 10**digits:0{digits}d}"
    else:
        is_duress = door.duress is DuressRule.SUFFIX and code == door.code + "9"
    return is_duress, is_duress
