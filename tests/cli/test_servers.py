"""`onecard serve` and `onecard ledger serve` as processes: ready lines, ports, locks, signals, control sockets."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import STOP_SECONDS_MAX, environment, onecard_here, onecard_process, serving, wait_until
from tests.cli.conftest import FIRST_CARD, TERMINALS


def test_the_front_end_says_where_it_listens_and_keeps_its_port(site: Path) -> None:
    with serving("serve", "--config", site) as server:
        ready = server.ready
        assert (ready["ready"], ready["pid"], ready["site"]) == ("frontend", server.process.pid, 42)
        host, _, port = ready["address"].rpartition(":")
        assert host == "127.0.0.1"
        assert 20_000 <= int(port) <= 32_767
        with socket.create_connection((host, int(port)), 5):
            pass
        assert stat.S_IMODE(Path(ready["control"]).stat().st_mode) == 0o600
        assert server.stop() == 0
    with serving("serve", "--config", site / "site.toml") as server:
        assert server.ready["address"] == ready["address"]
        assert server.stop(signal.SIGINT) == 0


def test_the_port_is_kept_over_a_kill(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        address = server.ready["address"]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving("serve", "--site", site) as server:
        assert server.ready["address"] == address
        assert server.stop() == 0


def test_a_configured_port_is_used_and_one_in_use_is_refused_in_words(site: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        done = onecard_process("serve", "--site", site, ONECARD_FRONTEND__LISTEN_ADDRESS=address)
        assert done.code == 1
        assert done.out == ""
        assert address in done.err.splitlines()[-1]
    with serving("serve", "--site", site, ONECARD_FRONTEND__LISTEN_ADDRESS=address) as server:
        assert server.ready["address"] == address
        assert server.stop() == 0


def test_a_second_front_end_on_one_data_directory_is_refused(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        done = onecard_process("serve", "--site", site)
        assert done.code == 1
        assert f"in use by process {server.process.pid}" in done.err
        assert onecard_here("status", "--site", site).code == 0
        assert server.stop() == 0


def test_a_second_ledger_is_refused_and_the_first_goes_on(site: Path) -> None:
    with serving("ledger", "serve", "--site", site) as server:
        assert server.ready["ready"] == "ledger"
        assert onecard_process("ledger", "serve", "--site", site).code == 1
        assert onecard_here("ledger", "lost", FIRST_CARD, "--site", site).code == 0
        assert server.stop() == 0


def test_a_list_goes_from_the_ledger_to_the_front_end(site: Path) -> None:
    with serving("ledger", "serve", "--site", site) as books, serving("serve", "--site", site) as server:

        def list_is(version: str) -> bool:
            status = onecard_here("status", "--json", "--site", site).json
            return bool(status["link"]["state"] == "up" and status["lists"]["deny"] == version)

        wait_until(lambda: list_is("1.1"))
        assert onecard_here("ledger", "lost", FIRST_CARD, "--site", site).code == 0
        wait_until(lambda: list_is("1.2"))
        text = onecard_here("status", "--site", site).out
        assert "1.2" in text
        assert f"0 / {TERMINALS}" in text
        assert books.stop() == 0
        wait_until(lambda: onecard_here("status", "--json", "--site", site).json["link"]["state"] != "up")
        assert server.stop() == 0


def test_a_new_enrolment_is_taken_up_without_a_restart(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        assert onecard_here("keys", "enrol", "-n", 2, "--site", site).code == 0

        def enrolled() -> bool:
            status = onecard_here("status", "--json", "--site", site).json
            return bool(status["terminals"]["enrolled"] == TERMINALS + 2)

        wait_until(enrolled)
        assert server.stop() == 0


def test_a_registry_that_cannot_be_read_changes_nothing_and_is_logged(site: Path) -> None:
    log = site / "frontend.log"
    with serving("serve", "--site", site, "--log", log) as server:
        (site / "registry.json").write_text("{}\n")
        wait_until(lambda: "registry.not_taken" in log.read_text())
        assert onecard_here("status", "--json", "--site", site).json["terminals"]["enrolled"] == TERMINALS
        assert server.stop() == 0


def test_fleet_verbs_answer_in_json(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        assert onecard_here("fleet", "list", "--json", "--site", site).json == {"terminals": [], "truncated": False}
        assert onecard_here("fleet", "refused", "--json", "--site", site).json == {"counts": {}, "refused": []}
        assert server.stop() == 0


def test_the_control_socket_stops_the_server(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(server.ready["control"])
            control.sendall(b'{"verb": "stop"}\n')
            assert json.loads(control.recv(4096)) == {"ok": True, "stopping": True}
        assert server.process.wait(STOP_SECONDS_MAX) == 0


def test_the_log_is_lines_of_json_and_names_no_key(site: Path) -> None:
    log = site / "frontend.log"
    with serving("serve", "--site", site, "--log", log) as server:
        wait_until(lambda: "link.down" in log.read_text())
        assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["frontend.ready", "frontend.stopped"]
    assert all(line["process"] == "frontend" for line in lines)
    made = [log, *(path for path in (site / "data" / "frontend").rglob("*") if path.is_file())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert not re.search("[0-9a-f]{32}", log.read_text())


def test_systemd_is_told_ready_and_stopping(site: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(20)
        with serving("ledger", "serve", "--site", site, NOTIFY_SOCKET=address) as server:
            assert notify.recv(100) == b"READY=1"
            assert server.stop() == 0
            assert notify.recv(100) == b"STOPPING=1"


def test_an_unlock_secret_may_come_as_a_systemd_credential(site: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (site / "secrets" / "frontend.unlock").rename(credentials / "frontend.unlock")
    with serving("serve", "--site", site, CREDENTIALS_DIRECTORY=str(credentials)) as server:
        assert server.stop() == 0


def test_the_spool_is_read_beside_the_running_server(site: Path) -> None:
    missing = onecard_here("spool", "totals", "--site", site)
    assert missing.code == 1
    assert "onecard serve" in missing.err
    with serving("serve", "--site", site) as server:
        found = onecard_here("spool", "totals", "--json", "--site", site).json
        assert (found["records"], found["count"], found["amount_cents"]) == (0, 0, 0)
        assert (found["totals"], found["merchants"], found["epochs"]) == ([], [], [])
        assert (found["spool"]["frontend"], found["spool"]["site"]) == (1, 42)
        assert onecard_here("spool", "show", "--json", "--site", site).json == {"rows": []}
        assert onecard_here("spool", "verify", "--json", "--site", site).json == {"sound": True, "findings": []}
        assert server.stop() == 0


def test_a_socket_path_that_is_too_long_is_refused_in_words(site: Path) -> None:
    done = onecard_process("serve", "--site", site, ONECARD_FRONTEND__CONTROL_SOCKET="x" * 120)
    assert done.code == 2
    assert "107 bytes" in done.err


def test_a_data_directory_that_cannot_be_used_is_one_sentence(site: Path) -> None:
    (site / "data" / "frontend").write_text("in the way")
    done = onecard_process("serve", "--site", site)
    assert done.code == 1
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["frontend/spool.db", "ledger/ledger.db"])
def test_a_database_that_is_none_is_exit_code_4(site: Path, name: str) -> None:
    path = site / "data" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(b"no database at all " * 1000)
    done = onecard_process(*(("serve",) if "spool" in name else ("ledger", "serve")), "--site", site)
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("onecard: ")


def test_a_spool_of_another_front_end_is_refused(site: Path) -> None:
    with serving("serve", "--site", site) as server:
        assert server.stop() == 0
    text = (site / "site.toml").read_text(encoding="utf-8").replace("id = 42", "id = 43")
    (site / "site.toml").write_text(text, encoding="utf-8")
    done = onecard_process("serve", "--site", site)
    assert done.code == 4
    assert "site 42" in done.err


def test_what_terminals_sold_is_in_the_spool_and_in_the_books(site: Path) -> None:
    with serving("ledger", "serve", "--site", site) as books, serving("serve", "--site", site) as server:
        address = server.ready["address"]
        run = onecard_process(
            *("sim", "run", "--connect", address, "--site", site, "--terminals", TERMINALS, "--taps", 120),
            *("--rate", 200, "--dump", site / "run", "--json"),
        )
        assert run.code == 0, run.err

        def status() -> dict[str, Any]:
            found: dict[str, Any] = onecard_here("status", "--json", "--site", site).json
            return found

        wait_until(lambda: status()["spool"]["rows"] and not status()["spool"]["rows_unsettled"])
        assert len(onecard_here("fleet", "list", "--json", "--site", site).json["terminals"]) == TERMINALS
        spool = onecard_here("spool", "totals", "--json", "--site", site).json
        report = onecard_here("ledger", "report", "--json", "--site", site).json
        terminals = json.loads((site / "run" / "terminals.json").read_text())["terminals"]
        sold = sum(epoch["running_sum_cents"] for one in terminals for epoch in one["epochs"])
        assert sold > 0
        assert spool["amount_cents"] == report["records"]["amount_cents"] == sold
        assert spool["spool"]["known_position"] <= report["position"]
        shown = onecard_here("spool", "show", "--json", "--limit", 50, "--site", site)
        cards = {record["card"] for row in shown.json["rows"] for record in row["records"] if record["card"]}
        assert cards
        assert all(re.fullmatch("…[0-9]{4}", card) for card in cards)
        assert "purchase" in onecard_here("spool", "totals", "--site", site).out
        assert onecard_here("spool", "verify", "--site", site).code == 0
        assert onecard_here("ledger", "verify", "--site", site).code == 0
        assert (server.stop(), books.stop()) == (0, 0)


def test_children_inherit_no_debug_mode() -> None:
    assert "PYTHONASYNCIODEBUG" not in environment()
