"""The site file: one TOML file for every process of a site, and the environment on top of it.

    [site]      id, name, time_zone, registry, root_public_key
    [frontend]  id, listen_address, data_dir, keystore, unlock, control_socket, ledger_link, …
    [frontends.2]  the same for a second front-end; what it leaves out is named after its number (docs/frontends.md)
    [ledger]    data_dir, keystore, unlock, link_socket, admin_socket, unproven_limit_cents, …

`ONECARD_FRONTEND__LISTEN_ADDRESS=0.0.0.0:4700` sets one value, `ONECARD_FRONTENDS__2__LISTEN_ADDRESS` one of the
second front-end. Paths are taken from the file's own directory. Secrets
never stand in it, only the paths to them. A mistake is answered by a sentence that names file, section, key and what is
expected.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import structs

SITE_FILE_NAME: Final = "site.toml"
ENVIRONMENT_PREFIX: Final = "ONECARD_"
SITE_FILE_BYTES_MAX: Final = 1 << 20
FRONTENDS_MAX: Final = 100  # as many as `onecard keys init` makes key files for
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of AF_UNIX, less the final zero

Id = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF_FFFF)]
Cents = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class SiteError(Exception):
    """The site file cannot be used; the text says where and what to write instead."""


class SiteSection(msgspec.Struct, forbid_unknown_fields=True):
    """What all processes of a site share."""

    id: Id
    root_public_key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    name: str = "one-card site"
    time_zone: str = "Asia/Shanghai"
    registry: str = "registry.json"


class FrontendSection(msgspec.Struct, forbid_unknown_fields=True):
    """The terminal front-end server (前置机)."""

    id: Id = 1
    listen_address: str = "127.0.0.1:0"
    data_dir: str = "data/frontend"
    keystore: str = "secrets/frontend.keystore"
    unlock: str = "secrets/frontend.unlock"
    control_socket: str = "run/frontend.sock"
    ledger_link: str = "run/ledger-link.sock"
    parameters_file: str = "lists/parameters.list"
    permissions_file: str = "lists/permissions.list"
    connections_max: Count = 12_000
    connections_per_address_max: Count = 12_000
    handshakes_max: Count = 2_000
    handshakes_per_address_max: Count = 2_000
    busy_retry_after_s: Count = 3
    busy_retry_after_s_max: Count = 30
    log_ins_per_second: Count = 800
    intake_frames_max: Count = 6_144
    metrics_address: str = ""
    settled_days: Count = 7


class LedgerSection(msgspec.Struct, forbid_unknown_fields=True):
    """The central ledger, a process of its own."""

    data_dir: str = "data/ledger"
    keystore: str = "secrets/ledger.keystore"
    unlock: str = "secrets/ledger.unlock"
    link_socket: str = "run/ledger-link.sock"
    admin_socket: str = "run/ledger.sock"
    unproven_limit_cents: Cents = 20_000


class SiteFile(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file; `directory` is where relative paths start."""

    site: SiteSection
    frontend: FrontendSection = msgspec.field(default_factory=FrontendSection)
    frontends: dict[str, FrontendSection] = msgspec.field(default_factory=dict)
    ledger: LedgerSection = msgspec.field(default_factory=LedgerSection)
    directory: str = ""

    def numbers(self) -> list[int]:
        """Of every front-end of the file, that of `[frontend]` first."""
        return [self.frontend.id, *sorted(one.id for one in self.frontends.values())]

    def of_frontend(self, number: int | None) -> SiteFile:
        """The site as that front-end sees it: `frontend` is its own section. None: that of `[frontend]`.

        Raises SiteError naming those there are.
        """
        if number is None or number == self.frontend.id:
            return structs.replace(self, frontends={})
        for section in self.frontends.values():
            if section.id == number:
                return structs.replace(self, frontend=section, frontends={})
        there = ", ".join(map(str, self.numbers()))
        raise SiteError(f"there is no front-end {number} in this site file, only {there}")

    def each_frontend(self) -> Iterator[SiteFile]:
        """The site as each of its front-ends sees it."""
        return (self.of_frontend(number) for number in self.numbers())

    def path(self, value: str) -> Path:
        """A path of the file, absolute."""
        return (Path(self.directory) / value).absolute()

    def socket(self, value: str) -> str:
        """A socket path; refused here, in words, when the system could not bind it."""
        path = str(self.path(value))
        if len(path.encode()) > SOCKET_PATH_BYTES_MAX:
            raise SiteError(f"{path}: a socket path may have {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter directory")
        return path

    def root_public_key(self) -> bytes:
        return bytes.fromhex(self.site.root_public_key)

    def utc_offset_ms(self) -> Callable[[int], int]:
        """The site's offset from UTC at an instant, for trade days (R15, R25)."""
        return utc_offset_of(self.site.time_zone)


