"""`python -m tests.kills.ledger SITE --die-at CLASS:OCCURRENCE --notes FILE`: `ledger serve` that kills itself."""

from __future__ import annotations

import sys
from typing import Any

from ledger_sync.ledger.core import LedgerPaths
from onecard_runtime import Runtime
from onecard_site import load_site
from tests.kills.disk import Disk
from tests.kills.entry import TrapHost, parsed, run_verb
from tests.kills.traps import Moment
from tests.kills.wires import TrappedWorld


def main() -> int:
    asked, _ = parsed("ledger")
    trap = asked.trap

    def wrap(runtime: Runtime) -> Any:
        if trap is None:
            return runtime
        site = load_site(asked.site, {})
        paths = LedgerPaths.in_directory(str(site.path(site.ledger.data_dir)))
        disk = Disk(trap, paths.database, taking_in=None)
        return TrappedWorld(runtime, trap, disk, after_commit=Moment.SEND_TO_RECEIPT)

    return run_verb(TrapHost(trap, wrap), "ledger", "serve", "--site", str(asked.site))


if __name__ == "__main__":
    sys.exit(main())
