"""The generator process: logs in, seals, and runs interleaved rounds of echo and intake on its own core."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Final

from bench.children import BenchFailed, config_from_stdin, say
from bench.pump import Line, Pump, Run
from bench.site import BenchSite
from bench.terminals import Terminal, connect, logged_in
from protocol.frame import HEADER_BYTES
from protocol.limits import TAG_BYTES_TCP

ACK_BYTES: Final = 16
ACK_FRAME_BYTES: Final = HEADER_BYTES + ACK_BYTES + TAG_BYTES_TCP
WARM_UP_SECONDS: Final = 0.5
WARM_UP_FRAMES: Final = 40  # a terminal
SPARE: Final = 1.3  # frames sealed over what the rate so far would take


@dataclass(slots=True)
class Subject:
    """The intake with its terminals."""

    pump: Pump
    terminals: list[Terminal]
    lines: list[Line]
    rate: float = 0.0

    def seal(self, seconds: float) -> None:
        """Frames for a round of that length; the warm-up's number where no rate is known."""
        wanted = int(self.rate * seconds * SPARE / len(self.terminals)) + 2 if self.rate else WARM_UP_FRAMES
        for terminal in self.terminals:
            terminal.seal(max(0, wanted - len(terminal.frames)))

    def run(self, seconds: float) -> Run:
        run = self.pump.run(seconds)
        self.rate = max(self.rate, run.rate)
        for terminal, line in zip(self.terminals, self.lines, strict=True):
            terminal.sent = line.sent
            terminal.check_replies()
        return run


def main() -> None:
    config = config_from_stdin()
    try:
        result = measure(config)
    except (BenchFailed, OSError) as error:
        say(error=str(error))
    else:
        say(**result)


def measure(config: dict[str, Any]) -> dict[str, Any]:
    site, seconds = BenchSite(**config["site"]), float(config["seconds"])
    terminals = logged_in(site, config["intake_address"])
    say(progress=f"{len(terminals)} terminals logged in")
    lines = [Line(terminal.socket, terminal.frames, terminal.replies) for terminal in terminals]
    subject = Subject(Pump(lines, config["intake_pid"], ACK_FRAME_BYTES), terminals, lines)
    subject.seal(0)
    # The echo gets the very bytes that the intake gets.
    frames = [list(terminal.frames) for terminal in terminals]
    echo_lines = [Line(connect(config["echo_address"]), each, None) for each in frames]
    echo = Pump(echo_lines, config["echo_pid"], len(frames[0][0]))
    try:
        echo.run(min(seconds, WARM_UP_SECONDS))
        subject.run(min(seconds, WARM_UP_SECONDS))
        rounds = []
        for number in range(1, config["rounds"] + 1):
            subject.seal(seconds)
            rounds.append((echo.run(seconds), subject.run(seconds)))
            say(progress=_progress(number, *rounds[-1]))
    finally:
        echo.close()
        subject.pump.close()
    return {
        "echo": _summary([one for one, _ in rounds]),
        "intake": _summary([one for _, one in rounds]),
        "acknowledged": sum(terminal.acknowledged for terminal in terminals),
        "frame_bytes": len(frames[0][0]),
    }


def _progress(number: int, echo: Run, intake: Run) -> str:
    return (
        f"round {number}: echo {echo.rate:,.0f}/s ({echo.server_us:.1f} µs), "
        f"intake {intake.rate:,.0f}/s ({intake.server_us:.1f} µs)"
    )


def _summary(runs: list[Run]) -> dict[str, Any]:
    """Medians over the rounds; of the generator's share the highest."""
    return {
        "per_second": statistics.median(run.rate for run in runs),
        "p50_ms": statistics.median(run.percentile_ms(0.50) for run in runs),
        "p99_ms": statistics.median(run.percentile_ms(0.99) for run in runs),
        "server_us": statistics.median(run.server_us for run in runs),
        "server_cpu": statistics.median(run.server_cpu for run in runs),
        "generator_us": statistics.median(run.generator_us for run in runs),
        "generator_cpu": max(run.generator_cpu for run in runs),
        "ran_out": any(run.ran_out for run in runs),
        "rounds_per_second": [round(run.rate) for run in runs],
    }


if __name__ == "__main__":
    main()