def utc_offset_of(time_zone: str) -> Callable[[int], int]:
    """`f(utc_ms) -> offset_ms` of an IANA zone; raises SiteError for an unknown one.

    The offset is looked up once per quarter of an hour: zone changes fall on full quarters, and a record must not
    cost a calendar.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise SiteError(f"[site] time_zone: {time_zone!r} is not known; an example is Asia/Shanghai") from error
    quarter_ms = 900_000
    cache: dict[int, int] = {}

    def offset_ms(utc_ms: int) -> int:
        quarter = utc_ms // quarter_ms
        found = cache.get(quarter)
        if found is None:
            if len(cache) > 4096:
                cache.clear()
            delta = datetime.fromtimestamp(quarter * 900, UTC).astimezone(zone).utcoffset()
            found = cache[quarter] = int(delta.total_seconds() * 1000) if delta else 0
        return found

    return offset_ms


def load_site(path: Path, environment: Mapping[str, str]) -> SiteFile:
    """Read a site file (or the one in a directory) and lay the environment over it; raises SiteError."""
    if path.is_dir():
        path = path / SITE_FILE_NAME
    try:
        if path.stat().st_size > SITE_FILE_BYTES_MAX:
            raise SiteError(f"{path}: larger than {SITE_FILE_BYTES_MAX} bytes: not a site file")
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SiteError(f"{path}: no such file; `onecard keys init --site DIR` makes one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SiteError(f"{path}: {error}") from error
    _overlay(tree, environment)
    try:
        _name_frontends(tree)
        site = msgspec.convert(tree, SiteFile, strict=True)
        _keep_apart(site)
    except msgspec.ValidationError as error:
        raise SiteError(f"{path}: {_readable(str(error))}") from error
    except SiteError as error:
        raise SiteError(f"{path}: {error}") from None
    site.directory = str(path.parent.absolute())
    site.utc_offset_ms()
    return site


def frontend_section(number: int, listen_address: str = "127.0.0.1:0") -> str:
    """The text of one more front-end's section, with every name spelt out."""
    return f"""
[frontends.{number}]                             # 前置机 {number}: onecard serve --frontend {number}
listen_address = "{listen_address}"
data_dir = "data/frontend-{number}"
keystore = "secrets/frontend-{number}.keystore"
unlock = "secrets/frontend-{number}.unlock"
control_socket = "run/frontend-{number}.sock"
"""


def _overlay(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        value = int(text) if text.isdecimal() else text
        if section in ("site", "frontend", "ledger"):
            tree.setdefault(section, {})[key] = value
        elif section == "frontends":
            number, _, key = key.partition("__")
            tree.setdefault(section, {}).setdefault(number, {})[key] = value


def _name_frontends(tree: dict[str, Any]) -> None:
    """Give every `[frontends.N]` its number, and what it leaves out a name of its own; raises SiteError."""
    others = tree.get("frontends")
    if not isinstance(others, dict):
        return  # a mistake that the conversion puts into words
    if len(others) >= FRONTENDS_MAX:
        raise SiteError(f"[frontends]: a site has at most {FRONTENDS_MAX} front-ends")
    first = tree.get("frontend", {})
    for name, section in others.items():
        if not isinstance(section, dict):
            continue
        if not name.isdecimal() or section.setdefault("id", int(name)) != int(name):
            raise SiteError(f"[frontends.{name}]: the section's name is the front-end's number, as in [frontends.2]")
        section.setdefault("data_dir", f"data/frontend-{name}")
        section.setdefault("keystore", f"secrets/frontend-{name}.keystore")
        section.setdefault("unlock", f"secrets/frontend-{name}.unlock")
        section.setdefault("control_socket", f"run/frontend-{name}.sock")
        if isinstance(first, dict) and "ledger_link" in first:
            section.setdefault("ledger_link", first["ledger_link"])


def _keep_apart(site: SiteFile) -> None:
    """Two front-ends with one number, spool, key file, socket or port would each undo the other; raises SiteError."""
    sections = [site.frontend, *site.frontends.values()]
    for key in ("id", "data_dir", "keystore", "control_socket", "listen_address", "metrics_address"):
        values = [value for one in sections if (value := getattr(one, key)) != ""]
        shared = next((value for value in values if values.count(value) > 1), None)
        if shared is not None and not str(shared).endswith(":0"):  # port 0 is a free one for each
            raise SiteError(f"two front-ends have {key} {shared}; each needs its own")


def _readable(message: str) -> str:
    """Msgspec's "… - at `$.frontend.id`" with the path in front, as it stands in the file."""
    text, _, where = message.partition(" - at `$.")
    if not where:
        return text
    section, _, key = where.rstrip("`").partition(".")
    return f"[{section}] {key}: {text}" if key else f"[{section}]: {text}"
