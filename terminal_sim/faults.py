"""What goes wrong during a run, as one line that a person writes and a seed completes.

    SPEC  = fault (";" fault)*           none or an empty SPEC: nothing goes wrong
    fault = kind ":" key "=" value ("," key "=" value)*

    cut:at=40%,seconds=5                 the network: connections are reset, new ones refused
    blackhole:at=40%,seconds=5           the network: bytes vanish, new connections time out after 5 s
    power:at=30%,terminals=3,seconds=1   that many tills lose power in the middle of a flash operation, and boot again
    torn:every=500                       every so many taps the card is pulled away, or silent, in the dialogue;
                                         a memory card's block may be part written then
    full:at=30%                          one till's cable is pulled and every customer comes to it, until its memory (a
                                         small one) is full; then it is plugged in again
    thief:card=1000007,at=55%,rate=10    from then on that card is tapped at random tills (card=any: one from the seed)

`at` is a share of the selling time (40%) or a moment of it (12s). Faults act on the seams (network, flash, card),
never inside the firmware. What SPEC leaves open (which till, which byte, which command) comes from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NoReturn

from protocol.cards.memory_image import Remainder
from protocol.cards.memory_layout import BLOCK_BYTES
from protocol.codes import CardKind
from terminal_sim.card import Disturbance, Effect, Moment
from terminal_sim.draws import Draws

FAULTS_MAX: Final = 100
SECONDS_MAX: Final = 86_400
RATE_MAX: Final = 1000
TERMINALS_MAX: Final = 100_000
EVERY_MAX: Final = 10_000_000
CARD_MAX: Final = 0xFFFF_FFFF
THIEF_RATE_USUAL: Final = 10
THIEF_AMOUNT_CENTS: Final = 10  # small: the card must be refused for its loss, not for its purse
TAP_COMMANDS: Final = {CardKind.AES: 4, CardKind.MEMORY: 23, CardKind.PBOC: 6}  # of a tap that has nothing to repair
TAP_WRITES: Final = {CardKind.AES: (2, 3), CardKind.MEMORY: (16, 20, 22), CardKind.PBOC: (3, 5)}
"""Which of a tap's commands change the card: where tearing hurts."""
CUT_STEPS_MAX: Final = 400  # bytes: two records and their marks

EXAMPLE: Final = "cut:at=40%,seconds=5;power:at=30%,terminals=3"


class FaultSpecError(ValueError):
    """The SPEC cannot be read; the text says where, and what to write."""


@dataclass(frozen=True, slots=True)
class When:
    """A share of the selling time, or a moment of it."""

    percent: float | None = None
    ms: int = 0

    def offset_ms(self, duration_ms: int) -> int:
        return self.ms if self.percent is None else int(duration_ms * self.percent / 100)


@dataclass(frozen=True, slots=True)
class NetworkCut:
    at: When
    ms: int
    swallow: bool
    """Bytes vanish (blackhole) instead of connections being reset (cut)."""


@dataclass(frozen=True, slots=True)
class PowerCuts:
    at: When
    terminals: int
    ms: int
    """About how long each stays dark."""


@dataclass(frozen=True, slots=True)
class TornTaps:
    every: int


@dataclass(frozen=True, slots=True)
class Thief:
    at: When
    card: int
    """0: one that the seed draws."""
    rate: int
    ms: int | None
    """None: until selling ends."""


@dataclass(frozen=True, slots=True)
class FillMemory:
    at: When


Fault = NetworkCut | PowerCuts | TornTaps | FillMemory | Thief

_KEYS: Final[dict[str, dict[str, bool]]] = {
    "cut": {"at": True, "seconds": True},
    "blackhole": {"at": True, "seconds": True},
    "power": {"at": True, "terminals": True, "seconds": False},
    "torn": {"every": True},
    "full": {"at": True},
    "thief": {"card": True, "at": True, "rate": False, "seconds": False},
}
"""Kind → key → whether it must be given."""


def parse_faults(spec: str) -> list[Fault]:
    """Read a SPEC; raises FaultSpecError."""
    parts = [part.strip() for part in spec.split(";") if part.strip()]
    if parts == ["none"]:
        return []
    if len(parts) > FAULTS_MAX:
        raise FaultSpecError(f"{len(parts)} faults; at most {FAULTS_MAX} in one run")
    return [_fault(part) for part in parts]


def _fault(part: str) -> Fault:
    kind, _, rest = part.partition(":")
    keys = _KEYS.get(kind.strip())
    if keys is None:
        _wrong(part, f"{kind.strip()!r} is no fault; there are {', '.join(_KEYS)}")
    values: dict[str, str] = {}
    for pair in filter(None, (each.strip() for each in rest.split(","))):
        key, equals, value = (each.strip() for each in pair.partition("="))
        if not equals or key not in keys:
            _wrong(part, f"{pair!r} is not understood; {kind} takes {', '.join(f'{each}=' for each in keys)}")
        if key in values:
            _wrong(part, f"{key}= stands there twice")
        values[key] = value
    missing = [key for key, needed in keys.items() if needed and key not in values]
    if missing:
        _wrong(part, f"{kind} needs {', '.join(f'{key}=' for key in missing)}")
    return _built(kind.strip(), values, part)


