"""The far end of the chain: a ledger that knows the town, served as by `onecard ledger serve` until stdin ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.children import config_from_stdin, say
from bench.intake_server import log
from bench.money import Town
from bench.site import SITE
from ledger_sync.cli_work import LedgerPlace
from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.keys import LedgerKeys
from ledger_sync.serving import LedgerServing
from onecard_runtime import RealFiles, Runtime, limit_process
from protocol.keystore import Keystore
from protocol.trade_time import fixed_offset

CHINA_MINUTES: Final = 480


class ToldByStdin(Runtime):
    """A process of the bench ends with its stdin, where a service ends by a signal."""

    def on_signal(self, callback: Callable[[], None]) -> None:
        def ended() -> None:
            self.loop.remove_reader(sys.stdin.fileno())
            callback()

        self.loop.add_reader(sys.stdin.fileno(), ended)


def no_keystore() -> Keystore:
    raise AssertionError("the keys are the town's")


def place_of(config: dict[str, Any]) -> LedgerPlace:
    directory, sockets = Path(config["directory"]), config["sockets"]
    return LedgerPlace(
        site=SITE,
        data_dir=directory,
        registry=directory / "registry",
        card_register=directory / "cards",
        link_socket=f"{sockets}/link",
        admin_socket=f"{sockets}/admin",
        utc_offset_ms=fixed_offset(CHINA_MINUTES),
        keystore=no_keystore,
    )


def founded(place: LedgerPlace, town: Town) -> LedgerKeys:
    """Make the ledger and register everybody."""
    ledger = Ledger.create(
        place.paths(), town.keys, files=RealFiles(), utc_offset_ms=place.utc_offset_ms,
        now_ms=town.now_ms, operator="bench",
    )  # fmt: skip
    for verb, arguments in town.operations():
        ledger.operate(verb, arguments, operator="bench", now_ms=town.now_ms)
    ledger.close()
    return town.keys


def main() -> None:
    config = config_from_stdin()
    limit_process()
    place = place_of(config)
    keys = founded(place, Town(**config["town"]))
    gc.collect()
    runtime = ToldByStdin(log=log)
    serving = LedgerServing(place, keys, ready=lambda _, facts: say(**facts), stopping=lambda: None)
    exit_code = runtime.run(serving.start)
    if serving.failure is not None:
        say(error=str(serving.failure))
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
