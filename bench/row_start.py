"""Goal 10: from nothing to the first accepted terminal with ten thousand enrolled, and `onecard --help`.

The site is a real one, made by `onecard keys`, and the process is `onecard serve` as an operator starts it. "Cold" is
the process: its data directory is empty, and what the system keeps of files in memory is left to it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.children import ROOT, BenchFailed, cores, environment, pin_other, scratch_directory, socket_directory
from bench.goals import Goal, Target
from bench.plan import Measured, Plan, Progress
from bench.terminals import connect
from onecard_keys import FIRST_TERMINAL, KeyFile
from protocol.codes import Medium, TerminalKind
from protocol.handshake import NONCE_BYTES, TerminalIdentity
from protocol.limits import BODY_BYTES_MAX_TCP
from protocol.session import TerminalSession

COLD: Final = Target(10, "cold start to the first accepted terminal, in seconds", 1.0, 0.5)
HELP: Final = Target(10, "`onecard --help` over bare Python, in seconds", 0.25, 0.12)
SITE: Final = 1
EPOCH: Final = 1
KEY_VERSION: Final = 1
READ_BYTES: Final = 4096
END_SECONDS_MAX: Final = 20.0
HELPS_PER_ROUND: Final = 3  # a tenth of a second each


def start(plan: Plan, progress: Progress) -> Measured:
    with scratch_directory(plan.work_dir) as directory, socket_directory() as sockets:
        site = directory / "site"
        _onecard("keys", "init", "--site", str(site))
        _onecard("keys", "enrol", "--terminals", str(plan.many), "--site", str(site))
        progress(f"{plan.many:,} terminals enrolled")
        key = KeyFile.named(site / "secrets", "terminals").open().key(f"link.{FIRST_TERMINAL}.{EPOCH}")
        accepted, ready = [], []
        for number in range(1, plan.rounds + 1):
            shutil.rmtree(site / "data", ignore_errors=True)
            ready_seconds, accepted_seconds = _cold_start(site, sockets, key)
            ready.append(ready_seconds)
            accepted.append(accepted_seconds)
            progress(f"start {number} of {plan.rounds}: accepted after {accepted_seconds:.3f} s")
    helps, bare = [], []
    for _ in range(plan.rounds * HELPS_PER_ROUND):
        bare.append(_took([sys.executable, "-c", "pass"]))
        helps.append(_took([sys.executable, "-m", "onecard", "--help"]))
    cold_seconds, help_seconds = statistics.median(accepted), statistics.median(helps) - statistics.median(bare)
    note = (
        f"goal 10: {plan.many:,} enrolled; ready line after {statistics.median(ready):.3f} s; "
        f"--help {statistics.median(helps):.3f} s, bare Python {statistics.median(bare):.3f} s"
    )
    details = {"start": {"accepted_s": accepted, "ready_s": ready, "help_s": helps, "bare_s": bare}}
    goals = [Goal.measured(COLD, cold_seconds, 0.0), Goal.measured(HELP, help_seconds, 0.0)]
    return Measured(goals, details, [note])


def _onecard(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onecard", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchFailed(f"onecard {' '.join(arguments[:2])}: {done.stderr.strip()}")


def _took(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _cold_start(site: Path, sockets: str, key: bytes) -> tuple[float, float]:
    """Seconds from before the process exists to its ready line, and to the first terminal that it has accepted."""
    command = [sys.executable, "-m", "onecard", "serve", "--site", str(site), "--log", str(site / "serve.log")]
    variables = environment() | {
        "ONECARD_FRONTEND__CONTROL_SOCKET": f"{sockets}/frontend.sock",
        "ONECARD_FRONTEND__LEDGER_LINK": f"{sockets}/link.sock",
    }
    started = time.perf_counter()
    server = subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        pin_other(server.pid, cores()[0])
        assert server.stdout is not None
        line = server.stdout.readline()
        ready_seconds = time.perf_counter() - started
        if not line:
            raise BenchFailed("onecard serve has ended instead of getting ready")
        _log_in(json.loads(line)["address"], key)
        accepted_seconds = time.perf_counter() - started
        server.terminate()
        server.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise BenchFailed("onecard serve does not end") from None
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    return ready_seconds, accepted_seconds


def _log_in(address: str, key: bytes) -> None:
    """The four messages of the handshake; raises BenchFailed where the last one is no ACCEPT."""
    session = TerminalSession(
        TerminalIdentity(SITE, FIRST_TERMINAL, EPOCH, KEY_VERSION, TerminalKind.POS),
        key,
        medium=Medium.TCP,
        nonce=os.urandom(NONCE_BYTES),
        body_bytes_max=BODY_BYTES_MAX_TCP,
        now_ms=0,
    )
    with connect(address) as connection:
        connection.sendall(session.take_output())
        while not session.established:
            data = connection.recv(READ_BYTES)
            if not data or session.closed:
                raise BenchFailed(f"the first terminal is refused: {session.reason}")
            session.receive(data, 0)
            connection.sendall(session.take_output())
