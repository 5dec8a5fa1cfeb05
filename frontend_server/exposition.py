"""The server's figures for Prometheus: names, types, help, and the text format 0.0.4. No I/O.

Names end in their unit, or in `_total` where they only rise. Labels are taken from enumerations alone (reason of a
refusal, kind of an alarm, lane), so their number is bounded; no terminal, card or address is in a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from frontend_server.histograms import Histogram
from frontend_server.metrics import HELP, Metrics
from frontend_server.parts import Parts
from frontend_server.refusals import Reason
from ledger_sync.spool import SpoolFacts

PREFIX: Final = "onecard_frontend_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MS_BUCKETS: Final = 16  # to 32.767 s: a terminal's patience for an ACK ends at 20
FRAME_BUCKETS: Final = 14  # to 8,191 bytes, or frames: above every body and every group

_NOW: Final = "_now"
Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Family:
    """One metric: samples are (suffix of the name, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        samples = [
            {"name": self.name + suffix, "labels": dict(labels), "value": n} for suffix, labels, n in self.samples
        ]
        return {"name": self.name, "kind": self.kind, "help": self.help, "samples": samples}


def families(parts: Parts, spool: SpoolFacts | None, link: Mapping[str, object]) -> list[Family]:
    """Everything there is to say at this moment; what the spool has not answered yet is left out."""
    return [
        *_counts(parts.metrics),
        *_histograms(parts.metrics),
        *_state(parts, link),
        *(_of_spool(spool, parts.clock.now_ms()) if spool is not None else ()),
    ]


def text(found: Iterable[Family]) -> str:
    """The text exposition format: help and label values here need no escaping, for both are ours."""
    lines: list[str] = []
    for family in found:
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            inside = ",".join(f'{name}="{of}"' for name, of in labels)
            lines.append(f"{family.name}{suffix}{'{' + inside + '}' if inside else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _one(name: str, kind: str, help_text: str, value: float) -> Family:
    return Family(PREFIX + name, kind, help_text, [("", (), value)])


def _counts(metrics: Metrics) -> Iterator[Family]:
    for name, value in metrics.as_dict().items():
        if name.endswith(_NOW):
            yield _one(name.removesuffix(_NOW), "gauge", HELP[name], value)
        else:
            yield _one(f"{name}_total", "counter", HELP[name], value)


def _histograms(metrics: Metrics) -> Iterator[Family]:
    lanes = (("live", metrics.live_ack_ms), ("backlog", metrics.backlog_ack_ms))
    waits = Family(PREFIX + "ack_seconds", "histogram", "From a frame of records read to its ACK queued, by lane.")
    for lane, histogram in lanes:
        waits.samples += _buckets(histogram, MS_BUCKETS, scale=1000, labels=(("lane", lane),))
    yield waits
    for name, help_text, histogram, buckets, scale in (
        (
            "commit_seconds",
            "From a group handed to the spool's thread to its answer.",
            metrics.commit_ms,
            MS_BUCKETS,
            1000,
        ),
        ("group_frames", "Frames and other intakes committed together.", metrics.group_frames, FRAME_BUCKETS, 1),
        ("upload_bytes", "Bodies of UPLOAD frames.", metrics.upload_bytes, FRAME_BUCKETS, 1),
    ):
        yield Family(PREFIX + name, "histogram", help_text, _buckets(histogram, buckets, scale=scale))


def _buckets(histogram: Histogram, buckets: int, *, scale: int, labels: Labels = ()) -> list[tuple[str, Labels, float]]:
    """Bucket n holds whole numbers below 2^n; a time in milliseconds that is cut to a whole one is below it too."""
    samples: list[tuple[str, Labels, float]] = [
        ("_bucket", (*labels, ("le", _number((largest + 1 if scale > 1 else largest) / scale))), seen)
        for largest, seen in histogram.cumulative(buckets)
    ]
    samples.append(("_bucket", (*labels, ("le", "+Inf")), histogram.count))
    return [*samples, ("_sum", labels, histogram.total / scale), ("_count", labels, histogram.count)]


def _state(parts: Parts, link: Mapping[str, object]) -> Iterator[Family]:
    yield _one("terminals_enrolled", "gauge", "Terminals of the registry.", len(parts.admission.registry.terminals))
    yield _one("terminals_online", "gauge", "Terminals with a session.", parts.sessions.online)
    yield _one("intake_frames", "gauge", "Frames between connections and disk.", len(parts.intake))
    yield _one("intake_waiting", "gauge", "Connections that wait for room in the intake.", parts.intake.waiting)
    yield _one("link_up", "gauge", "1 while the ledger is reached.", link.get("state") == "up")
    yield _one("alarms_not_listed_total", "counter", "Alarms beyond the list's bound.", parts.alarms.not_listed)
    refused = Family(PREFIX + "log_ins_refused_by_reason_total", "counter", "Refused log-ins by their true reason.")
    refused.samples = [("", (("reason", reason.value),), parts.refusals.counts[reason]) for reason in Reason]
    yield refused
    alarms: dict[str, int] = {}
    for alarm in parts.alarms.standing():
        alarms[alarm.kind.value] = alarms.get(alarm.kind.value, 0) + 1
    standing = Family(PREFIX + "alarms", "gauge", "Standing alarms by kind; one that is not there has no sample.")
    standing.samples = [("", (("kind", kind),), count) for kind, count in sorted(alarms.items())]
    yield standing


def _of_spool(spool: SpoolFacts, now_ms: int) -> Iterator[Family]:
    yield _one("spool_rows", "gauge", "Rows in the spool.", spool.rows)
    yield _one("spool_rows_unsettled", "gauge", "Rows without a receipt of the ledger.", spool.rows_unsettled)
    yield _one("spool_bytes", "gauge", "Size of the spool's database.", spool.bytes)
    yield _one("spool_commits_total", "counter", "Transactions of the spool since start.", spool.commits)
    oldest_ms = spool.oldest_unsettled_ms or 0
    yield _one("spool_oldest_unsettled_seconds", "gauge", "Age of the oldest row without a receipt.", oldest_ms / 1000)