def _built(kind: str, values: dict[str, str], part: str) -> Fault:
    if kind == "torn":
        return TornTaps(_whole(values["every"], "every", EVERY_MAX, part))
    at = _when(values["at"], part)
    if kind == "full":
        return FillMemory(at)
    if kind == "power":
        terminals = _whole(values["terminals"], "terminals", TERMINALS_MAX, part)
        return PowerCuts(at, terminals, _ms(values.get("seconds", "1"), part))
    if kind == "thief":
        card = 0 if values["card"] == "any" else _whole(values["card"], "card", CARD_MAX, part)
        rate = _whole(values.get("rate", str(THIEF_RATE_USUAL)), "rate", RATE_MAX, part)
        return Thief(at, card, rate, _ms(values["seconds"], part) if "seconds" in values else None)
    return NetworkCut(at, _ms(values["seconds"], part), kind == "blackhole")


def _when(text: str, part: str) -> When:
    if text.endswith("%"):
        share = _number(text[:-1])
        if share is None or share > 100:
            _wrong(part, f"at={text}: a share of the selling time is 0% to 100%")
        return When(percent=share)
    if text.endswith("s") and _number(text[:-1]) is not None:
        return When(ms=_ms(text[:-1], part))
    return _wrong(part, f"at={text}: write a share of the selling time (40%) or seconds into it (12s)")


def _ms(text: str, part: str) -> int:
    seconds = _number(text)
    if seconds is None or not 0 < seconds <= SECONDS_MAX:
        _wrong(part, f"{text!r} seconds: a number above 0, at most {SECONDS_MAX}")
    return int(seconds * 1000)


def _whole(text: str, key: str, largest: int, part: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not 1 <= int(text) <= largest:
        _wrong(part, f"{key}={text}: a whole number from 1 to {largest}")
    return int(text)


def _number(text: str) -> float | None:
    whole, _, rest = text.partition(".")
    digits = whole + rest
    return float(text) if digits.isascii() and digits.isdigit() and len(digits) <= 12 and whole else None


def _wrong(part: str, why: str) -> NoReturn:
    raise FaultSpecError(f"fault {part!r}: {why}. Example: {EXAMPLE}")


# -- what the seed adds


@dataclass(slots=True)
class Chance:
    """Draws for faults; one object per run, so that the same SPEC and seed give the same faults."""

    seed: int
    _torn: Draws = field(init=False)
    _power: Draws = field(init=False)
    _thief: Draws = field(init=False)
    _check: Draws = field(init=False)

    def __post_init__(self) -> None:
        self._torn = Draws(self.seed, "torn")
        self._power = Draws(self.seed, "power")
        self._thief = Draws(self.seed, "thief")
        self._check = Draws(self.seed, "check")

    def disturbance(self, kind: CardKind) -> Disturbance:
        """Where one torn tap is torn: half of them at a write, and of a memory card's writes half at some byte."""
        draws = self._torn
        effect = Effect.SILENT if draws.below(4) == 0 else Effect.PULLED
        moment = Moment.AFTER_WRITE if draws.below(2) else Moment.BEFORE
        writes = TAP_WRITES[kind]
        at_a_write = draws.below(2)
        command = writes[draws.below(len(writes))] if at_a_write else draws.below(TAP_COMMANDS[kind])
        if kind is not CardKind.MEMORY or draws.below(2):
            return Disturbance(command, moment, effect)
        remainder = Remainder.ERASED if draws.below(2) else Remainder.OLD
        return Disturbance(command, Moment.AFTER_WRITE, effect, draws.below(BLOCK_BYTES + 1), remainder)

    def fillable(self, terminals: int) -> int:
        """Index of the till with a small memory; the same whenever it is asked."""
        return Draws(self.seed, "full").below(terminals)

    def victims(self, count: int, terminals: int) -> list[int]:
        """Which tills lose power: indexes, each once."""
        chosen: dict[int, None] = {}
        count = min(count, terminals)
        while len(chosen) < count:
            chosen[self._power.below(terminals)] = None
        return list(chosen)

    def cut_steps(self) -> int:
        """How many more bytes the flash takes before the power goes."""
        return self._power.below(CUT_STEPS_MAX)

    def cut_bits(self) -> int:
        """Which bits of the torn byte have still changed."""
        return self._power.below(256)

    def dark_ms(self, about_ms: int) -> int:
        return max(1, self._power.between(about_ms // 2, about_ms * 3 // 2))

    def stolen_card(self, cards: int) -> int:
        """Index of the card that is stolen."""
        return self._thief.below(cards)

    def check_terminal(self, terminals: int) -> int:
        return self._check.below(terminals)

    def thief_terminal(self, terminals: int) -> int:
        return self._thief.below(terminals)
