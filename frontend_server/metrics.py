"""Plain integer counters of the server, since start. An increment is one attribute; nothing is exported from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Metrics:
    """Only rise, except the `_now` ones."""

    connections_accepted: int = 0
    connections_refused_busy: int = 0
    connections_now: int = 0
    handshakes_now: int = 0
    log_ins: int = 0
    log_ins_refused: int = 0
    take_overs: int = 0
    frames_received: int = 0
    upload_frames: int = 0
    records_received: int = 0
    duplicate_frames: int = 0
    duplicate_records: int = 0
    """Records offered again in frames of which all was held."""
    suspect_frames: int = 0
    tombstones: int = 0
    acks_sent: int = 0
    baselines: int = 0
    forks: int = 0
    storage_refusals: int = 0
    live_frames: int = 0
    """Upload frames that took the live lane."""
    reading_paused: int = 0
    frames_held: int = 0
    """Frames that were read and had to wait: beyond one turn, or for room."""
    protocol_errors: int = 0
    """Malformed or unexpected messages, wrong counters, oversize and garbage."""
    forgeries: int = 0
    """Frames whose tag does not verify."""
    handshake_timeouts: int = 0
    idle_timeouts: int = 0
    frame_timeouts: int = 0
    """Connections given up inside a frame whose rest did not come in time."""
    rekeys: int = 0
    never_read: int = 0
    """Connections cut because the peer did not take what was sent to it."""
    lists_offered: int = 0
    lists_confirmed: int = 0
    list_offers_refused: int = 0
    """LISTs from the ledger that were not taken: unsigned, not higher, or wrong."""

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}
