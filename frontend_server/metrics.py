"""Plain integer counters and histograms of the server, since start. An increment is one attribute.

`exposition` gives them their names for Prometheus; `HELP` says what each counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from frontend_server.histograms import Histogram


@dataclass(slots=True)
class Metrics:
    """Counts only rise, except the `_now` ones."""

    connections_accepted: int = 0
    connections_refused_busy: int = 0
    connections_now: int = 0
    handshakes_now: int = 0
    log_ins: int = 0
    log_ins_refused: int = 0
    take_overs: int = 0
    frames_received: int = 0
    upload_frames: int = 0
    live_frames: int = 0
    records_received: int = 0
    duplicate_frames: int = 0
    duplicate_records: int = 0
    suspect_frames: int = 0
    tombstones: int = 0
    acks_sent: int = 0
    baselines: int = 0
    forks: int = 0
    storage_refusals: int = 0
    reading_paused: int = 0
    frames_held: int = 0
    floods: int = 0
    protocol_errors: int = 0
    forgeries: int = 0
    handshake_timeouts: int = 0
    idle_timeouts: int = 0
    frame_timeouts: int = 0
    rekeys: int = 0
    never_read: int = 0
    lists_offered: int = 0
    lists_confirmed: int = 0
    list_offers_refused: int = 0
    live_ack_ms: Histogram = field(default_factory=Histogram)
    """From a frame of records read to its ACK queued, of the live lane."""
    backlog_ack_ms: Histogram = field(default_factory=Histogram)
    commit_ms: Histogram = field(default_factory=Histogram)
    """From a group handed to the spool's thread to its answer."""
    group_frames: Histogram = field(default_factory=Histogram)
    upload_bytes: Histogram = field(default_factory=Histogram)

    def as_dict(self) -> dict[str, int]:
        """The counts, without the histograms."""
        return {name: getattr(self, name) for name in COUNTS}


COUNTS: Final = tuple(each.name for each in fields(Metrics) if each.default_factory is not Histogram)

HELP: Final = {
    "connections_accepted": "Connections that the gate let in.",
    "connections_refused_busy": "Connections above a cap, told to come back.",
    "connections_now": "Connections inside.",
    "handshakes_now": "Connections inside that have not logged in yet.",
    "log_ins": "Sessions established.",
    "log_ins_refused": "Log-ins refused; the reasons have a metric of their own.",
    "take_overs": "Sessions displaced by a newer one of the same terminal.",
    "frames_received": "Messages of established sessions.",
    "upload_frames": "UPLOAD frames taken.",
    "live_frames": "UPLOAD frames that took the live lane.",
    "records_received": "Records in UPLOAD frames taken.",
    "duplicate_frames": "Frames of which all was held.",
    "duplicate_records": "Records offered again in such frames.",
    "suspect_frames": "Frames that contradict what is held.",
    "tombstones": "Tombstones taken.",
    "acks_sent": "ACKs queued.",
    "baselines": "BASELINEs taken.",
    "forks": "Sessions ended because their chain differs.",
    "storage_refusals": "Intakes that the spool refused.",
    "reading_paused": "Times a connection was not read on: for credit, for room, for its turn.",
    "frames_held": "Frames read that had to wait: beyond one turn, or for room.",
    "floods": "Sessions ended because they went on sending more than any credit allows.",
    "protocol_errors": "Malformed or unexpected messages, wrong counters, oversize and garbage.",
    "forgeries": "Frames whose tag does not verify.",
    "handshake_timeouts": "Connections that did not log in in time.",
    "idle_timeouts": "Sessions that fell silent.",
    "frame_timeouts": "Sessions given up inside a frame whose rest did not come in time.",
    "rekeys": "Sessions ended for new keys.",
    "never_read": "Connections cut because the peer did not take what was sent to it.",
    "lists_offered": "Lists offered to terminals.",
    "lists_confirmed": "Lists that terminals reported to hold.",
    "list_offers_refused": "LISTs of the ledger not taken: unsigned, not higher, or wrong.",
}
