"""`onecard doctor`: a healthy site, and every fault that was planted, each with how to mend it."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from onecard_doctor import SQLITE_MIN, _version, check_clock, space_finding
from onecard_doctor_keys import certificate_finding
from onecard_findings import Level
from onecard_keys import KeyFile
from onecard_site import load_site
from protocol.keystore import Keystore
from protocol.registry import Registry
from tests.cli.commands import onecard_here, serving


def examined(site: Path) -> tuple[int, list[dict[str, str]]]:
    done = onecard_here("doctor", "--json", "--site", site)
    assert done.err == ""
    return done.code, done.json["findings"]


def set_value(site: Path, pattern: str, value: str) -> None:
    path = site / "site.toml"
    changed = re.sub(pattern, value, path.read_text(encoding="utf-8"), count=1)
    assert changed != path.read_text(encoding="utf-8")
    path.write_text(changed, encoding="utf-8")


def change_keys(site: Path, name: str, change: Callable[[Keystore], object]) -> None:
    file = KeyFile.named(site / "secrets", name)
    contents = file.open()
    change(contents)
    file.write(contents)


def damaged_list(site: Path) -> None:
    (site / "lists").mkdir()
    (site / "lists" / "parameters.list").write_bytes(bytes(300))


def without_merchant(site: Path) -> None:
    path = site / "registry.json"
    registry = Registry.parse(path.read_bytes())
    registry.put(replace(registry.terminals[1001], merchant=0))
    path.write_bytes(registry.dump())


def of_another_site(site: Path) -> None:
    path = site / "registry.json"
    registry = Registry.parse(path.read_bytes())
    registry.site = 43
    path.write_bytes(registry.dump())


def newer_key_version(site: Path) -> None:
    path = site / "registry.json"
    registry = Registry.parse(path.read_bytes())
    registry.put(replace(registry.terminals[1002], key_version=9))
    path.write_bytes(registry.dump())


def old_backup(site: Path) -> None:
    directory = site / "data" / "ledger" / "backups"
    directory.mkdir(mode=0o700)
    backup = directory / "ledger.db"
    backup.write_bytes(b"")
    long_ago = time.time() - 9 * 86_400
    os.utime(backup, (long_ago, long_ago))


def truncated(site: Path, name: str) -> None:
    path = site / "secrets" / name
    path.write_bytes(path.read_bytes()[:-20])


FAULTS: dict[str, tuple[Callable[[Path], object], int, str, str]] = {
    "unlock secret readable by others": (
        lambda site: (site / "secrets" / "ledger.unlock").chmod(0o644), 1, "permissions", "chmod 600",
    ),
    "keystore readable by others": (
        lambda site: (site / "secrets" / "sam.keystore").chmod(0o640), 1, "permissions", "chmod 600",
    ),
    "secrets directory open": (lambda site: (site / "secrets").chmod(0o755), 1, "permissions", "chmod 700"),
    "data directory open": (
        lambda site: (site / "data" / "ledger").chmod(0o750), 1, "permissions", "chmod 700",
    ),
    "site file writable by others": (lambda site: (site / "site.toml").chmod(0o666), 1, "permissions", "go-w"),
    "keystore cut short": (lambda site: truncated(site, "ledger.keystore"), 4, "keystores", "backups"),
    "keystore of another secret": (
        lambda site: (site / "secrets" / "frontend.unlock").write_text("x" * 64), 4, "keystores", "backups",
    ),
    "unlock secret missing": (lambda site: (site / "secrets" / "sam.unlock").unlink(), 1, "keystores", "mend"),
    "keystore of another site": (
        lambda site: change_keys(site, "sam", lambda keys: setattr(keys, "site", 43)), 1, "keystores", "own key file",
    ),
    "weak key": (
        lambda site: change_keys(site, "frontend", lambda keys: keys.keys.update(batch_key=bytes(16))),
        1, "keystores", "onecard keys init",
    ),
    "front-ends mixed up": (
        lambda site: set_value(site, r"(?m)^id = 1$", "id = 2"), 1, "keystores", "correct the id",
    ),
    "batch keys differ": (
        lambda site: change_keys(site, "frontend", lambda keys: keys.keys.update(batch_key=os.urandom(16))),
        1, "keystores", "made together",
    ),
    "another root key in the site file": (
        lambda site: set_value(site, 'root_public_key = ".*"', f'root_public_key = "{"ab" * 32}"'),
        4, "certificate", "restore",
    ),
    "registry missing": (lambda site: (site / "registry.json").unlink(), 1, "registry", "enrol"),
    "registry damaged": (lambda site: (site / "registry.json").write_text("x"), 4, "registry", "backup"),
    "registry of another site": (of_another_site, 1, "registry", "own registry"),
    "terminal without merchant": (without_merchant, 1, "registry", "merchant"),
    "terminal of a newer key version": (newer_key_version, 1, "registry", "new key file"),
    "terminal without keys": (
        lambda site: change_keys(site, "terminals", lambda keys: keys.keys.pop("seal.1001.1")),
        1, "registry", "same backup",
    ),
    "published list damaged": (damaged_list, 1, "lists", "keys publish"),
    "backup older than settled rows": (old_backup, 1, "backups", "settled_days"),
    "socket path too long": (
        lambda site: set_value(site, "run/ledger.sock", "x" * 120), 1, "sockets", "shorter",
    ),
    "no address": (
        lambda site: set_value(site, r"127\.0\.0\.1:0", "somewhere"), 1, "port", "listen_address",
    ),
    "address of another machine": (
        lambda site: set_value(site, r"127\.0\.0\.1:0", "192.0.2.1:4700"), 1, "port", "another port",
    ),
    "misspelt setting": (
        lambda site: set_value(site, "listen_address", "listen_adress"), 1, "site file", "correct",
    ),
    "unknown time zone": (
        lambda site: set_value(site, "Asia/Shanghai", "Asia/Nowhere"), 1, "site file", "correct",
    ),
}  # fmt: skip


def test_a_new_site_is_healthy(site: Path) -> None:
    code, found = examined(site)
    assert code == 0
    # how full this machine's disk is, is not the site's doing
    assert {one["level"] for one in found if one["check"] != "free space"} == {"ok"}
    assert {one["check"] for one in found} >= {
        "versions", "clock", "site file", "time zone", "permissions", "free space", "port", "keystores",
        "certificate", "registry", "lists", "backups",
    }  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_how_to_mend_it_is_said(site: Path, fault: str) -> None:
    plant, expected_code, check, mend = FAULTS[fault]
    plant(site)
    code, found = examined(site)
    assert code == expected_code, found
    wrong = [one for one in found if one["level"] in {"bad", "damaged"}]
    assert any(one["check"] == check and mend in one["mend"] for one in wrong), wrong
    assert all(one["mend"] for one in wrong)


def test_a_port_in_use_is_found(site: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        set_value(site, r"127\.0\.0\.1:0", f"127.0.0.1:{holder.getsockname()[1]}")
        code, found = examined(site)
    assert code == 1
    assert any(one["check"] == "port" and "ss -ltnp" in one["mend"] for one in found)


def test_a_running_front_end_is_no_port_in_use(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        code, found = examined(site)
        assert server.stop() == 0
    assert code == 0
    assert any(one["says"] == "the front-end is running" for one in found)


def test_masters_beside_a_networked_server_are_a_warning(site: Path) -> None:
    set_value(site, r"127\.0\.0\.1:0", "0.0.0.0:0")
    code, found = examined(site)
    assert code == 0
    assert any(one["level"] == "warning" and "offline" in one["says"] for one in found)


def test_two_paths_for_one_socket_are_a_warning(site: Path) -> None:
    set_value(site, "run/ledger-link.sock", "run/other.sock")
    code, found = examined(site)
    assert code == 0
    assert any(one["level"] == "warning" and one["check"] == "sockets" for one in found)


def test_the_table_names_the_mend(site: Path) -> None:
    (site / "secrets").chmod(0o755)
    done = onecard_here("doctor", "--site", site)
    assert done.code == 1
    assert f"chmod 700 {site / 'secrets'}" in done.out


@pytest.mark.parametrize(
    ("free_percent", "level"),
    [(50, Level.OK), (20, Level.OK), (19, Level.WARNING), (5, Level.WARNING), (4, Level.BAD), (0, Level.BAD)],
)
def test_free_space_is_judged_as_the_spool_judges_it(free_percent: int, level: Level) -> None:
    assert space_finding("front-end", free_percent, 100).level is level


@pytest.mark.parametrize(("year", "level"), [(1970, Level.BAD), (2025, Level.BAD), (2026, Level.OK), (2040, Level.OK)])
def test_a_clock_before_the_program_was_written_is_wrong(year: int, level: Level) -> None:
    (found,) = check_clock((year - 1970) * 365.2425 * 86_400 + 86_400 * 20)
    assert found.level is level


def test_an_old_library_is_named_with_the_version_that_is_needed() -> None:
    found = _version("SQLite", (3, 40, 1), SQLITE_MIN, "upgrade")
    assert (found.level, found.mend) == (Level.BAD, "upgrade")
    assert "3.40.1, at least 3.51.3" in found.says
    assert _version("SQLite", (3, 51, 3), SQLITE_MIN, "").level is Level.OK


@pytest.mark.parametrize(
    ("days", "level"),
    [(-3, Level.BAD), (10, Level.OK), (1_030, Level.OK), (1_050, Level.WARNING), (1_100, Level.BAD)],
)
def test_the_certificate_is_judged_by_its_days(site: Path, days: int, level: Level) -> None:
    ledger = KeyFile.named(site / "secrets", "ledger").open()
    now_ms = time.time_ns() // 1_000_000
    assert certificate_finding(load_site(site, {}), ledger, now_ms + days * 86_400_000).level is level
