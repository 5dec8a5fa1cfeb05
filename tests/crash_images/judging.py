"""What a reopened image is compared with, and how a cut is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.crash_images.disk import Operation

WORKED_ON_EVERY: Final = 4  # of the different files after opening; it costs as much as opening fifteen


@dataclass(frozen=True, slots=True)
class Look:
    """What opening one image has shown."""

    view: bytes
    """Digest of all that is held; empty: it did not open."""
    wrong: str = ""
    wrong_once_acknowledged: str = ""
    """What is wrong as soon as the first step has been acknowledged: before that there may be nothing."""
    recovery: Sequence[Operation] = ()
    """What opening it did to the disk."""


def compared(look: Look, states: Sequence[bytes], acknowledged: int) -> str:
    """What is wrong when so many steps had been acknowledged; empty: nothing.

    A step is one transaction: the file is of the last step acknowledged, or of the one that was under way.
    """
    if look.wrong:
        return look.wrong
    if acknowledged and look.wrong_once_acknowledged:
        return look.wrong_once_acknowledged
    if not look.view or look.view in states[max(acknowledged - 1, 0) : acknowledged + 1]:
        return ""
    if look.view not in states:
        return f"step {acknowledged} was acknowledged, the file is of no step"
    last = max(at for at, state in enumerate(states, 1) if state == look.view)
    return f"step {acknowledged} was acknowledged, the file is of step {last}"
