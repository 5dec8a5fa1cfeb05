"""What an operator may set, and every bound of the server with its reason. Values only: no file is read here."""

from __future__ import annotations

from dataclasses import dataclass

from frontend_server.scrape import is_loopback
from protocol.limits import CREDIT_MAX, CREDIT_USUAL, HEARTBEAT_MS, SESSION_MS_MAX

INTAKE_FRAMES_LEAST = 4  # below that a quarter of it is nothing
INTAKE_FRAMES_MOST = 16_000  # the writer's own bound (16,384), less a turn of who is called last
HEARTBEATS_MISSED_MAX = 3  # one lost to a reconnecting switch, one to a busy terminal; then nobody is there


class SettingsError(ValueError):
    """A setting that cannot work; the text says which and why."""


@dataclass(slots=True, kw_only=True)
class FrontendSettings:
    """One front-end's settings; times in milliseconds."""

    frontend: int
    site: int
    listen_address: str
    """`host:port`; port 0 takes a free one, which the server then names."""
    control_address: str
    """Absolute path of the control socket (mode 0600), or empty for none."""
    cache_dir: str
    """Where the list versions are kept over a restart."""
    metrics_address: str = ""
    """Loopback `host:port` where Prometheus may ask; empty: nowhere. The control socket always tells the figures."""
    is_production: bool = True
    """Refuses weak keys (promise 6)."""

    connections_max: int = 12_000
    """A site of 10,000 terminals, and room for those that reconnect before their old connection is given up."""
    connections_per_address_max: int = 12_000
    """All terminals may stand behind one router; lower it where they do not."""
    handshakes_max: int = 2_000
    """Connections not logged in yet. A handshake costs 0.2 ms: the last of 2,000 waits half a second of its ten."""
    handshakes_per_address_max: int = 2_000
    """As many, since a whole site may come back from behind one router; lower it where terminals have addresses of
    their own, and one machine that only opens connections keeps nobody else out."""
    busy_retry_after_s: int = 3
    """The least that a terminal above a cap is told; it adds a random half by itself."""
    busy_retry_after_s_max: int = 30
    """The most: who is turned away gets an appointment, and none is later than this, however many there are."""
    log_ins_per_second: int = 800
    """Appointments given to a second: half of what a front-end can take in (a log-in costs it about 0.6 ms, `make
    storm`), since sales go on meanwhile."""

    credit_usual: int = CREDIT_USUAL
    """Frames that a terminal may have outstanding: hides one round trip."""
    intake_frames_max: int = 6_144
    """Frames between connections and disk; 24 MiB at most. A quarter of it lowers the credit of who sends a backlog,
    half of it everybody's, to 1; three quarters stop reading backlogs, all of it live sales too (docs/overload.md)."""
    write_buffer_bytes_max: int = 64 * 1024
    """Unread by the peer: a list window (16 KiB) and acknowledgements are far below; above, it does not read at all."""

    idle_ms: int = HEARTBEATS_MISSED_MAX * HEARTBEAT_MS
    """No frame for three heartbeats: nobody is there."""
    answer_ms: int = 10_000
    """A terminal that was asked for a seal at log-in answers from memory; ten seconds are a hundred times that."""
    frame_ms_max: int = 20_000
    """For the rest of a frame that has begun: the largest (4,124 bytes) takes 17 s at 2,400 baud. However often a byte
    comes, this moment does not move."""
    session_ms_max: int = SESSION_MS_MAX
    """Re-key (R33)."""
    linger_ms: int = 2_000
    """For the last words to leave; then the connection is cut."""
    drain_ms_max: int = 5_000
    """At stop, for sessions to take their BYE and for the spool to commit what it has."""

    take_overs_max: int = 3
    take_over_window_ms: int = 60_000
    """R13: more than three in a minute are two devices with one identity, or a very bad line."""

    settled_days: int = 7
    """R15: settled rows stay; must exceed the age of the oldest ledger backup one would restore."""
    prune_every_ms: int = 3_600_000
    """Pruning is cheap and nothing waits for it."""
    push_slice: int = 256
    """Sessions that are offered a new list before other work gets its turn: 256 offers cost about 10 ms."""

    control_clients_max: int = 8
    """Operators and monitors of one machine."""
    control_line_bytes_max: int = 4_096
    """A request is a verb and a few words."""
    control_idle_ms: int = 300_000
    """A client that asks nothing gives its place up."""

    def check(self) -> None:
        """Raise SettingsError for a value that cannot work."""
        if not 0 < self.frontend <= 0xFFFF_FFFF or not 0 < self.site <= 0xFFFF_FFFF:
            raise SettingsError("frontend and site are numbers from 1 to 4294967295")
        if not 1 <= self.credit_usual <= CREDIT_MAX:
            raise SettingsError(f"credit_usual is 1 to {CREDIT_MAX}")
        at_least_one = (
            "connections_max",
            "connections_per_address_max",
            "handshakes_max",
            "handshakes_per_address_max",
        )
        for name in (*at_least_one, "busy_retry_after_s", "log_ins_per_second"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1")
        if not INTAKE_FRAMES_LEAST <= self.intake_frames_max <= INTAKE_FRAMES_MOST:
            raise SettingsError(f"intake_frames_max is {INTAKE_FRAMES_LEAST} to {INTAKE_FRAMES_MOST}")
        if self.busy_retry_after_s_max < self.busy_retry_after_s:
            raise SettingsError("busy_retry_after_s_max is at least busy_retry_after_s")
        if self.idle_ms < HEARTBEAT_MS:
            raise SettingsError(f"idle_ms below one heartbeat ({HEARTBEAT_MS}) cuts healthy terminals off")
        if self.metrics_address and not is_loopback(self.metrics_address):
            raise SettingsError("metrics_address is a loopback address with a port, as 127.0.0.1:9477")
        if self.control_address and not self.control_address.startswith("/"):
            raise SettingsError("control_address is an absolute path")
