"""What was asked of a demo, what has happened in it so far, and the object that `--json` prints at its end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onecard_agreement import Agreement
from onecard_demo_cast import Cast

LOSS_GRACE_MS: Final = 1_000  # promise: refused within a second at every terminal online over TCP


@dataclass(slots=True, kw_only=True)
class Story:
    """What was asked for, and what has happened so far."""

    terminals: int
    taps: int
    outage_seconds: float
    seed: int
    directory: Path
    rate: float
    card_check: bool = True
    frontends: int = 2
    link: str = "local"
    cast: Cast = field(default_factory=Cast)
    lost_card: int = 0
    lost_at_ms: int = 0
    front_end_killed: bool = False
    broker_kind: str = ""
    broker_killed_at: float = 0.0
    """Monotonic; 0: it has not been killed yet."""
    broker_kills: int = 0
    is_network_down: bool = False
    is_card_stolen: bool = False
    replacing: str = ""
    """Where the replacement of a device has come to: asked, retired, enrolling, enrolled, done."""
    enrolled_at: float = 0.0
    memory_full: int = 0
    decided: int = 0
    open_listed: list[dict[str, Any]] = field(default_factory=list)
    offered_again: int = 0
    """Records that the front-ends, since their last start, were offered again and held already."""
    has_sold: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def replaced_terminal(self) -> int:
        """The first one."""
        return 1001


def result_of(story: Story, agreement: Agreement, *, frontends: int, seconds: float) -> dict[str, Any]:
    """The object that `--json` prints; every figure of money from the comparison."""
    sim = story.figures
    denied, accepted = _after_loss(story)
    return {
        "terminals": story.terminals,
        "terminal_kinds": story.cast.terminals,
        "terminals_of_suite_b": story.cast.suite_b,
        "cards": story.cast.cards,
        "frontends": frontends,
        "link": story.link,
        "broker": story.broker_kind,
        "broker_kills": story.broker_kills,
        "taps": story.taps,
        "records_created": agreement.records_created,
        "records_by_type": sim["flash"]["records_by_type"],
        "records_acknowledged": agreement.records_acknowledged,
        "records_posted": agreement.records_posted,
        "duplicates": agreement.duplicates + story.offered_again,
        "held_by_two_frontends": agreement.twins,
        "quarantined": agreement.quarantined,
        "gaps_open": agreement.gaps_open,
        "open_items": agreement.open_items,
        "open_listed": story.open_listed,
        "decided_by_two_persons": story.decided,
        "torn_taps": sum(sim["torn_by_kind"].values()),
        "torn_by_kind": sim["torn_by_kind"],
        "torn_cards": sim["card_check"]["torn"] if story.card_check else sim["torn_cards"]["count"],
        "left_on_cards": sim["torn_cards"],
        "memory_full_at_records": story.memory_full,
        "replaced_terminals": int(story.replacing == "done"),
        "amount_terminals_cents": agreement.total.terminals_cents,
        "amount_spool_cents": agreement.total.spool_cents,
        "amount_ledger_cents": agreement.total.ledger_cents,
        "amount_open_items_cents": agreement.total.open_cents,
        "beside_ledger_cents": agreement.beside_ledger_cents,
        "lost": agreement.lost,
        "double_posted": agreement.double_posted,
        "denied_after_loss": denied,
        "accepted_after_loss": accepted,
        "ack_ms_p50": sim["ack_ms"]["p50"],
        "ack_ms_p99": sim["ack_ms"]["p99"],
        "records_per_second": round(agreement.records_posted / max(sim["selling_ms"] / 1000, 0.001), 1),
        "recovery_records_per_second": sim["recovery_records_per_second"],
        "seconds": round(seconds, 1),
        "seed": story.seed,
        "data_dir": str(story.directory),
        "disagreements": agreement.disagreements,
    }


def _after_loss(story: Story) -> tuple[int, int]:
    """(refused, accepted a second after the report at terminals online all that second) taps of the lost card."""
    denied = accepted = 0
    if not story.lost_at_ms:  # the selling was over before a broker was back: nobody was promised anything
        return 0, 0
    for line in (story.directory / "dump" / "thief.jsonl").read_text().splitlines():
        tap = json.loads(line)
        if tap["outcome"] != "sold":
            denied += tap["why"] == "deny_list"
        elif tap["utc_ms"] > story.lost_at_ms + LOSS_GRACE_MS:
            online_since_ms = tap["online_since_utc_ms"]
            accepted += bool(online_since_ms) and online_since_ms <= tap["utc_ms"] - LOSS_GRACE_MS
    return denied, accepted
