"""The example terminal of docs/examples, written from docs/protocol.md alone, against the real processes.

Its key file is made by the program that stands in docs/examples/README.md, so that this is tested as well.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.commands import environment, onecard_process, serving, wait_until
from tests.source_tree import ROOT, Module

EXAMPLES: Final = ROOT / "docs" / "examples"
PROGRAM: Final = EXAMPLES / "terminal.py"
LOST_CARD: Final = 1_000_001
SECONDS_MAX: Final = 120


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ex") / "s"
    for arguments in (
        ("keys", "init", "--site-id", 42),
        ("keys", "enrol", "-n", 1),
        ("ledger", "init"),
        ("keys", "cards", "-n", 2, "--opening", "50.00"),
        ("ledger", "card", "issue"),
    ):
        done = onecard_process(*arguments, "--site", path)
        assert done.code == 0, done.err
    return path


@pytest.fixture
def keys(site: Path, tmp_path: Path) -> Path:
    """The key file, by the README's own program."""
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    program = tmp_path / "make_keys.py"
    program.write_text(blocks[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program, site],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "terminal.json"
    path.write_text(done.stdout, encoding="utf-8")
    return path


def run_example(keys: Path, address: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it isolated (-I), so that it cannot find our packages even if it wanted to."""
    files = ["--keys", str(keys), "--state", str(keys.with_name("state.json"))]
    command = [sys.executable, "-I", str(PROGRAM), *files, "--connect", address, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)


def report(site: Path) -> dict[str, Any]:
    done = onecard_process("ledger", "report", "--json", "--site", site)
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


def status(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = onecard_process("status", "--json", "--site", site).json
    return found


def list_held(site: Path) -> str:
    """What the front-end says that the terminal reported last."""
    (terminal,) = onecard_process("fleet", "list", "--json", "--site", site).json["terminals"]
    return str(terminal["list_version"])


def test_what_it_sells_is_posted_and_a_card_reported_lost_between_runs_is_refused(site: Path, keys: Path) -> None:
    nobody = run_example(keys, "127.0.0.1:9", "--taps", 2, "--new")
    assert nobody.returncode == 3, nobody.stderr
    with serving("ledger", "serve", "--site", site) as books, serving("serve", "--site", site) as server:
        wait_until(lambda: status(site)["lists"]["deny"] == "1.1")
        first = run_example(keys, server.ready["address"], "--taps", 3)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "holding version 1.1 with 0 cards" in first.stdout
        assert "next record is 6; 0 wait" in first.stdout
        assert list_held(site) == "1.1"

        assert onecard_process("ledger", "lost", LOST_CARD, "--site", site).code == 0
        wait_until(lambda: status(site)["lists"]["deny"] == "1.2")
        second = run_example(keys, server.ready["address"], "--taps", 4)
        assert second.returncode == 0, second.stdout + second.stderr
        assert "holding version 1.2 with 1 cards" in second.stdout
        assert second.stdout.count("card is on deny list") == 2
        assert "next record is 10; 0 wait" in second.stdout
        assert list_held(site) == "1.2"

        wait_until(lambda: not status(site)["spool"]["rows_unsettled"])
        found = report(site)
        assert server.stop() == 0
        assert books.stop() == 0
    assert found["counts"]["postings_by_result"] == {"posted": 7, "noted": 2}
    assert (found["counts"]["quarantined"], found["counts"]["duplicates"]) == (0, 0)
    assert [name for name, items in found["open_items"].items() if items["items"]] == []
    state = json.loads(keys.with_name("state.json").read_text(encoding="utf-8"))
    assert (state["next"], state["count"], state["boot"]) == (10, 7, 3)
    assert found["records"]["amount_cents"] == state["sum_cents"]
    assert found["conservation"]["difference_cents"] == 0


def test_it_never_begins_a_second_memory_by_itself(keys: Path) -> None:
    missing = run_example(keys, "127.0.0.1:9", "--taps", 0)
    assert missing.returncode == 2
    assert "--new begins one" in missing.stderr
    assert run_example(keys, "127.0.0.1:9", "--taps", 1, "--new").returncode == 3
    again = run_example(keys, "127.0.0.1:9", "--taps", 1, "--new")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_the_example_imports_nothing_of_ours() -> None:
    module = Module("terminal", PROGRAM.read_text(encoding="utf-8"))
    foreign = {name.partition(".")[0] for name in module.imports} - set(sys.stdlib_module_names)
    assert foreign == {"cryptography"}
    assert not any(isinstance(node, ast.Call) and ast.unparse(node.func) == "exec" for node in ast.walk(module.tree))


# -- what no front-end does on request: lists in pieces, forged lists, questions about old records --------------


class Sent:
    """In the place of the link: what the terminal sent."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.body_bytes_max = 4096

    def send(self, message: bytes) -> None:
        self.messages.append(message)

    def last(self) -> bytes:
        return self.messages[-1]


@pytest.fixture
def terminal(tmp_path: Path) -> Any:
    """A terminal of the vectors' site in this process, with five records of a card."""
    spec = importlib.util.spec_from_file_location("example_terminal", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    card = {"number": 100, "uid": bytes(7), "key_version": 1, "currency": 156, "balance_cents": 5000}
    keys = {"site": 42, "terminal": 1001, "epoch": 1, "merchant": 101, "seal_key": bytes(range(16))}
    keys |= {
        "cards": [card | {"tac_key": bytes(range(16))}],
        "root_public_key": vector("certificate", "root_public_key"),
    }
    state = module.State(1001, 1, b"genesis!")
    made = module.Terminal(keys, tmp_path / "state.json", state, 5)
    made.link = Sent()
    for _ in range(5):
        made.tap()
    return made


def vector(name: str, expected: str = "") -> bytes:
    cases = json.loads((ROOT / "tests" / "vectors" / "10_lists.json").read_text(encoding="utf-8"))["cases"]
    (case,) = [case for case in cases if case["name"] == name]
    return bytes.fromhex(case["expected"][expected] if expected else case["bytes"])


def offer(form: int, size: int, head: bytes, data: bytes, base: tuple[int, int] = (0, 0)) -> bytes:
    start = struct.pack(">BBHIII", 0x85, form, 0, *base, size)
    return start + head + vector("certificate") + data


def test_a_list_in_pieces_goes_on_where_staging_stopped_and_a_delta_follows(terminal: Any) -> None:
    head, content = vector("signed head of the base"), vector("deny list content, base")
    terminal.answer(offer(1, 28, head, content[:10]))
    assert terminal.link.last() == bytes.fromhex("06010100 00000002 00000008 0000000a") + bytes(128)
    terminal.answer(b"\x86\x01\0\0" + struct.pack(">III", 2, 8, 12) + content[12:])  # a hole: not taken
    assert terminal.link.last()[12:16] == bytes.fromhex("0000000a")
    terminal.answer(offer(1, 28, head, content[:14]))  # after a reconnection: overlaps what is staged
    assert terminal.link.last()[12:16] == bytes.fromhex("0000000e")
    terminal.answer(b"\x86\x01\0\0" + struct.pack(">III", 2, 8, 14) + content[14:])
    assert terminal.link.last() == bytes.fromhex("06010000 00000000 00000000 00000000") + head
    following, delta = vector("signed head of the next"), vector("delta from base to next")
    terminal.answer(offer(2, 32, following, delta, (2, 8)))
    assert terminal.link.last() == bytes.fromhex("06010000 00000000 00000000 00000000") + following
    assert terminal.state.content == vector("deny list content, next")
    terminal.answer(offer(1, 28, head, content))  # lower than what it holds
    assert terminal.link.last()[2] == 3


@pytest.mark.parametrize("bit", [0, 33, 128 * 8 - 1])
def test_a_forged_head_is_refused_and_nothing_is_staged(terminal: Any, bit: int) -> None:
    head = int.from_bytes(vector("signed head of the base"), "big") ^ 1 << bit
    terminal.answer(offer(1, 28, head.to_bytes(128, "big"), vector("deny list content, base")))
    assert terminal.link.last() == bytes.fromhex("06010200 00000000 00000000 00000000") + bytes(128)


def test_a_delta_without_its_base_and_wrong_content_are_answered_as_the_page_says(terminal: Any) -> None:
    terminal.answer(offer(2, 32, vector("signed head of the next"), vector("delta from base to next"), (2, 8)))
    assert terminal.link.last()[2] == 4
    terminal.answer(offer(1, 28, vector("signed head of the base"), bytes(28)))
    assert terminal.link.last() == bytes.fromhex("06010500 00000000 00000000 00000000") + bytes(128)


@pytest.mark.parametrize("name", ["not strictly ascending", "one byte short", "one byte long"])
def test_content_that_is_no_list_is_not_taken(terminal: Any, name: str) -> None:
    arrays = type(terminal).tap.__globals__["arrays"]
    with pytest.raises(struct.error):
        arrays(vector(f"refused: content {name}"), 2)


def test_old_records_are_offered_again_and_lost_ones_are_tombstoned(terminal: Any) -> None:
    records = list(terminal.state.records)
    terminal.answer(struct.pack(">BBHIIBBH", 0x82, 0, 1, 5, 0, 4, 0, 0))
    assert (terminal.state.first_unacknowledged, terminal.to_offer) == (6, [])
    del terminal.state.records[:2]  # overwritten
    terminal.answer(struct.pack(">BBHII", 0x83, 0, 1, 1, 9))
    terminal.upload()
    tombstone, upload = terminal.link.messages
    assert tombstone[:16] == bytes.fromhex("04020001 000003e9 00000001 00000002")
    assert upload == bytes.fromhex("02036001") + b"".join(records[2:])
    for sequence, status, seal in (
        (5, 0, records[4][-8:]),
        (2, 0, records[1][-8:]),
        (1, 1, bytes(8)),
        (6, 2, bytes(8)),
    ):
        terminal.answer(struct.pack(">BBHI", 0x81, 0, 1, sequence))
        assert terminal.link.last() == struct.pack(">BBHI", 3, status, 1, sequence) + seal


@pytest.mark.parametrize("message", ["82", "8400", "85", "87", "8101000100000001", "8100000200000001", "99", "820500"])
def test_malformed_messages_end_the_session_with_bye(terminal: Any, message: str) -> None:
    terminal.session = lambda _link: terminal.answer(bytes.fromhex(message))
    with pytest.raises(Exception, match=r"malformed|unknown"):
        terminal.run(terminal.link)
    assert terminal.link.last() == bytes.fromhex("0704")
