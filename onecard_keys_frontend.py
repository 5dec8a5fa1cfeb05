"""A further front-end (前置机) of a site: `onecard keys frontend add` (R16, R36, docs/frontends.md).

    secrets/ledger.keystore        gains `batch_key.N`, so that the ledger takes that front-end's batches
    secrets/frontend-N.keystore    link masters of the site, and the same batch key
    site.toml                      gains [frontends.N]

In this order, so that an interrupted run is finished by the same command. A batch key that the ledger holds already is
used again: `onecard keys init --frontends N` has made it, or such a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from onecard_keys import OFFLINE, SECRETS, KeyFile, KeysError, fresh_key
from onecard_runtime import RealFiles
from onecard_site import FRONTENDS_MAX, SITE_FILE_NAME, SiteFile, frontend_section
from protocol.keystore import Keystore
from protocol.mac import KEY_BYTES

LINK_MASTER: Final = "link_master."


def add_frontend(site: SiteFile, *, number: int | None = None, listen_address: str = "127.0.0.1:0") -> int:
    """Make keys and section of one more front-end; returns its number, the lowest free one unless given.

    Raises:
        KeysError: the number is taken, or a key file cannot be used.
        SiteError: the site file with it would not do.
    """
    taken = site.numbers()
    if number is None:
        number = next(each for each in range(1, FRONTENDS_MAX + 2) if each not in taken)
    if number in taken:
        raise KeysError(f"front-end {number} is in the site file already")
    ledger_file = KeyFile(site.path(site.ledger.keystore), site.path(site.ledger.unlock))
    ledger = ledger_file.open()
    masters = KeyFile.named(site.path(OFFLINE), "enrolment").open()
    name = f"batch_key.{number}"
    batch_key = ledger.keys.get(name)
    if batch_key is None:
        batch_key = ledger.keys[name] = fresh_key(KEY_BYTES)
        ledger_file.write(ledger)
    own = KeyFile.named(site.path(SECRETS), f"frontend-{number}")
    if own.keystore.exists():
        if own.open().keys.get("batch_key") != batch_key:
            raise KeysError(f"{own.keystore} has another batch key than the ledger; move it away, then do this again")
    else:
        keys = {key: value for key, value in masters.keys.items() if key.startswith(LINK_MASTER)}
        facts = {"frontend": number, "root_public": site.site.root_public_key}
        own.write(Keystore("frontend", site.site.id, keys | {"batch_key": batch_key}, facts))
    _append_section(Path(site.directory) / SITE_FILE_NAME, number, listen_address)
    return number


def _append_section(path: Path, number: int, listen_address: str) -> None:
    text = path.read_text(encoding="utf-8")
    whole = text.rstrip("\n") + "\n" + frontend_section(number, listen_address)
    RealFiles().replace(str(path), whole.encode())
