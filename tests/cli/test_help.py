"""The frame of the command line: help that teaches, lazy loading, exit codes, one sentence per error."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import onecard
from tests.cli.commands import environment, onecard_here, onecard_process
from tests.source_tree import PACKAGES, ROOT

WITHOUT_SITE = (("demo",), ("sim", "show"), ("sim", "cards"))  # one makes its own, two read the dump of a run


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb with the words that lead to it."""
    for name, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "commands", None):
            yield from leaves(inner, (*path, name))
        else:
            yield (*path, name), inner


ALL = [
    pytest.param(path, verb, id=" ".join(path)) for path, verb in leaves(typer.main.get_command(onecard.build(None)))
]


@pytest.mark.parametrize(("path", "verb"), ALL)
def test_every_verb_says_what_it_does_and_gives_an_example_that_parses(path: tuple[str, ...], verb: Any) -> None:
    assert verb.help
    example = verb.epilog.splitlines()[-1].strip()
    words = shlex.split(example)
    assert tuple(words[: 1 + len(path)]) == ("onecard", *path)
    verb.make_context(path[-1], words[1 + len(path) :]).close()


@pytest.mark.parametrize(("path", "verb"), ALL)
def test_every_verb_takes_a_site_and_shows_help(path: tuple[str, ...], verb: Any) -> None:
    done = onecard_here(*path, "--help")
    assert done.code == 0
    assert ("--site" in done.out) == (path not in WITHOUT_SITE)
    assert "Example:" in done.out


def test_the_first_page_names_every_verb_and_the_exit_codes() -> None:
    done = onecard_here("--help")
    assert done.code == 0
    for name in onecard.VERBS:
        assert f"\n  {name} " in done.out
    assert "4 damaged data" in done.out


@pytest.mark.parametrize("group", ["", "keys", "ledger", "ledger card", "spool", "fleet"])
def test_no_line_of_a_list_of_verbs_is_cut_short(group: str) -> None:
    _, _, verbs = onecard_here(*group.split(), "--help").out.partition("Commands:")
    assert verbs
    assert "..." not in verbs


def test_help_loads_no_package_and_no_large_library() -> None:
    program = "import json, sys, onecard; onecard.main(['--help']); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environment()
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    heavy = {"apsw", "cryptography", "structlog", "rich", "msgspec", "asyncio", "uvloop", "pydantic"}
    assert loaded & (heavy | set(PACKAGES)) == set()


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "onecard.py"
    assert onecard_process("--version").out == f"onecard {onecard.__version__}\n"


def test_a_wrong_verb_is_a_usage_error() -> None:
    done = onecard_here("sevre")
    assert done.code == 2
    assert "sevre" in done.err


def test_a_group_without_a_verb_shows_its_help() -> None:
    done = onecard_here("ledger")
    assert done.code == 2
    assert "report" in done.out + done.err


def test_a_missing_site_is_a_usage_error_in_one_sentence(tmp_path: Path) -> None:
    done = onecard_here("serve", "--site", tmp_path / "nowhere")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "onecard keys init" in done.err


def test_the_site_can_stand_in_the_environment(site: Path) -> None:
    done = onecard_process("ledger", "balances", "--json", ONECARD_SITE=str(site))
    assert (done.code, done.err) == (0, "")


def test_a_server_that_is_not_there_is_exit_code_3(site: Path) -> None:
    for verb in (("status",), ("fleet", "list"), ("fleet", "refused")):
        done = onecard_here(*verb, "--site", site)
        assert done.code == 3
        assert "is the server running?" in done.err
        assert done.err.count("\n") == 1


def test_a_damaged_keystore_is_exit_code_4(site: Path) -> None:
    keystore = site / "secrets" / "frontend.keystore"
    sealed = keystore.read_bytes()
    keystore.write_bytes(sealed[:-1] + bytes((sealed[-1] ^ 1,)))
    done = onecard_here("serve", "--site", site)
    assert done.code == 4
    assert done.err.count("\n") == 1


def test_a_damaged_registry_is_exit_code_4(site: Path) -> None:
    (site / "registry.json").write_text("{}\n")
    assert onecard_here("serve", "--site", site).code == 4


def test_an_unlock_secret_that_others_may_read_is_refused(site: Path) -> None:
    (site / "secrets" / "frontend.unlock").chmod(0o644)
    done = onecard_here("serve", "--site", site)
    assert done.code == 1
    assert "chmod 600" in done.err


def test_a_fault_of_ours_is_one_sentence_and_a_traceback_only_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("onecard_host.Host.site", broken)
    done = onecard_here("doctor", "--json")
    assert done.code == 70
    assert done.err == "onecard: a fault in this program: RuntimeError: planted; --debug shows where\n"
    assert "Traceback" in onecard_here("--debug", "doctor").err


def test_a_reader_that_has_gone_is_no_fault(site: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "onecard", "keys", "show", "--site", str(site)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(30)
    assert errors == b""
