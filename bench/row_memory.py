"""Goal 4: what an idle terminal that has logged in weighs in the server, against a connection of a bare Protocol.

Weighed is what the process has for itself alone (private pages, /proc/PID/smaps_rollup), before and after; the kernel's
socket buffers are not in it on either side. The first few connections are not counted: they bring what is loaded once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.children import BenchFailed, Child, cores, scratch_directory, socket_directory
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress
from bench.site import BenchSite

MEMORY: Final = Target(4, "memory of an idle terminal that has logged in, against a bare uvloop connection", 5.0, 2.5)
MANY_AT_LEAST: Final = 1000
"""Fewer weigh less than what the allocator keeps for itself."""
FIRST: Final = 50
"""Connections before the first weighing."""


def memory(plan: Plan, progress: Progress) -> Measured:
    with ExitStack() as stack:
        directory: Path = stack.enter_context(scratch_directory(plan.work_dir))
        control = stack.enter_context(socket_directory()) + "/0"
        site = BenchSite(plan.many)
        intake = stack.enter_context(
            Child("bench.intake_server", cores()[0], site=site.as_json(), directory=str(directory), control=control)
        )
        intake_bytes = _weighed(plan, intake, intake.hear(), site, progress)
        intake.end()
        intake.hear()
    with Child("bench.echo_server", cores()[0]) as echo:
        facts = echo.hear()
        if not facts["loop"].startswith("uvloop"):
            goal = Goal.unmeasured(MEMORY, "no uvloop")
            return Measured([goal], {}, ["goal 4: uvloop is not installed here; it is in the extra `fast`"])
        echo_bytes = _weighed(plan, echo, facts, None, progress)
    note = (
        f"goal 4: {plan.many:,} terminals, {intake_bytes:,.0f} bytes each; "
        f"a connection of a bare Protocol {echo_bytes:,.0f} bytes"
    )
    ratio = intake_bytes / max(echo_bytes, 1)
    goal = Goal.measured(MEMORY, ratio, 0.0) if plan.many >= MANY_AT_LEAST else Goal.unmeasured(MEMORY, "too few")
    details = {"memory": {"terminal_bytes": intake_bytes, "connection_bytes": echo_bytes, "terminals": plan.many}}
    return Measured([goal], details, [note])


def _weighed(plan: Plan, server: Child, facts: dict[str, Any], site: BenchSite | None, progress: Progress) -> float:
    """Bytes of one connection more, of `many`."""

    def driver(count: int) -> Child:
        of = None if site is None else {**site.as_json(), "terminals": count}
        return Child("bench.idle", cores()[1], site=of, connections=count, address=facts["address"])

    before = _after(driver(min(FIRST, plan.many)), lambda: private_bytes(server.pid))
    after = _after(driver(plan.many), lambda: private_bytes(server.pid))
    progress(f"{server.module}: {plan.many:,} connections, {(after - before) / 2**20:.1f} MiB")
    return (after - before) / plan.many


def _after(driver: Child, weigh: Callable[[], int]) -> int:
    with driver:
        driver.hear()
        return weigh()


def private_bytes(pid: int) -> int:
    """What a process has for itself alone."""
    found = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in {"Private_Clean", "Private_Dirty"}:
            found += int(rest.split()[0]) * 1024
    if not found:
        raise BenchFailed(f"the kernel does not say what process {pid} weighs")
    return found
