"""The walls between the packages: who may import whom, and that `protocol` is pure.

    protocol         the pure part of the standard library, cryptography; DES of pycryptodome for old cards
    ledger_sync      protocol
    frontend_server  protocol, ledger_sync.spool, ledger_sync.link;
                     never ledger_sync.ledger, not even transitively
    terminal_sim     protocol
    firmware_tools   protocol

Nobody imports a root module: those compose the packages, not the other way round.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.source_tree import PACKAGES, ROOT, ROOT_MODULES, Module, modules_of, standard_library, within

# Of our own code, what each package may name.
MAY_IMPORT: Final[Mapping[str, tuple[str, ...]]] = {
    "protocol": ("protocol",),
    "ledger_sync": ("ledger_sync", "protocol"),
    "frontend_server": ("frontend_server", "protocol", "ledger_sync.spool", "ledger_sync.link"),
    "terminal_sim": ("terminal_sim", "protocol"),
    "firmware_tools": ("firmware_tools", "protocol"),
}

# Of a package's own modules, what a part of it may not name: the front-end would load it with that part.
MAY_NOT_IMPORT: Final[Mapping[str, tuple[str, ...]]] = {
    "ledger_sync.spool": ("ledger_sync.ledger", "ledger_sync.cli"),
    "ledger_sync.link": ("ledger_sync.ledger", "ledger_sync.cli"),
}

# What importing a whole package may load of our code; the package of spool and link comes along with them.
MAY_LOAD: Final[Mapping[str, tuple[str, ...]]] = {
    **MAY_IMPORT,
    "frontend_server": (*MAY_IMPORT["frontend_server"], "ledger_sync"),
}
NEVER_LOADED: Final[Mapping[str, tuple[str, ...]]] = {"frontend_server": ("ledger_sync.ledger",)}

# Modules without I/O, clock or randomness. No zoneinfo, which reads files: a tzinfo is an argument.
PURE: Final = frozenset(
    "__future__ abc array base64 binascii bisect calendar collections contextlib copy dataclasses datetime"
    " decimal enum fractions functools hashlib heapq hmac itertools json keyword math numbers operator re"
    " string struct textwrap types typing unicodedata zlib".split()
)
PURE_THIRD_PARTY: Final = ("cryptography", "Crypto.Cipher.DES", "Crypto.Cipher.DES3")

# Names that reach out of a pure module although its imports look harmless.
IMPURE_BUILTINS: Final = frozenset(
    {"open", "input", "print", "exec", "eval", "compile", "breakpoint", "__import__", "globals"}
)


def crossings(module: Module) -> Iterator[str]:
    """Imports of our own code that a wall forbids."""
    allowed = MAY_IMPORT[module.package]
    for name, line in module.imports.items():
        if name == "<computed>":
            yield module.at(line, "imports a module whose name is computed; only root modules load lazily")
        elif within(name, *ROOT_MODULES):
            yield module.at(line, f"imports the root module {name}")
        elif within(name, *PACKAGES) and not within(name, *allowed):
            yield module.at(line, f"imports {name}; {module.package} may import only {', '.join(allowed)}")
        for part, forbidden in MAY_NOT_IMPORT.items():
            if within(module.name, part) and within(name, *forbidden):
                yield module.at(line, f"imports {name}, which would load it into the front-end")


def impurities(module: Module) -> Iterator[str]:
    """What keeps a module of `protocol` from being pure."""
    for name, line in module.imports.items():
        top = name.partition(".")[0]
        if standard_library(name):
            if top not in PURE:
                yield module.at(line, f"imports {name}, which is not among the pure modules")
        elif top not in PACKAGES and not within(name, *PURE_THIRD_PARTY):
            yield module.at(line, f"imports {name}; protocol may use {', '.join(PURE_THIRD_PARTY)}")
    for name, line in module.mentions.items():
        if name in IMPURE_BUILTINS:
            yield module.at(line, f"uses {name}: I/O or code made at run time")


LOADED_BY: Final = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not found.name.endswith(".__main__"):
        importlib.import_module(found.name)
print(json.dumps(sorted(sys.modules)))
"""


def loads(package: str, root: Path) -> Iterator[str]:
    """What of our code a fresh interpreter has loaded, against the rules, after importing a whole package."""
    command = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r})\n{LOADED_BY}",
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout)
    assert package in loaded
    for name in loaded:
        if within(name, *PACKAGES, *ROOT_MODULES) and (
            not within(name, *MAY_LOAD[package]) or within(name, *NEVER_LOADED.get(package, ()))
        ):
            yield f"importing all of {package} loads {name}"


