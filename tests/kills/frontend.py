"""`python -m tests.kills.frontend SITE --die-at CLASS:OCCURRENCE --notes FILE`: `serve` that kills itself."""

from __future__ import annotations

import sys
from typing import Any

from onecard_host import SPOOL_FILE
from onecard_runtime import Runtime
from onecard_site import load_site
from tests.kills.disk import Disk
from tests.kills.entry import TrapHost, parsed, run_verb
from tests.kills.traps import Moment
from tests.kills.wires import TrappedWorld


def main() -> int:
    asked, _ = parsed("frontend")
    trap = asked.trap

    def wrap(runtime: Runtime) -> Any:
        if trap is None:
            return runtime
        site = load_site(asked.site, {})
        spool = site.path(site.frontend.data_dir) / SPOOL_FILE
        disk = Disk(trap, str(spool), taking_in=frozenset({"rows"}))
        return TrappedWorld(runtime, trap, disk, after_commit=Moment.COMMIT_TO_ACK)

    return run_verb(TrapHost(trap, wrap), "serve", "--config", str(asked.site))


if __name__ == "__main__":
    sys.exit(main())
