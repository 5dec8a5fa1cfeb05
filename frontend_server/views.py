"""What the control socket's verbs answer: the state of the server as JSON values. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from frontend_server import alarms, exposition, refusals
from frontend_server.control import REFUSED_LIMIT_MAX, Answer, Arguments, Later, Reply, Verb, number
from frontend_server.fleet_views import shown
from frontend_server.histograms import Histogram
from frontend_server.parts import Parts
from frontend_server.ports_used import Forwarder
from ledger_sync.spool import SpoolFacts, SpoolWriter
from protocol.codes import RequestKind
from protocol.link_messages import Answer as LinkAnswer
from protocol.list_kinds import LIST_KINDS

ECHO_MS_MAX: Final = 5_000  # longer than a ledger takes to post what is before it, shorter than a person waits
ECHO_BODY: Final = b"onecard doctor"
SPOOL_FACTS_MS: Final = 1_000  # facts are read on the spool's thread; they are at most this old when asked for often


class Views:
    """Answers for `status`, `refused` and `alarms`."""

    def __init__(self, parts: Parts, forwarder: Forwarder, writer: SpoolWriter, address: Callable[[], str]) -> None:
        self._parts = parts
        self._forwarder = forwarder
        self._writer = writer
        self._address = address
        self._started_ms = 0
        self._started_monotonic_ms = 0
        self._spool: SpoolFacts | None = None
        self._spool_error = ""
        self._spool_read_ms = -SPOOL_FACTS_MS
        self._spool_asked = 0
        self._spool_answered = 0

    def started(self) -> None:
        """The server starts now."""
        self._started_ms = self._parts.clock.now_ms()
        self._started_monotonic_ms = self._parts.clock.monotonic_ms()
        self._read_spool()

    def verbs(self) -> dict[str, Verb]:
        return {
            "status": self.status,
            "refused": self.refused,
            "alarms": self.alarms,
            "metrics": self.metrics,
            "echo": self.echo,
        }

    def status(self, arguments: Arguments) -> Answer:
        """With `fresh` the spool's figures are read for this question. No answer waits for the disk: they are in the
        first later answer whose `spool_answered` has reached this one's `spool_asked`.
        """
        parts = self._parts
        self._read_spool(is_forced=arguments.get("fresh") is True)
        online = parts.sessions.online
        return {
            "frontend": parts.settings.frontend,
            "site": parts.settings.site,
            "address": self._address(),
            "started_ms": self._started_ms,
            "uptime_ms": parts.clock.monotonic_ms() - self._started_monotonic_ms,
            "terminals": {"enrolled": len(parts.admission.registry.terminals), "online": online},
            "intake_frames": len(parts.intake),
            "intake_waiting": parts.intake.waiting,
            "waits": {name: _quantiles(histogram) for name, histogram in self._waits()},
            "spool": asdict(self._spool) if self._spool is not None else None,
            "spool_error": self._spool_error,
            "spool_asked": self._spool_asked,
            "spool_answered": self._spool_answered,
            "link": dict(self._forwarder.state()),
            "lists": {kind.name.lower(): shown(parts.distribution.version(kind)) for kind in LIST_KINDS},
            "alarms": len(parts.alarms),
            "alarms_not_listed": parts.alarms.not_listed,
            "counts": parts.metrics.as_dict(),
        }

    def echo(self, arguments: Arguments) -> Later:
        """How long the way to the ledger and back takes, through whatever carries the link; null: no answer."""
        clock = self._parts.clock

        def ask(reply: Reply) -> None:
            started_ms = clock.monotonic_ms()

            def answered(answer: LinkAnswer | None) -> None:
                status = None if answer is None else answer.status.name.lower()
                reply({"status": status, "ms": None if answer is None else clock.monotonic_ms() - started_ms})

            self._forwarder.ask(RequestKind.ECHO, ECHO_BODY, within_ms=ECHO_MS_MAX, answered=answered)

        return ask

    def refused(self, arguments: Arguments) -> Answer:
        limit = number(arguments, "limit", 100, REFUSED_LIMIT_MAX)
        ring = self._parts.refusals
        return {
            "counts": {reason.value: count for reason, count in ring.counts.items() if count},
            "refused": [
                {
                    "at_ms": one.at_ms,
                    "address": one.address,
                    "terminal": one.terminal,
                    "epoch": one.epoch,
                    "reason": one.reason.value,
                    "what_to_do": refusals.WHAT_TO_DO[one.reason],
                }
                for one in ring.newest(limit)
            ],
        }

    def alarms(self, _: Arguments) -> Answer:
        return {
            "alarms": [
                {
                    "alarm": one.kind.value,
                    "subject": one.subject,
                    "text": one.text,
                    "since_ms": one.since_ms,
                    "last_ms": one.last_ms,
                    "count": one.count,
                    "what_to_do": alarms.WHAT_TO_DO[one.kind],
                }
                for one in self._parts.alarms.standing()
            ],
            "not_listed": self._parts.alarms.not_listed,
        }

    def metrics(self, _: Arguments) -> Answer:
        found = self._families()
        return {
            "metrics": [family.as_json() for family in found],
            "waits": {name: _quantiles(histogram) for name, histogram in self._waits()},
            "text": exposition.text(found),
        }

    def prometheus(self) -> str:
        """All figures as Prometheus reads them; those of the spool are at most as old as the scrape before."""
        return exposition.text(self._families())

    def _families(self) -> list[exposition.Family]:
        self._read_spool()
        return exposition.families(self._parts, self._spool, self._forwarder.state())

    def _waits(self) -> tuple[tuple[str, Histogram], ...]:
        metrics = self._parts.metrics
        return ("live", metrics.live_ack_ms), ("backlog", metrics.backlog_ack_ms), ("commit", metrics.commit_ms)

    def _read_spool(self, *, is_forced: bool = False) -> None:
        """Fetch the spool's figures, for this question if it is quick and for the next in any case."""
        now_ms = self._parts.clock.monotonic_ms()
        if now_ms - self._spool_read_ms < SPOOL_FACTS_MS and not is_forced:
            return
        self._spool_read_ms = now_ms
        self._spool_asked += 1

        def read(facts: SpoolFacts | None, error: BaseException | None) -> None:
            self._spool_answered += 1
            self._spool = facts if error is None else self._spool
            self._spool_error = "" if error is None else str(error)

        self._writer.run(lambda spool: spool.facts(), read)


def _quantiles(histogram: Histogram) -> dict[str, int | None]:
    """In milliseconds, each the largest value of its bucket, so at most twice what it was."""
    return {
        "count": histogram.count,
        "p50_ms": histogram.quantile(0.5),
        "p99_ms": histogram.quantile(0.99),
        "p999_ms": histogram.quantile(0.999),
    }
