"""Which firmware a terminal of which kind boots: the one place that knows (docs/protocol.md §1, terminal kind)."""

from __future__ import annotations

from protocol.codes import TerminalKind
from protocol.ports import Log, Random
from terminal_sim.door_people import simulated_permissions
from terminal_sim.door_terminal import DoorTerminal
from terminal_sim.firmware import PosTerminal
from terminal_sim.flash import VirtualFlash
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.rtc import DriftingRtc


def boot_terminal(
    flash: VirtualFlash, secrets: TerminalSecrets, *, rtc: DriftingRtc, random: Random, log: Log
) -> PosTerminal:
    """The firmware object of one power-on. Raises PowerCut. A kind without a firmware of its own sells."""
    if secrets.terminal_kind == TerminalKind.DOOR:
        permissions = simulated_permissions(secrets.terminal)
        return DoorTerminal(flash, secrets, rtc=rtc, random=random, log=log, permissions=permissions, version=(1, 1))
    return PosTerminal(flash, secrets, rtc=rtc, random=random, log=log)


def sells(secrets: TerminalSecrets) -> bool:
    """Whether customers with something to pay come to terminals of this kind."""
    return secrets.terminal_kind != TerminalKind.DOOR
