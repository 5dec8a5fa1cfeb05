"""The subject: the real front-end with every guard on, on the real runtime, with a real spool (WAL, FULL).

The ledger is away, as in an outage: the real forwarder looks for it and finds nobody. Nothing here is made faster than
`onecard serve` has it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Final

from bench import slow_disk
from bench.children import config_from_stdin, say
from bench.site import FRONTEND, KEY_VERSION, SITE, BenchSite
from bench.slow_disk import SlowDisk
from frontend_server.keys import FrontendKeys
from frontend_server.server import FrontendServer
from frontend_server.settings import FrontendSettings
from ledger_sync.link.forwarder import Forwarder
from ledger_sync.link.settings import ForwarderSettings
from ledger_sync.spool import Spool, SpoolWriter
from onecard_runtime import Runtime, limit_process
from onecard_site import utc_offset_of
from protocol.mac import MacKey

TIME_ZONE: Final = "Asia/Shanghai"


def log(event: str, /, **facts: object) -> None:
    """Alarms are for a person to see; the rest is not written, as with a log level above it."""
    if facts.get("alarm") or event == "callback_failed":
        print(event, facts, file=sys.stderr, flush=True)


class Subject:
    """One life of the server."""

    def __init__(self, runtime: Runtime, site: BenchSite, directory: Path, control: str, fsync_delay_ms: float) -> None:
        self._runtime = runtime
        self._disk = SlowDisk(fsync_delay_ms) if fsync_delay_ms else None
        batch_key = bytes.fromhex(site.batch_key)

        def free_bytes() -> tuple[int, int]:
            usage = shutil.disk_usage(directory)
            return usage.free, usage.total

        self._spool = Spool.open(
            str(directory / "spool.db"),
            frontend=FRONTEND,
            site=SITE,
            utc_offset_ms=utc_offset_of(TIME_ZONE),
            clock=runtime.clock,
            random=runtime.random,
            files=runtime.files,
            log=log,
            free_bytes=free_bytes,
            vfs=slow_disk.NAME if self._disk else None,
        )
        self._writer = SpoolWriter(self._spool, executor=runtime.executor("spool"), clock=runtime.clock, log=log)
        forwarder = Forwarder(
            ForwarderSettings(
                frontend=FRONTEND,
                site=SITE,
                address=str(directory / "nobody.sock"),
                root_public_key=bytes(32),
            ),
            batch_key=MacKey(batch_key),
            spool=self._writer,
            clock=runtime.clock,
            network=runtime.network,
            random=runtime.random,
            log=log,
        )
        self._server = FrontendServer(
            settings=FrontendSettings(
                frontend=FRONTEND,
                site=SITE,
                listen_address="127.0.0.1:0",
                control_address=control,
                cache_dir=str(directory),
            ),
            keys=FrontendKeys({KEY_VERSION: bytes.fromhex(site.link_master)}, batch_key),
            root_public=bytes(32),
            registry=site.registry(),
            clock=runtime.clock,
            network=runtime.network,
            random=runtime.random,
            files=runtime.files,
            executor=runtime.executor("lists"),
            writer=self._writer,
            forwarder=forwarder,
            log=log,
        )

    def start(self) -> None:
        self._server.start()
        self._runtime.loop.add_reader(sys.stdin.fileno(), self._told_to_end)
        say(address=self._server.address(), loop=type(self._runtime.loop).__module__)

    def _told_to_end(self) -> None:
        self._runtime.loop.remove_reader(sys.stdin.fileno())
        self._writer.run(_facts, self._report)

    def _report(self, facts: dict[str, Any] | None, error: BaseException | None) -> None:
        say(error=repr(error)) if facts is None else say(**facts, groups=self._writer.groups)
        self._server.stop(self._runtime.stop)


def _facts(spool: Spool) -> dict[str, Any]:
    """What the spool holds, out of its file."""
    return {"records": sum(total.count for total in spool.totals()), "commits": spool.facts().commits}


def main() -> None:
    config = config_from_stdin()
    site = BenchSite(**config["site"])
    directory = Path(config["directory"])
    limit_process()
    runtime = Runtime(log=log, plain_asyncio=config.get("plain_asyncio", False))
    delay_ms: float = config.get("fsync_delay_ms", 0)
    sys.exit(runtime.run(lambda started: Subject(started, site, directory, config["control"], delay_ms).start()))


if __name__ == "__main__":
    main()
