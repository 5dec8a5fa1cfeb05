"""`onecard doctor`: looks a site over, and says how to mend what it finds. It reads; it changes nothing.

Exit codes: 0 nothing wrong (warnings may stand), 1 something must be mended, 4 a file is damaged.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from onecard_findings import Finding, Findings, Level
from onecard_host import EXIT_DAMAGED, EXIT_REFUSED, LOCK_FILE, Host

if TYPE_CHECKING:
    from onecard_site import SiteFile

PYTHON_MIN: Final = (3, 11)
SQLITE_MIN: Final = (3, 51, 3)  # the first without the WAL-reset corruption
OPENSSL_MIN: Final = (3, 0, 0)
YEAR_MIN: Final = 2026  # a clock before the program was written is wrong
FREE_SHARE_WARN: Final = 0.20  # R14
FREE_SHARE_REFUSE: Final = 0.05  # R14
SECRET_DIRECTORIES: Final = ("secrets", "offline")

SitePath = Annotated[
    Path, typer.Option("--site", "--config", envvar="ONECARD_SITE", help="The site's directory, or its site.toml.")
]


app = typer.Typer(rich_markup_mode=None)


@app.command("doctor", epilog="\b\nExample:\n  onecard doctor --site canteen")
def doctor(
    context: typer.Context,
    site: SitePath = Path(),
    frontend: Annotated[
        int | None, typer.Option("--frontend", min=1, help="Only this one of several front-ends; else all.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Also try the way to the ledger, and a broker on it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
) -> None:
    """Look a site over: versions, permissions, space, ports, keys, registry, certificate, clock; says how to mend."""
    host = cast(Host, context.obj)
    found = examine(host, site, frontend)
    if link:
        found += examine_link(host, site, frontend)
    worst = {level: sum(one.level is level for one in found) for level in Level}
    if as_json:
        host.emit(
            {
                "healthy": not worst[Level.BAD] and not worst[Level.DAMAGED],
                "counts": {level.value: count for level, count in worst.items()},
                "findings": [one.as_dict() for one in found],
            }
        )
    else:
        host.table("doctor", ["", "check", "finding"], [[one.level.value, one.check, one.says] for one in found])
        for one in found:
            if one.mend:
                host.say(f"{one.level.value}: {one.says}\n  mend: {one.mend}")
        host.say(", ".join(f"{count} {level.value}" for level, count in worst.items() if count))
    if worst[Level.DAMAGED]:
        raise typer.Exit(EXIT_DAMAGED)
    if worst[Level.BAD]:
        raise typer.Exit(EXIT_REFUSED)


def examine(host: Host, path: Path, frontend: int | None = None) -> list[Finding]:
    """Everything that can be said of a site and of one front-end or all of them; a check that cannot be made is a
    finding too.
    """
    from onecard_site import SiteError

    found = [*check_versions(), *check_clock(time.time())]
    try:
        whole = host.site(path)
        sites = list(whole.each_frontend()) if frontend is None else [whole.of_frontend(frontend)]
    except SiteError as error:
        return [*found, Finding("site file", Level.BAD, str(error), "correct that line of the site file")]
    found.append(Finding("site file", Level.OK, f"site {whole.site.id}, {whole.site.name}"))
    for at, site in enumerate(sites):
        more = [one for one in _examined(site) if one not in found]  # what two share is said once
        if at:
            more = [replace(one, says=f"front-end {site.frontend.id}: {one.says}") for one in more]
        found += more
    return found


def examine_link(host: Host, path: Path, frontend: int | None = None) -> list[Finding]:
    """What trying the link of one front-end or all of them finds."""
    from onecard_doctor_link import check_link
    from onecard_site import SiteError

    try:
        whole = host.site(path)
        sites = list(whole.each_frontend()) if frontend is None else [whole.of_frontend(frontend)]
        tried = [(site.frontend.id, list(check_link(host, site))) for site in sites]
    except SiteError as error:
        return [Finding("link", Level.BAD, str(error), "correct that line of the site file")]
    return [
        replace(one, says=f"front-end {number}: {one.says}") if len(tried) > 1 else one
        for number, found in tried
        for one in found
    ]


def _examined(site: SiteFile) -> Findings:
    from onecard_doctor_keys import KEY_CHECKS

    for name, check in (*CHECKS, *KEY_CHECKS):
        try:
            yield from check(site)
        except OSError as error:
            yield Finding(name, Level.BAD, str(error), "make that path readable for the service's user")


# -- this machine


def check_versions() -> Findings:
    import apsw
    from cryptography import __version__ as cryptography_version
    from cryptography.hazmat.backends.openssl.backend import backend

    yield _version("Python", sys.version_info[:3], PYTHON_MIN, "install a newer Python, then `make clean`")
    sqlite = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    yield _version("SQLite", sqlite, SQLITE_MIN, "older ones can corrupt a WAL: pip install --upgrade apsw")
    text = backend.openssl_version_text()
    numbers = [word for word in text.split() if word[0].isdigit()]
    openssl = tuple(int(part) for part in numbers[0].split("-")[0].split(".") if part.isdigit()) if numbers else ()
    yield _version("OpenSSL", openssl, OPENSSL_MIN, "pip install --upgrade cryptography")
    yield Finding("versions", Level.OK, f"cryptography {cryptography_version} with {text}")
    if sys.platform != "linux":
        yield Finding("versions", Level.WARNING, f"{sys.platform}: only Linux is supported", "run it on Linux")


def _version(what: str, got: tuple[int, ...], need: tuple[int, ...], mend: str) -> Finding:
    shown, wanted = (".".join(map(str, each)) for each in (got, need))
    if got >= need:
        return Finding("versions", Level.OK, f"{what} {shown}")
    return Finding("versions", Level.BAD, f"{what} {shown}, at least {wanted} is needed", mend)


def check_clock(now_s: float) -> Findings:
    now = datetime.fromtimestamp(now_s, UTC)
    if now.year < YEAR_MIN:
        yield Finding("clock", Level.BAD, f"it shows {now:%Y-%m-%d}", "set the clock, and let NTP keep it (chrony)")
    else:
        yield Finding("clock", Level.OK, f"{now:%Y-%m-%d %H:%M} UTC")


def check_time_zone(site: SiteFile) -> Findings:
    offset_h = site.utc_offset_ms()(time.time_ns() // 1_000_000) / 3_600_000
    yield Finding("time zone", Level.OK, f"{site.site.time_zone} is UTC{offset_h:+g} h now")


# -- directories


def check_permissions(site: SiteFile) -> Findings:
    private = [site.path(name) for name in SECRET_DIRECTORIES]
    private += [site.path(one).parent for one in (site.frontend.control_socket, site.ledger.admin_socket)]
    private += [site.path(site.frontend.data_dir), site.path(site.ledger.data_dir)]
    wrong = 0
    for directory in dict.fromkeys(private):
        if directory.is_dir():
            for finding in _private(directory, 0o700):
                wrong += 1
                yield finding
    for name in SECRET_DIRECTORIES:
        for pattern in ("*.keystore", "*.unlock"):
            for path in sorted(site.path(name).glob(pattern)):
                for finding in _private(path, 0o600):
                    wrong += 1
                    yield finding
    site_file = site.path("site.toml")
    if site_file.exists() and site_file.stat().st_mode & 0o022:
        wrong += 1
        yield Finding("permissions", Level.BAD, f"{site_file}: others may change it", f"chmod go-w {site_file}")
    if not wrong:
        yield Finding("permissions", Level.OK, "secrets, sockets and data are this user's alone")


def _private(path: Path, mode: int) -> Findings:
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding("permissions", Level.BAD, f"{path}: others may read it", f"chmod {mode:o} {path}")
    if os.geteuid() not in {status.st_uid, 0}:
        yield Finding(
            "permissions", Level.BAD, f"{path} belongs to user {status.st_uid}", f"chown it to user {os.geteuid()}"
        )


def check_space(site: SiteFile) -> Findings:
    for name, value in (("front-end", site.frontend.data_dir), ("ledger", site.ledger.data_dir)):
        directory = site.path(value)
        while not directory.exists():
            directory = directory.parent
        usage = shutil.disk_usage(directory)
        yield space_finding(name, usage.free, usage.total)


def space_finding(name: str, free_bytes: int, total_bytes: int) -> Finding:
    """Free space of one volume against R14."""
    share = free_bytes / max(total_bytes, 1)
    says = f"{name}: {share:.0%} of the volume is free"
    mend = "make room on that volume, or move data_dir to a larger one; terminals keep their records meanwhile"
    if share < FREE_SHARE_REFUSE:
        return Finding("free space", Level.BAD, f"{says}; below 5 % nothing is taken", mend)
    if share < FREE_SHARE_WARN:
        return Finding("free space", Level.WARNING, says, mend)
    return Finding("free space", Level.OK, says)


# -- where it listens


def check_addresses(site: SiteFile) -> Findings:
    from onecard_runtime import split_address
    from onecard_site import SiteError

    for value in (site.frontend.control_socket, site.ledger.link_socket, site.ledger.admin_socket):
        try:
            site.link(value)
        except SiteError as error:
            yield Finding("sockets", Level.BAD, str(error), "move the site to a shorter path, or set shorter sockets")
    ledger_link, link_socket = site.frontend.ledger_link, site.ledger.link_socket
    if not ledger_link.startswith(("mqtt:", "mqtts:")):
        ledger_link, link_socket = str(site.path(ledger_link)), str(site.path(link_socket))
    if ledger_link != link_socket:
        yield Finding(
            "sockets",
            Level.WARNING,
            f"the front-end calls {ledger_link}, the ledger listens on {link_socket}",
            "set [frontend] ledger_link to the same path as [ledger] link_socket, unless the ledger is elsewhere",
        )
    try:
        host, port = split_address(site.frontend.listen_address)
    except ValueError as error:
        yield Finding("port", Level.BAD, str(error), 'set [frontend] listen_address = "0.0.0.0:4700"')
        return
    if is_running(site.path(site.frontend.data_dir)):
        yield Finding("port", Level.OK, "the front-end is running")
        return
    if port == 0:
        kept = site.path(site.frontend.data_dir) / "port"
        port = int(kept.read_text()) if kept.exists() and kept.read_text().strip().isdecimal() else 0
    yield _bindable(host, port)


def _bindable(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                "port",
                Level.BAD,
                f"cannot listen on {host}:{port}: {error.strerror}",
                f"see who has it (ss -ltnp 'sport = {port}'), or choose another port",
            )
    return Finding("port", Level.OK, f"{host}:{port} is free" if port else f"any free port of {host}")


def is_running(data_dir: Path) -> bool:
    """Whether a front-end holds that data directory; as `Host.locked`."""
    import fcntl

    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


CHECKS: Final[tuple[tuple[str, Callable[[SiteFile], Findings]], ...]] = (
    ("time zone", check_time_zone),
    ("permissions", check_permissions),
    ("free space", check_space),
    ("port", check_addresses),
)
