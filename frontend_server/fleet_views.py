"""What the control socket says of terminals: all of them in a line each, one of them in full, and what is missing.

Lists come page by page. What only the spool knows is read on its thread, by key, some milliseconds a page, and the
answer follows then (`control.Later`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from frontend_server import advice
from frontend_server.alarms import Alarm
from frontend_server.control import SESSIONS_LIMIT_MAX, Answer, Arguments, Later, Reply, RequestError, Verb, number
from frontend_server.parts import Parts
from frontend_server.recollections import Recollections
from frontend_server.refusals import REFUSALS_KEPT, Refusal
from frontend_server.sessions import TerminalStatus
from ledger_sync.spool import EpochHeld, Hole, HoleKind, SpoolWriter, Stated
from ledger_sync.spool.holes import EPOCHS_MAX
from protocol.codes import ListKind, TerminalKind
from protocol.list_kinds import kinds_held_by
from protocol.messages import LIST_STALE
from protocol.signed import NO_VERSION, Version

TERMINAL_MAX: Final = 0xFFFF_FFFF
EPOCH_MAX: Final = 0xFFFF
EPOCHS_OF_GAPS_MAX: Final = EPOCHS_MAX
HOLES_OF_ANSWER_MAX: Final = 1_000  # with those of one more epoch, half of what a client may leave unread
HOLES_OF_EPOCH_MAX: Final = 100  # listed; more are a faulty terminal, and counted
RANGES_SHOWN_MAX: Final = 100


class FleetViews:
    """Answers for `sessions`, `terminal` and `gaps`."""

    def __init__(self, parts: Parts, writer: SpoolWriter, recollections: Recollections) -> None:
        self._parts = parts
        self._writer = writer
        self._recollections = recollections

    def verbs(self) -> dict[str, Verb]:
        return {"sessions": self.sessions, "terminal": self.terminal, "gaps": self.gaps}

    # -- all terminals, a line each

    def sessions(self, arguments: Arguments) -> Answer:
        after = number(arguments, "after", 0, TERMINAL_MAX)
        limit = number(arguments, "limit", SESSIONS_LIMIT_MAX, SESSIONS_LIMIT_MAX)
        found = [status for status in self._parts.sessions.statuses() if status.terminal > after]
        page = found[:limit]
        alarms, refusals = self._alarms(), self._refusals()
        return {
            "sessions": [self._session(one, alarms.get(one.terminal, ()), refusals.get(one.terminal)) for one in page],
            "next": page[-1].terminal if page and len(found) > len(page) else None,
        }

    def _session(self, status: TerminalStatus, standing: Iterable[Alarm], refusal: Refusal | None) -> dict[str, Any]:
        clock = self._parts.clock
        lists = self._lists(status)
        deny = lists[ListKind.DENY.name.lower()]
        found = self._findings(status, standing, refusal)
        return {
            "terminal": status.terminal,
            "online": status.live is not None,
            "online_since_ms": status.online_since_ms,
            "last_heard_ms": clock.now_ms() - (clock.monotonic_ms() - status.last_heard_ms),
            "address": status.address,
            "epoch": status.epoch,
            "durable": status.durable,
            "settled": status.settled,
            "backlog": status.backlog,
            "flags": status.flags,
            "list_version": deny["reported"],
            "list_current": deny["current"],
            "list_stale": bool(status.flags & LIST_STALE),
            "lists": lists,
            "lists_behind": [name for name, one in lists.items() if not one["current"]],
            "suspect": status.suspect_epoch == status.epoch,
            "behind": bool(status.backlog),
            "alarming": bool(list(standing)),
            "findings": [one.name for one in found],
            "what_to_do": found[0].what_to_do if found else "",
        }

    def _lists(self, status: TerminalStatus) -> dict[str, dict[str, Any]]:
        """Wanted against reported, by kind: what the terminal reports is the truth (R27)."""
        enrolled = self._parts.admission.registry.get(status.terminal)
        kinds = kinds_held_by(enrolled.kind) if enrolled is not None else (ListKind.DENY,)
        found: dict[str, dict[str, Any]] = {}
        for kind in kinds:
            reported, wanted = status.held_list(kind), self._parts.distribution.version(kind)
            found[kind.name.lower()] = {
                "reported": shown(reported),
                "wanted": shown(wanted),
                "current": reported == wanted,
            }
        return found

    def _findings(
        self, status: TerminalStatus, standing: Iterable[Alarm], refusal: Refusal | None
    ) -> list[advice.Finding]:
        return advice.findings(
            status,
            standing=standing,
            refusal=refusal,
            is_enrolled=self._parts.admission.registry.get(status.terminal) is not None,
            newest_list=self._parts.distribution.version(ListKind.DENY),
        )

    def _alarms(self) -> dict[int, list[Alarm]]:
        """Standing alarms by the terminal they name."""
        found: dict[int, list[Alarm]] = {}
        for one in self._parts.alarms.standing():
            if one.subject.isdecimal():
                found.setdefault(int(one.subject), []).append(one)
        return found

    def _refusals(self) -> dict[int, Refusal]:
        """The newest refused log-in of each terminal named in one."""
        found: dict[int, Refusal] = {}
        for one in self._parts.refusals.newest(REFUSALS_KEPT):
            found.setdefault(one.terminal, one)
        return found

    # -- one terminal in full

    def terminal(self, arguments: Arguments) -> Later:
        terminal = number(arguments, "terminal", 0, TERMINAL_MAX)
        if not terminal:
            raise RequestError("terminal must be a number from 1")

        def start(reply: Reply) -> None:
            def looked(held: list[EpochHeld] | None, error: BaseException | None) -> None:
                reply(_failed(error) if held is None else self._in_full(terminal, held))

            self._writer.run(lambda spool: spool.look_at(terminal), looked)

        return start

    def _in_full(self, terminal: int, held: list[EpochHeld]) -> Answer:
        parts = self._parts
        entry = parts.admission.registry.get(terminal)
        status = parts.sessions.status(terminal)
        standing, refusal = self._alarms().get(terminal, []), self._refusals().get(terminal)
        if status is not None:
            session: dict[str, Any] = self._session(status, standing, refusal) | self._details(status)
            found = self._findings(status, standing, refusal)
        else:
            session, found = {}, self._never_seen(refusal, is_known=bool(entry) or bool(held))
        epochs = [self._epoch(one, status) for one in held]
        found += _about_holes([hole for one in epochs for hole in one["holes"]])
        if status is not None and status.settled < status.durable:
            says = f"sequences {status.settled + 1} to {status.durable} are on disk here and wait for the ledger"
            found.append(advice.Finding("unsettled", says, "nothing for a minute; then `onecard spool stuck` says why"))
        return {
            "terminal": terminal,
            "enrolled": entry is not None,
            "name": entry.name if entry is not None else "",
            "kind": _kind(entry.kind) if entry is not None else "",
            "enrolled_epoch": entry.epoch if entry is not None else None,
            "suite": entry.suite.name if entry is not None else "",
            "merchant": entry.merchant if entry is not None else 0,
            "list_wanted": shown(parts.distribution.version(ListKind.DENY)),
            "session": session,
            "epochs": epochs,
            "last_refusal": _refusal(refusal) if refusal is not None else None,
            "alarms": [
                {"alarm": one.kind.value, "text": one.text, "since_ms": one.since_ms, "count": one.count}
                for one in standing
            ],
            "findings": [one.as_dict() for one in found],
        }

    def _details(self, status: TerminalStatus) -> dict[str, Any]:
        clock = self._parts.clock
        utc_offset_ms = clock.now_ms() - clock.monotonic_ms()
        return {
            "boot": status.boot,
            "first_unacknowledged": self._stated(status).first_unacknowledged,
            "next": status.next,
            "clock_ahead_ms": status.clock_ahead_ms,
            "clock_told": status.heartbeats > 1,
            "flag_names": advice.flag_names(status.flags),
            "take_overs": [
                {"at_ms": at_ms + utc_offset_ms, "address": address} for at_ms, address in status.take_overs or ()
            ],
        }

    def _never_seen(self, refusal: Refusal | None, *, is_known: bool) -> list[advice.Finding]:
        if refusal is not None:
            return [advice.refused(refusal)]
        if is_known:
            what = "look at its power, its cable and the address it calls; with several front-ends ask the others too"
            return [advice.Finding("not seen", "it has not logged in since this server's start", what)]
        return [advice.Finding("unknown", "nobody has enrolled it, and the spool has nothing of it", "enrol it")]

    def _epoch(self, held: EpochHeld, status: TerminalStatus | None) -> dict[str, Any]:
        stated = self._heard(held, status) or held.baseline
        listed = held.ranges[-RANGES_SHOWN_MAX:]
        return {
            "epoch": held.epoch,
            "ranges": [(one.first, one.last) for one in listed],
            "ranges_not_listed": len(held.ranges) - len(listed),
            "settled": held.settled[-RANGES_SHOWN_MAX:],
            "first_unacknowledged": stated.first_unacknowledged if stated is not None else None,
            "next": stated.next if stated is not None else None,
            "holes": self._holes(held, status),
        }

    # -- what is not held

    def gaps(self, arguments: Arguments) -> Later:
        after = arguments.get("after", [0, 0])
        if not isinstance(after, list) or len(after) != 2:
            raise RequestError("after must be a terminal and an epoch")
        key = (
            number({"after": after[0]}, "after", 0, TERMINAL_MAX),
            number({"after": after[1]}, "after", 0, EPOCH_MAX),
        )
        limit = number(arguments, "limit", EPOCHS_OF_GAPS_MAX, EPOCHS_OF_GAPS_MAX) or 1

        def start(reply: Reply) -> None:
            def looked(held: list[EpochHeld] | None, error: BaseException | None) -> None:
                if held is None:
                    reply(_failed(error))
                    return
                reply(self._page_of_gaps(held, is_last=len(held) < limit))

            self._writer.run(lambda spool: spool.look(key, limit), looked)

        return start

    def _page_of_gaps(self, held: list[EpochHeld], *, is_last: bool) -> Answer:
        found: list[dict[str, Any]] = []
        for at, one in enumerate(held, 1):
            holes = self._holes(one, self._parts.sessions.status(one.terminal))
            found += [{"terminal": one.terminal, "epoch": one.epoch} | hole for hole in holes]
            if at == len(held) and is_last:
                break
            if at == len(held) or len(found) >= HOLES_OF_ANSWER_MAX:
                return {"gaps": found, "next": [one.terminal, one.epoch]}
        return {"gaps": found, "next": None}

    def _holes(self, held: EpochHeld, status: TerminalStatus | None) -> list[dict[str, Any]]:
        holes = list(held.holes(self._heard(held, status)))
        listed = [self._hole(held, hole) for hole in holes[:HOLES_OF_EPOCH_MAX]]
        if len(holes) > len(listed):
            listed[-1]["not_listed"] = len(holes) - len(listed)
        return listed

    def _hole(self, held: EpochHeld, hole: Hole) -> dict[str, Any]:
        asked = self._recollections.about(held.terminal, held.epoch, hole.first, hole.last)
        return {
            "kind": hole.kind.value,
            "first": hole.first,
            "last": hole.last,
            "count": hole.count,
            "since_ms": hole.since_ms,
            "tombstoned": hole.kind is HoleKind.TOMBSTONE,
            "asked_ms": asked.asked_ms if asked is not None else None,
            "asked_times": asked.count if asked is not None else 0,
            "asked_here": asked.passed_on if asked is not None else False,
            "what_to_do": advice.WHAT_TO_DO_ABOUT_HOLES[hole.kind],
        }

    def _heard(self, held: EpochHeld, status: TerminalStatus | None) -> Stated | None:
        """What a session has said since its baseline; None where the baseline is all there is."""
        return self._stated(status) if status is not None and status.epoch == held.epoch and status.boot else None

    def _stated(self, status: TerminalStatus) -> Stated:
        clock = self._parts.clock
        heard_ms = clock.now_ms() - (clock.monotonic_ms() - status.last_heard_ms)
        return Stated(max(status.first_unacknowledged, status.durable + 1), status.next, heard_ms)


def _about_holes(holes: list[dict[str, Any]]) -> list[advice.Finding]:
    """One finding per kind of hole; what waits in the terminal is told as its backlog."""
    found = []
    for kind in (HoleKind.MISSING, HoleKind.TOMBSTONE, HoleKind.ELSEWHERE):
        counts = [hole["count"] for hole in holes if hole["kind"] == kind.value]
        if counts:
            says = f"{sum(counts)} records in {len(counts)} stretches are not held as records: {kind.value}"
            found.append(advice.Finding(kind.value, says, advice.WHAT_TO_DO_ABOUT_HOLES[kind]))
    return found


def _refusal(refusal: Refusal) -> dict[str, Any]:
    return {
        "at_ms": refusal.at_ms,
        "address": refusal.address,
        "epoch": refusal.epoch,
        "reason": refusal.reason.value,
    }


def _kind(kind: int) -> str:
    try:
        return TerminalKind(kind).name.lower()
    except ValueError:
        return f"kind {kind:02X}"


def _failed(error: BaseException | None) -> Answer:
    return {"ok": False, "error": f"the spool cannot be read: {error}"}


def shown(version: Version) -> str | None:
    """A list version as people write it; None: none is held."""
    return None if version == NO_VERSION else f"{version[0]}.{version[1]}"
