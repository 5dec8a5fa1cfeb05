"""What is wrong with a terminal, and what to do about it: one sentence each, for the operator on duty. Pure.

Findings come worst first, so that the first one's remedy is the hint of a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from frontend_server import alarms, refusals
from frontend_server.alarms import Alarm
from frontend_server.refusals import Refusal
from frontend_server.sessions import TerminalStatus
from ledger_sync.spool import HoleKind
from protocol.messages import CLOCK_NEVER_SET, LIST_STALE, MEMORY_80_PERCENT, MEMORY_FULL
from protocol.signed import Version

CLOCK_OFF_MS: Final = 60_000  # two heartbeats have set it by then; trade times are corrected all the same (R25)
FLAG_NAMES: Final = {
    CLOCK_NEVER_SET: "clock never set",
    MEMORY_80_PERCENT: "memory 80 % full",
    MEMORY_FULL: "memory full",
    LIST_STALE: "list stale",
}
WHAT_TO_DO_ABOUT_HOLES: Final = {
    HoleKind.MISSING: "nothing at first: the ledger asks for them through the front-end that has the terminal; if they "
    "stay, read its memory out, and see `onecard ledger report` for what they amount to",
    HoleKind.ELSEWHERE: "nothing: another front-end, or an earlier spool of this one, has acknowledged them; "
    "`onecard ledger report` names those that have not arrived",
    HoleKind.WAITING: "bring the terminal online: it keeps them until they are acknowledged",
    HoleKind.TOMBSTONE: "have the terminal's memory replaced; `onecard ledger report` names what they amount to",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know of."""

    name: str
    says: str
    what_to_do: str

    def as_dict(self) -> dict[str, str]:
        return {"finding": self.name, "says": self.says, "what_to_do": self.what_to_do}


def flag_names(flags: int) -> list[str]:
    """The flags of a HEARTBEAT in words."""
    return [name for bit, name in FLAG_NAMES.items() if flags & bit]


def findings(
    status: TerminalStatus,
    *,
    standing: Iterable[Alarm],
    refusal: Refusal | None,
    is_enrolled: bool,
    newest_list: Version,
) -> list[Finding]:
    """About one terminal that was seen since start, worst first; empty: all is well.

    `refusal` is its last refused log-in, `standing` the alarms about it, `newest_list` what it should hold.
    """
    found = [Finding(one.kind.value, one.text, alarms.WHAT_TO_DO[one.kind]) for one in standing]
    if not is_enrolled:
        says = "it is not in the registry any more"
        found.append(Finding("not enrolled", says, refusals.WHAT_TO_DO[refusals.Reason.UNKNOWN_TERMINAL]))
    if refusal is not None and status.live is None and refusal.at_ms >= status.online_since_ms:
        found.append(refused(refusal))
    found += _memory(status)
    found += _presence(status)
    found += _list(status, newest_list)
    found += _clock(status)
    return found


def refused(refusal: Refusal) -> Finding:
    """A terminal that tries and is not let in."""
    says = f"its log-in from {refusal.address} was refused: {refusal.reason.value}"
    return Finding("refused", says, refusals.WHAT_TO_DO[refusal.reason])


def _memory(status: TerminalStatus) -> Iterator[Finding]:
    if status.flags & MEMORY_FULL:
        says = "its memory is full of records that nobody has acknowledged: it sells no more"
        yield Finding("memory full", says, "bring it online, or read it out; then it sells again by itself")
    elif status.flags & MEMORY_80_PERCENT:
        says = "80 % of its memory are records that nobody has acknowledged"
        yield Finding("memory 80 % full", says, "bring it online before it is full: then it would stop selling")


def _presence(status: TerminalStatus) -> Iterator[Finding]:
    waiting = f"; {status.backlog} records wait in it" if status.backlog else ""
    if status.live is None:
        what = "with several front-ends ask the others; else look at its power, its cable and the address it calls. "
        what += "It goes on selling and keeps its records"
        yield Finding("offline", f"it was here and is not online now{waiting}", what)
    elif status.backlog:
        what = "nothing while the number falls; if it stands, look at the alarms and at `onecard status`"
        yield Finding("behind", f"{status.backlog} records are in the terminal and not here yet", what)


def _list(status: TerminalStatus, newest: Version) -> Iterator[Finding]:
    if status.flags & LIST_STALE and status.heartbeats > 1:  # the answer to the first confirms its list
        what = "bring it online for a minute; if it stays, restart it: its memory may be failing"
        yield Finding("list stale", "its deny list is old or damaged: it sells by the limit for stale lists", what)
    elif status.live is not None and status.list_version < newest:
        held, wanted = (f"{one[0]}.{one[1]}" for one in (status.list_version, newest))
        what = "nothing for a minute: it is being sent; if it stays, look at the terminal's memory and its line"
        yield Finding("list behind", f"it holds deny list {held}, {wanted} is in force", what)


def _clock(status: TerminalStatus) -> Iterator[Finding]:
    if status.heartbeats <= 1:
        return  # it is told the time in answer to the first
    if status.flags & CLOCK_NEVER_SET:
        what = "nothing while it has just been switched on; if it stays, have its clock replaced"
        yield Finding("clock never set", "it was told the time and does not know it", what)
    elif status.clock_ahead_ms is not None and abs(status.clock_ahead_ms) > CLOCK_OFF_MS:
        way = "ahead" if status.clock_ahead_ms > 0 else "behind"
        says = f"its clock was {abs(status.clock_ahead_ms) // 1_000} s {way} when it spoke last"
        what = "nothing for some minutes: trade times are corrected by it; if it stays, have its clock replaced"
        yield Finding("clock", says, what)
