"""What the README and the READMEs of packages name exists: a promise without its test is a word."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"))
)
TEST_REFERENCE: Final = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LINK: Final = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    for name, function in TEST_REFERENCE.findall((ROOT / page).read_text(encoding="utf-8")):
        path = ROOT / name
        assert path.is_file(), f"{page} names {name}"
        assert not function or function in functions_of(path), f"{page} names {name}::{function}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_every_promise_of_the_readme_names_a_test() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| promise | held by |") : text.index("Not promised, and said so")]
    promises = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(promises) >= 9
    for line in promises:
        assert TEST_REFERENCE.search(line), line
