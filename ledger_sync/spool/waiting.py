"""Why is money not settled? What waits in a spool, by age, and what keeps it waiting (docs/spool.md).

The spool's file says what waits; the running front-end says how its link stands; both may be asked beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ledger_sync.spool.reader import SpoolReader
from protocol import rows
from protocol.codes import RefusalCode, RowKind
from protocol.errors import RemoteError
from protocol.records import summarise

AGES_MS: Final = (
    ("under a minute", 60_000),
    ("under ten minutes", 600_000),
    ("under an hour", 3_600_000),
    ("under a day", 86_400_000),
    ("older", 1 << 62),
)
ROWS_SUMMED_MAX: Final = 100_000  # some seconds of reading; of a longer queue the rest is counted and not summed
FREE_SHARE_WARN: Final = 0.20  # R14
FREE_SHARE_REFUSE: Final = 0.05  # R14
PATIENCE_MS: Final = 60_000  # a batch under way has its answer by then, or its connection is given up
ALARM_REFUSES: Final = "spool refuses"  # stands as long as the spool takes nothing
ALARM_STORAGE: Final = "storage"  # stands until the server's next start: it tells what happened, not what is

WHAT_TO_DO_ABOUT_REFUSALS: Final = {
    RefusalCode.UNKNOWN_FRONTEND: "the ledger does not know this front-end or its batch key: start it again after "
    "`onecard keys frontend add`, or give both the key files that were made together",
    RefusalCode.MALFORMED: "the ledger cannot read what is sent: front-end and ledger are of different versions, or "
    "one has a fault; bring both to one version, keep the spool, and report it with both logs",
    RefusalCode.TRY_LATER: "the ledger cannot store now: look at its disk and its log; it is tried again by itself",
    RefusalCode.SUPERSEDED: "another process has logged in as this front-end: two run with one number, or one spool "
    "was copied; end the wrong one",
}


@dataclass(slots=True)
class Age:
    """Rows of one age; money of the rows that were summed."""

    name: str
    rows: int = 0
    records: int = 0
    count: int = 0
    cents: int = 0


@dataclass(slots=True)
class Waiting:
    """Rows without a receipt."""

    ages: list[Age]
    rows: int = 0
    first_row: int | None = None
    oldest_ms: int | None = None
    """When the oldest of them was received."""
    suspects: int = 0
    """Of all stored rows, settled or not."""
    last_settled_ms: int | None = None
    is_summed: bool = True
    """Whether `ages` counts every row; else only the oldest `ROWS_SUMMED_MAX`."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One answer to "why": `is_stuck` where nothing moves until somebody acts or something comes back."""

    name: str
    says: str
    what_to_do: str
    is_stuck: bool


@dataclass(slots=True)
class Place:
    """What is known beside the file: the running front-end, if there is one, and the volume."""

    status: Mapping[str, Any] | None
    """Its answer to `status`; None: none runs."""
    alarms: list[Mapping[str, Any]] = field(default_factory=list)
    free_bytes: int = 1
    total_bytes: int = 1


def waiting_in(reader: SpoolReader, now_ms: int) -> Waiting:
    """Everything without a receipt."""
    ages = [Age(name) for name, _ in AGES_MS]
    found = Waiting(ages, suspects=reader.count_of(RowKind.SUSPECT), last_settled_ms=reader.last_settled_ms())
    found.rows, found.first_row = reader.unsettled()
    summed = 0
    for _, data in reader.unsettled_rows(ROWS_SUMMED_MAX):
        summed += 1
        received_ms = rows.peek(data).received_ms
        found.oldest_ms = min(received_ms, found.oldest_ms or received_ms)
        bound = next(at for at, (_, most_ms) in enumerate(AGES_MS) if now_ms - received_ms < most_ms)
        _add(ages[bound], data)
    found.is_summed = summed == found.rows
    return found


def _add(age: Age, data: bytes) -> None:
    age.rows += 1
    try:
        row = rows.decode(data)
        if row.kind != RowKind.RECORDS:
            return
        found = summarise(row.payload)
    except RemoteError:
        return  # `spool verify` names it
    age.records += found.count
    age.count += found.money_count
    age.cents += found.sum_cents


def reasons(waiting: Waiting, place: Place, now_ms: int, *, patience_ms: int = PATIENCE_MS) -> Iterator[Reason]:
    """Why it waits, the likeliest first; none: all is settled, or on its way."""
    age_ms = now_ms - waiting.oldest_ms if waiting.oldest_ms is not None else 0
    is_late = waiting.rows > 0 and age_ms > patience_ms
    yield from _disk(place)
    for alarm in place.alarms:
        of_spool = alarm["alarm"] == ALARM_STORAGE and alarm["subject"].startswith("spool.")
        if of_spool or alarm["alarm"] == ALARM_REFUSES:
            says = f"{alarm['subject']}: {alarm['text']}"
            yield Reason(alarm["alarm"], says, alarm["what_to_do"], is_stuck=not of_spool)
    if place.status is None:
        if waiting.rows:
            says = f"no front-end runs here, and {waiting.rows} rows wait: nobody forwards them"
            yield Reason("no front-end", says, "start it: onecard serve", is_stuck=True)
    else:
        yield from _link(place.status["link"], is_late=is_late, now_ms=now_ms)
    if waiting.suspects:
        says = f"{waiting.suspects} rows are suspect: their chain differs from what is held. They are forwarded too"
        what = "stop those terminals, enrol them again; `onecard fleet list --alarming` names them"
        yield Reason("suspects", says, what, is_stuck=False)


def _disk(place: Place) -> Iterator[Reason]:
    share = place.free_bytes / max(place.total_bytes, 1)
    if share >= FREE_SHARE_WARN:
        return
    is_full = share < FREE_SHARE_REFUSE
    says = f"{share:.0%} of the spool's volume is free" + ("; below 5 % nothing is taken" if is_full else "")
    what = "make room on that volume outside the spool; terminals keep their records meanwhile"
    yield Reason("disk", says, what, is_stuck=is_full)


def _link(link: Mapping[str, Any], *, is_late: bool, now_ms: int) -> Iterator[Reason]:
    is_up = link["state"] == "up"
    fault = f"; last fault: {link['last_fault']}" if link["last_fault"] else ""
    refusal = link.get("last_refusal")
    if not is_up:
        since_ms = link.get("since_ms")
        how_long = f" for {(now_ms - since_ms) // 1000} s" if since_ms else ""
        code = next((code for code in RefusalCode if code.name == refusal), None)
        what = "see that the ledger runs (`onecard ledger serve`) and that [frontend] ledger_link is its link_socket"
        if code is not None and str(link["last_fault"]).endswith(code.name):
            what = WHAT_TO_DO_ABOUT_REFUSALS[code]
        yield Reason("link", f"the link to the ledger is not up{how_long}{fault}", what, is_stuck=is_late)
    elif is_late:
        says = f"the link is up, {link['batches_outstanding']} batches are under way, the oldest row still waits{fault}"
        what = "look at the ledger's log, its disk and its load; what is not answered is sent again after a minute"
        yield Reason("ledger", says, what, is_stuck=True)
    if link["receipts_ignored"]:
        says = f"{link['receipts_ignored']} receipts did not fit this spool and were ignored"
        what = "see that this is the right spool.db and no copy; `onecard spool verify` reads it through"
        yield Reason("receipts", says, what, is_stuck=is_late)
