"""The project's own source, read as syntax trees: what test_walls.py and test_seams.py look at.

A `Module` knows three things about a source text: which modules it imports, which dotted names it mentions
(aliases resolved: after `from datetime import datetime as d`, `d.now` is `datetime.datetime.now`), and which
string literals it contains that are no docstrings.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("protocol", "ledger_sync", "frontend_server", "terminal_sim", "firmware_tools")
# Named ones first, so that a wall stands before its module does.
ROOT_MODULES: Final = frozenset(
    {"onecard", "onecard_demo", "onecard_doctor", "onecard_keys", "onecard_runtime"}
    | {path.stem for path in ROOT.glob("onecard*.py")}
)

IMPORTING_FUNCTIONS: Final = ("import_module", "__import__")


@dataclass(frozen=True)
class Module:
    """One source text under its dotted name (`protocol`, `protocol.frames`)."""

    name: str
    source: str
    is_package: bool = False

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.name)

    @cached_property
    def _bindings(self) -> dict[str, str]:
        """Local name to the dotted name it was imported from, wherever in the module the import stands."""
        bound: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    bound[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    bound[alias.asname or alias.name] = f"{self._from(node)}.{alias.name}"
        return bound

    def _from(self, node: ast.ImportFrom) -> str:
        """The absolute module that a `from` import names."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + (1 if self.is_package else 0)]
        return ".".join([*base, node.module] if node.module else base)

    @cached_property
    def imports(self) -> dict[str, int]:
        """Every imported dotted name with its line; `from a import b` is `a.b`, since b may be a module.

        A module named in a string for `importlib` counts too; a name that only the run knows is `<computed>`.
        """
        found: dict[str, int] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name: node.lineno for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{self._from(node)}.{alias.name}": node.lineno for alias in node.names}
            elif isinstance(node, ast.Call):
                callee = self._dotted(node.func) or ""
                if callee.rpartition(".")[2] in IMPORTING_FUNCTIONS:
                    first = node.args[0] if node.args else None
                    literal = first.value if isinstance(first, ast.Constant) else None
                    found[literal if isinstance(literal, str) else "<computed>"] = node.lineno
        return found

    def _dotted(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._bindings.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self._dotted(node.value)
            return f"{owner}.{node.attr}" if owner else None
        return None

    @cached_property
    def mentions(self) -> dict[str, int]:
        """Every dotted name that is read or imported, with its line."""
        found = dict(self.imports)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
                dotted = self._dotted(node)
                if dotted:
                    found.setdefault(dotted, node.lineno)
        return found

    @cached_property
    def literals(self) -> list[tuple[str, int]]:
        """Every string literal with its line, docstrings left out; the holes of an f-string read as `?`."""
        skipped: set[int] = set()
        found: list[tuple[str, int]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skipped.add(id(node.value))
            elif isinstance(node, ast.JoinedStr):
                skipped |= {id(part) for part in node.values}
                parts = (str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
                found.append(("".join(parts), node.lineno))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                found.append((node.value, node.lineno))
        return found

    def at(self, line: int, message: str) -> str:
        return f"{self.name}:{line}: {message}"


def within(name: str, *prefixes: str) -> bool:
    """Whether a dotted name is one of these modules or lies inside one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def standard_library(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def modules_of(package: str, root: Path = ROOT) -> Iterator[Module]:
    """Every module of one of our packages, as it lies on disk."""
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, path.read_text(encoding="utf-8"), is_package)
