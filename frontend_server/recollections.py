"""What the ledger has asked for again (补采, R9), as far as an operator may want to know. Bounded; since start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REQUESTS_KEPT_MAX: Final = 4_096  # the newest; the ledger follows 65,536 gaps of the site and asks again for each


@dataclass(slots=True)
class Asked:
    """One stretch of sequences; times are UTC milliseconds."""

    first: int
    last: int
    asked_ms: int
    count: int = 1
    passed_on: bool = False
    """Whether the terminal was here to be asked, at least once."""


class Recollections:
    """Requests by (terminal, epoch)."""

    def __init__(self, *, kept_max: int = REQUESTS_KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._asked: dict[tuple[int, int, int, int], Asked] = {}
        self._of_epoch: dict[tuple[int, int], list[Asked]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def note(self, terminal: int, epoch: int, first: int, last: int, *, now_ms: int, passed_on: bool) -> None:
        """One request has come; the oldest is forgotten when there are too many."""
        key = (terminal, epoch, first, last)
        held = self._asked.pop(key, None)
        if held is None:
            held = Asked(first, last, now_ms, 0)
            self._of_epoch.setdefault((terminal, epoch), []).append(held)
        held.asked_ms, held.count, held.passed_on = now_ms, held.count + 1, held.passed_on or passed_on
        self._asked[key] = held  # at the end: the newest
        if len(self._asked) > self._kept_max:
            self._forget(next(iter(self._asked)))

    def _forget(self, key: tuple[int, int, int, int]) -> None:
        gone = self._asked.pop(key)
        siblings = self._of_epoch[key[:2]]
        siblings.remove(gone)
        if not siblings:
            del self._of_epoch[key[:2]]

    def about(self, terminal: int, epoch: int, first: int, last: int) -> Asked | None:
        """The newest request that touches these sequences."""
        touching = [one for one in self._of_epoch.get((terminal, epoch), ()) if one.first <= last and first <= one.last]
        return max(touching, key=lambda one: one.asked_ms, default=None)
