"""What `onecard doctor` looks at in key files, certificate, registry and backups. It reads; it changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ledger_sync.ledger.keys import LedgerKeys
from onecard_findings import Finding, Findings, Level
from onecard_keys import OFFLINE, SECRETS, KeyFile, KeysError, weak_key
from protocol.codes import TerminalKind
from protocol.errors import ProtocolError
from protocol.registry import Registry
from protocol.signed import verify_certificate

if TYPE_CHECKING:
    from onecard_site import SiteFile
    from protocol.keystore import Keystore

CERTIFICATE_DAYS_WARN: Final = 60
MS_PER_DAY: Final = 86_400_000
BACKUPS: Final = "backups"
LISTED_MAX: Final = 5


def check_keys(site: SiteFile) -> Findings:

    frontend = KeyFile(site.path(site.frontend.keystore), site.path(site.frontend.unlock))
    ledger = KeyFile(site.path(site.ledger.keystore), site.path(site.ledger.unlock))
    opened: dict[str, Keystore] = {}
    for kind, file in (("frontend", frontend), ("ledger", ledger)):
        if not file.keystore.exists():
            yield Finding(
                "keystores",
                Level.WARNING,
                f"{file.keystore} is not here",
                f"right if the {kind} runs on another machine; else copy it with its unlock secret from where "
                "`onecard keys init` was run",
            )
    files = {file.keystore: file for file in (frontend, ledger) if file.keystore.exists()}
    for place in (SECRETS, OFFLINE):
        files |= {path: KeyFile.named(path.parent, path.stem) for path in sorted(site.path(place).glob("*.keystore"))
                  if path not in files}  # fmt: skip
    for path, file in files.items():
        contents, findings = _opened(site, file)
        yield from findings
        if contents is not None and path in {frontend.keystore, ledger.keystore}:
            opened["frontend" if path == frontend.keystore else "ledger"] = contents
    if site.path(OFFLINE).is_dir() and not site.frontend.listen_address.startswith("127."):
        yield Finding(
            "keystores",
            Level.WARNING,
            f"the masters in {site.path(OFFLINE)} are on a machine that listens on a network",
            "move that directory to a machine that is not connected; no server needs it",
        )
    yield from _check_pair(site, opened.get("frontend"), opened.get("ledger"))


def _opened(site: SiteFile, file: KeyFile) -> tuple[Keystore | None, list[Finding]]:
    """Open one keystore; it must belong to this site and hold no key that anybody would try first."""
    try:
        contents = file.open()
    except KeysError as error:
        level = Level.DAMAGED if isinstance(error.__context__, ProtocolError) else Level.BAD
        mend = "restore keystore and unlock secret together from their backups" if level is Level.DAMAGED else ""
        return None, [Finding("keystores", level, str(error), mend or "mend that file's name or mode")]
    except OSError as error:
        return None, [Finding("keystores", Level.BAD, str(error), f"restore {file.unlock} from its backup")]
    if contents.site != site.site.id:
        says = f"{file.keystore} is of site {contents.site}, this is site {site.site.id}"
        return None, [Finding("keystores", Level.BAD, says, "put this site's own key file there")]
    weak = sorted(name for name, key in contents.keys.items() if weak_key(key))
    if weak:
        says = f"{file.keystore}: {', '.join(weak[:LISTED_MAX])} is a pattern, not a secret"
        return contents, [Finding("keystores", Level.BAD, says, "make new keys with `onecard keys init`")]
    return contents, [Finding("keystores", Level.OK, f"{file.keystore.name}: {len(contents.keys)} keys")]


def _check_pair(site: SiteFile, frontend: Keystore | None, ledger: Keystore | None) -> Findings:
    number = site.frontend.id
    if frontend is not None:
        if frontend.facts.get("frontend") != number:
            yield Finding(
                "keystores",
                Level.BAD,
                f"the front-end's keystore is of front-end {frontend.facts.get('frontend')}, [frontend] id is {number}",
                "use the key file of that front-end, or correct the id",
            )
        if frontend.facts.get("root_public") != site.site.root_public_key:
            says = "the front-end's keystore and the site file name different root keys"
            yield Finding("keystores", Level.BAD, says, "restore root_public_key in the site file from a backup")
    if ledger is None:
        return
    if frontend is not None and ledger.keys.get(f"batch_key.{number}") != frontend.keys.get("batch_key"):
        says = f"front-end {number} and ledger hold different batch keys: no batch would be taken"
        yield Finding("keystores", Level.BAD, says, "use key files that were made together")
    mend = "restore root_public_key in the site file, or the ledger's keystore, from a backup"
    try:
        yield certificate_finding(site, ledger, time.time_ns() // 1_000_000)
    except (ProtocolError, KeyError, ValueError) as error:
        yield Finding("certificate", Level.DAMAGED, f"it cannot be used: {error}", mend)


def certificate_finding(site: SiteFile, ledger: Keystore, now_ms: int) -> Finding:
    """Whether terminals and front-ends will take what this ledger signs. Raises ProtocolError if it is damaged."""
    certificate = LedgerKeys.from_keystore(ledger).certificate
    mend = "certify the signing key anew, where the root key is kept, before the link stops"
    verify_certificate(certificate, site.root_public_key(), site=site.site.id, now_ms=None)
    days = (certificate.valid_to_ms - now_ms) // MS_PER_DAY
    until = f"{datetime.fromtimestamp(certificate.valid_to_ms / 1000, UTC):%Y-%m-%d}"
    if now_ms < certificate.valid_from_ms:
        return Finding(
            "certificate", Level.BAD, "not valid yet: the clock is behind, or it was made by one ahead", mend
        )
    if days < 0:
        return Finding("certificate", Level.BAD, f"the ledger's certificate has ended on {until}", mend)
    if days < CERTIFICATE_DAYS_WARN:
        return Finding("certificate", Level.WARNING, f"the ledger's certificate ends on {until}", mend)
    return Finding("certificate", Level.OK, f"valid until {until}")


def check_registry(site: SiteFile) -> Findings:

    path = site.path(site.site.registry)
    try:
        registry = Registry.parse(path.read_bytes())
    except FileNotFoundError:
        yield Finding("registry", Level.BAD, f"{path} is not here", "copy it from where `onecard keys enrol` is run")
        return
    except ProtocolError as error:
        yield Finding("registry", Level.DAMAGED, f"{path}: {error}", "restore it from a backup")
        return
    if registry.site != site.site.id:
        says = f"{path} is of site {registry.site}, this is site {site.site.id}"
        yield Finding("registry", Level.BAD, says, "put this site's own registry there")
        return
    wrong = _without_merchant(registry)
    for name, key_file in (
        ("terminals", KeyFile.named(site.path(SECRETS), "terminals")),
        ("frontend", KeyFile(site.path(site.frontend.keystore), site.path(site.frontend.unlock))),
    ):
        if key_file.keystore.exists():
            try:
                wrong += _against_keys(registry, name, key_file.open())
            except (KeysError, OSError):
                continue  # said by the check of the keystores
    yield from wrong
    if not wrong:
        yield Finding("registry", Level.OK, f"{len(registry)} terminals")


def _without_merchant(registry: Registry) -> list[Finding]:
    names = [str(one.terminal) for one in registry if one.kind in {TerminalKind.POS, TerminalKind.MEAL}
             and not one.merchant]  # fmt: skip
    if not names:
        return []
    says = f"{len(names)} selling terminals have no merchant: {', '.join(names[:LISTED_MAX])}"
    return [Finding("registry", Level.BAD, says, "give each a merchant in the registry")]


def _against_keys(registry: Registry, name: str, keys: Keystore) -> list[Finding]:
    """Every terminal must find the keys that it will use."""
    if name == "terminals":
        missing = [one.terminal for one in registry if f"link.{one.terminal}.{one.epoch}" not in keys.keys
                   or f"seal.{one.terminal}.{one.epoch}" not in keys.keys]  # fmt: skip
        says, mend = "have no keys in terminals.keystore", "restore registry and keystore from the same backup"
    else:
        held = keys.versions("link_master")
        missing = [one.terminal for one in registry if one.key_version not in held]
        says, mend = "need a link master version that the front-end has not", "give the front-end its new key file"
    if not missing:
        return []
    shown = ", ".join(map(str, missing[:LISTED_MAX]))
    return [Finding("registry", Level.BAD, f"{len(missing)} terminals {says}: {shown}", mend)]


# -- published lists


def check_lists(site: SiteFile) -> Findings:
    """What the front-end would refuse to take up (R27)."""
    from onecard_lists import published

    found = [one for one in published(site) if one.is_served]
    for one in found:
        if one.fault:
            name = one.kind.name.lower()
            yield Finding("lists", Level.BAD, one.fault, f"publish it anew: onecard keys publish {name} FILE.json")
    if not any(one.fault for one in found):
        shown = ", ".join(f"{one.kind.name.lower()} {one.version[0]}.{one.version[1]}" for one in found)
        yield Finding("lists", Level.OK, shown or "no parameters or permissions were published")


# -- backups


def check_backups(site: SiteFile) -> Findings:
    """R15: settled rows must outlive the oldest backup of the ledger that one would restore."""
    days = site.frontend.settled_days
    directory = site.path(site.ledger.data_dir) / BACKUPS
    kept = [path for path in directory.glob("*") if path.is_file()] if directory.is_dir() else []
    if not kept:
        says = f"settled rows stay {days} days; no backups of the ledger in {directory}"
        yield Finding("backups", Level.OK, says)
        return
    oldest = (time.time() - min(path.stat().st_mtime for path in kept)) / 86_400
    if oldest >= days:
        yield Finding(
            "backups",
            Level.BAD,
            f"the oldest backup of the ledger is {oldest:.1f} days old, settled rows stay {days} days",
            f"remove backups older than {days} days, or raise [frontend] settled_days above {oldest:.0f}",
        )
    else:
        yield Finding("backups", Level.OK, f"{len(kept)} backups, the oldest {oldest:.1f} of {days} days")


KEY_CHECKS: Final[tuple[tuple[str, Callable[[SiteFile], Findings]], ...]] = (
    ("keystores", check_keys),
    ("registry", check_registry),
    ("lists", check_lists),
    ("backups", check_backups),
)
