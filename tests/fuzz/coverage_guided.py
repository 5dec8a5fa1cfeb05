"""Coverage-guided fuzzing of one decoder with atheris (libFuzzer): `make fuzz-atheris TARGET="packed row" SECONDS=60`.

The seeded run of this package is quick and replays; this one finds its own way into branches that no mutation of ours
happens to reach. What it finds is kept in a file, whose path it prints; the file's bytes then go into a test.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # without types, and not everywhere

with atheris.instrument_imports(include=["protocol", "ledger_sync", "terminal_sim"]):
    from protocol.errors import RemoteError
    from tests.fuzz.run import weighted
    from tests.fuzz.targets import TARGETS

INPUT_BYTES_MAX: Final = 6_000


def main() -> None:
    """`coverage_guided.py TARGET SECONDS`; libFuzzer ends the process, with a code above 0 if anything escaped."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    target = TARGETS[name]

    def one(data: bytes) -> None:
        try:
            value = target.decode(data)
            if target.encode is not None and target.decode(target.encode(value)) != value:
                raise AssertionError(f"{name}: another value after encoding and decoding")
        except RemoteError:
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, piece in enumerate(weighted(target)):
            Path(corpus, str(number)).write_bytes(piece)
        options = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", "-print_final_stats=1", corpus]
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
