"""What every connection shares, gathered once: the parts of one server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from frontend_server.admission import Admission
from frontend_server.alarms import AlarmKind, Alarms
from frontend_server.distribution import Distribution
from frontend_server.entrance import Entrance
from frontend_server.gate import Gate
from frontend_server.intake import IntakeQueue
from frontend_server.metrics import Metrics
from frontend_server.refusals import Refusals
from frontend_server.sessions import Sessions
from frontend_server.settings import FrontendSettings
from frontend_server.timers import TimerWheel
from protocol.codes import ReportKind
from protocol.ports import Clock, Log, Random


@dataclass(slots=True)
class Parts:
    """One per server; connections hold a reference to it and to nothing else of the server."""

    settings: FrontendSettings
    clock: Clock
    random: Random
    log: Log
    wheel: TimerWheel
    metrics: Metrics
    alarms: Alarms
    refusals: Refusals
    sessions: Sessions
    gate: Gate
    entrance: Entrance
    admission: Admission
    intake: IntakeQueue
    distribution: Distribution
    report: Callable[[int, ReportKind, str], None]
    """To the ledger: (terminal, kind, text)."""

    def alarm(self, kind: AlarmKind, subject: str, text: str, report: ReportKind | None = None) -> None:
        """Raise an alarm; what is new is logged, and reported to the ledger where `report` says so.

        `subject` is the terminal's number where `report` is given.
        """
        is_new = self.alarms.raise_alarm(kind, subject, text, self.clock.now_ms())
        if is_new:
            self.log("alarm", kind=kind.value, subject=subject, text=text)
        if is_new and report is not None:
            self.report(int(subject), report, text)
