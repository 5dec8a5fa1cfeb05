"""The subject of the posting row and its anchor, in one pinned process, in turn: the ledger, and bare inserts.

Everything is sealed before a clock starts. The ledger posts through the same call as `onecard ledger serve`, with its
heads file synced and its receipts signed; the batch's MAC and digest, which the server checks first, are checked too.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

from bench.children import BenchFailed, config_from_stdin, say
from bench.money import Town
from bench.posting_anchor import PostingAnchor
from ledger_sync.ledger.core import Ledger, LedgerPaths
from onecard_runtime import RealFiles
from protocol.link_envelope import LENGTH_BYTES
from protocol.link_messages import BatchMessage, decode_up, encode_up, verify_up
from protocol.mac import MacKey
from protocol.trade_time import fixed_offset

CHINA_MINUTES: Final = 480


class Posting:
    """A ledger that knows the town, and the anchor beside it."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.town = Town(terminals=config["terminals"], cards=config["cards"], seed=config["seed"])
        self.per_frame: int = config["per_frame"]
        self.in_order: bool = config["in_order"]
        self._key = MacKey(self.town.batch_key)
        paths = LedgerPaths.in_directory(str(directory))
        self.ledger = Ledger.create(
            paths, self.town.keys, files=RealFiles(), utc_offset_ms=fixed_offset(CHINA_MINUTES),
            now_ms=self.town.now_ms, operator="bench",
        )  # fmt: skip
        for verb, arguments in self.town.operations():
            self.ledger.operate(verb, arguments, operator="bench", now_ms=self.town.now_ms)
        self.ledger.connection.wal_checkpoint()
        self._copy = str(directory / "anchor.db")
        self.anchor: PostingAnchor | None = None
        self.directory = directory

    def batches(self, records: int) -> list[bytes]:
        """Sealed and framed: what the link would deliver."""
        return [
            encode_up(batch, self._key)[LENGTH_BYTES:]
            for batch in self.town.backlog(records, per_frame=self.per_frame, in_order=self.in_order)
        ]

    def post(self, payloads: list[bytes]) -> int:
        """Post all; the number of records. The part that is timed."""
        records = 0
        for payload in payloads:
            verify_up(payload, self._key)
            message = decode_up(payload)
            assert isinstance(message, BatchMessage)
            outcome = self.ledger.post(message, self.town.now_ms).outcome
            assert outcome is not None
            records += outcome.posted
        return records

    def start_anchor(self) -> None:
        """From here on the anchor follows."""
        copy = apsw.Connection(self._copy)
        with copy.backup("main", self.ledger.connection, "main") as backup:
            backup.step(-1)
        copy.close()
        self.anchor = PostingAnchor(self.ledger.connection, self._copy)

    def round(self, records: int) -> dict[str, float]:
        """One turn of each; records per second and µs of CPU a record."""
        assert self.anchor is not None
        payloads = self.batches(records)
        first = self.ledger.position + 1
        posted, *ours = timed(lambda: self.post(payloads))
        written = self.anchor.read(range(first, self.ledger.position + 1))
        _, *bare = timed(lambda: self.anchor.insert(written))  # type: ignore[union-attr]
        return {
            "records": posted,
            "batches": len(payloads),
            "ledger_per_second": posted / ours[0],
            "anchor_per_second": posted / bare[0],
            "ledger_us": 1e6 * ours[1] / posted,
            "anchor_us": 1e6 * bare[1] / posted,
        }


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds, CPU seconds); what was made before is no business of the garbage collector."""
    gc.collect()
    gc.freeze()
    cpu, before = time.process_time(), time.perf_counter()
    done = work()
    took, used = time.perf_counter() - before, time.process_time() - cpu
    gc.unfreeze()
    return done, took, used


def main() -> None:
    config = config_from_stdin()
    posting = Posting(Path(config["directory"]), config)
    posting.post(posting.batches(config["warm_up_records"]))
    grown: list[float] = []
    while config["held_records"] and sum(grown) < config["held_records"]:
        payloads = posting.batches(config["records"])
        records, seconds, _ = timed(partial(posting.post, payloads))
        grown.append(records)
        say(progress=f"{sum(grown):,.0f} records held, {records / seconds:,.0f}/s")
    posting.start_anchor()
    rounds = []
    for number in range(1, config["rounds"] + 1):
        rounds.append(posting.round(config["records"]))
        last = rounds[-1]
        say(
            progress=f"round {number}: ledger {last['ledger_per_second']:,.0f}/s ({last['ledger_us']:.1f} µs),"
            f" bare rows {last['anchor_per_second']:,.0f}/s ({last['anchor_us']:.1f} µs)"
        )
    assert posting.anchor is not None
    differing = posting.anchor.differs_in()
    posting.anchor.close()
    posting.ledger.close()
    if differing:
        raise BenchFailed(f"the anchor's tables differ from the ledger's: {', '.join(differing)}")
    say(rounds=rounds, rss_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
