"""What it costs to be looked at: live sales of two front-ends, one of which is asked for its figures all the while.

No goal has this number; it is printed. Counting itself is always on
and so on both sides: its cost is in every other row.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.children import BenchFailed
from bench.contest import Contest, notes_of
from bench.plan import Measured, Plan, Progress

ASK_EVERY_SECONDS: Final = 0.5  # some ten times as often as a monitor does
VERBS: Final = ("metrics", "status", "sessions")
"""What `onecard fleet metrics`, `status` and `fleet list` ask for."""
ANSWER_SECONDS_MAX: Final = 10.0


def watched(plan: Plan, progress: Progress) -> Measured:
    with Contest(plan, progress) as contest:
        contest.intake("alone", plan.terminals)
        facts = contest.intake("watched", plan.terminals)
        contest.beside("watched", lambda: asking(facts["control"]))
        found = contest.run(plan.seconds)
        contest.held()
    ratio = contest.ratio("watched", "alone")
    note = (
        f"observability: {plan.terminals:,} terminals each; with {', '.join(VERBS)} asked for "
        f"every {ASK_EVERY_SECONDS:g} s {ratio:.2f} of the rate"
    )
    return Measured([], {"watched": {**found, "ratio": ratio}}, [note, *notes_of(found)])


@contextmanager
def asking(address: str) -> Iterator[None]:
    """Ask for everything again and again, until left; raises BenchFailed where something was not answered."""
    enough, refused, answers = threading.Event(), set[str](), [0]

    def ask() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(ANSWER_SECONDS_MAX)
            control.connect(address)
            with control.makefile("rwb") as lines:
                while not enough.is_set():
                    for verb in VERBS:
                        lines.write(json.dumps({"verb": verb}).encode() + b"\n")
                        lines.flush()
                        if json.loads(lines.readline()).get("ok"):
                            answers[0] += 1
                        else:
                            refused.add(verb)
                    enough.wait(ASK_EVERY_SECONDS)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if refused or not answers[0]:
        raise BenchFailed(f"the front-end was watched and did not answer {', '.join(refused) or 'at all'}")