# -- the source as it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_walls_allow(package: str) -> None:
    modules = list(modules_of(package))
    assert package in {module.name for module in modules}, f"{package} has no __init__.py: nothing was looked at"
    assert [found for module in modules for found in crossings(module)] == []


def test_protocol_is_pure() -> None:
    assert [found for module in modules_of("protocol") for found in impurities(module)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_loads_only_what_its_walls_allow(package: str) -> None:
    assert list(loads(package, ROOT)) == []


# -- the checks themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("protocol.frames", "import ledger_sync"),
        ("protocol.frames", "from ledger_sync import spool"),
        ("protocol.frames", "import onecard_runtime"),
        ("protocol.frames", "def f():\n    from onecard import main"),
        ("ledger_sync.spool", "import frontend_server"),
        ("ledger_sync.spool", "from .ledger import post"),
        ("ledger_sync.spool", "from . import ledger"),
        ("ledger_sync.link.forwarder", "from ..ledger import books"),
        ("ledger_sync.link", "import ledger_sync.ledger.books as b"),
        ("frontend_server.intake", "import ledger_sync"),
        ("frontend_server.intake", "from ledger_sync import ledger"),
        ("frontend_server.intake", "import ledger_sync.ledger"),
        ("frontend_server.intake", "from ledger_sync.ledger import post"),
        ("frontend_server.intake", "import importlib\nimportlib.import_module('ledger_sync.ledger')"),
        ("frontend_server.intake", "from importlib import import_module as load\nload(name)"),
        ("frontend_server.intake", "__import__(name)"),
        ("frontend_server.intake", "import terminal_sim"),
        ("terminal_sim.fleet", "from ledger_sync.spool import Spool"),
        (
            "terminal_sim.fleet",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import frontend_server",
        ),
        ("firmware_tools.flash", "import terminal_sim.flash"),
    ],
)
def test_a_planted_crossing_is_found(name: str, source: str) -> None:
    assert list(crossings(Module(name, source))) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("protocol.frames", "from protocol import crc\nfrom . import limits"),
        (
            "ledger_sync.ledger",
            "from ledger_sync import spool\nfrom .ledger import books\nimport protocol.records",
        ),
        (
            "frontend_server.intake",
            "from ledger_sync import spool, link\nfrom ledger_sync.spool import Spool",
        ),
        ("frontend_server.intake", "import ledger_sync.link.forwarder"),
        ("terminal_sim.fleet", "from protocol.frames import Frame"),
    ],
)
def test_an_allowed_import_is_not_found(name: str, source: str) -> None:
    assert list(crossings(Module(name, source))) == []


@pytest.mark.parametrize(
    "source",
    [
        *(
            f"import {name}"
            for name in (
                "asyncio socket time random secrets os os.path threading subprocess select ssl logging"
                " sqlite3 uuid pathlib io tempfile importlib zoneinfo sys apsw msgspec structlog"
                " Crypto Crypto.Random"
            ).split()
        ),
        "from time import monotonic",
        "from Crypto.Cipher import AES",
        "def f():\n    import socket",
        "open('x')",
        "reader = open",
        "print('x')",
        "eval('1')",
    ],
)
def test_a_planted_impurity_is_found(source: str) -> None:
    assert list(impurities(Module("protocol.frames", source))) != []


@pytest.mark.parametrize(
    "source",
    [
        "import struct, hmac, hashlib, zlib",
        "from datetime import UTC, datetime\nday = datetime(2024, 1, 1, tzinfo=UTC)",
        "from cryptography.hazmat.primitives.cmac import CMAC",
        "from Crypto.Cipher import DES3",
        "from protocol.errors import RemoteError",
        "def reopen(self): return self.open()",
    ],
)
def test_a_pure_module_is_not_found(source: str) -> None:
    assert list(impurities(Module("protocol.frames", source))) == []


def test_a_planted_transitive_load_is_found(tmp_path: Path) -> None:
    """The link hides its import of the ledger in a string that no syntax tree shows."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "ledger_sync" / "ledger.py").touch()
    (tmp_path / "ledger_sync" / "link.py").write_text("exec('import ledger_' + 'sync.ledger')\n", encoding="utf-8")
    intake = tmp_path / "frontend_server" / "intake.py"
    intake.write_text("from ledger_sync import link\n", encoding="utf-8")
    assert list(loads("frontend_server", tmp_path)) == ["importing all of frontend_server loads ledger_sync.ledger"]
    intake.unlink()
    assert list(loads("frontend_server", tmp_path)) == []
