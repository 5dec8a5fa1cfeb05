"""protocol.documents: the one form of parameters and permissions (docs/protocol.md §10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.documents import canonical, read_any, read_canonical
from protocol.errors import Malformed, OutOfRange
from protocol.limits import DOCUMENT_BYTES_MAX
from tests.hostile import HostileKit

VECTORS: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[1] / "vectors" / "10_lists.json").read_text(encoding="utf-8"))[
        "cases"
    ]
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
SMALL = b'{"a":1,"b":[2,"\xe5\x8d\x88"]}'


def test_canonical_form_is_that_of_the_vector() -> None:
    case = VECTORS["parameters, canonical"]
    content = bytes.fromhex(case["bytes"])
    assert canonical(case["given"]["document"]) == content
    assert read_canonical(content) == case["given"]["document"]


def test_a_person_may_write_blanks_and_any_order_of_keys() -> None:
    assert canonical(read_any(b'{ "b": [2, "\\u5348"],\n "a": 1 }')) == SMALL


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1, "b":2}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":-0}',
        b'{"a":9223372036854775808}',
        b'{"a":"\\u0061"}',
        b'{"a":"\\ud800"}',
        b"[1]",
        b"1",
        b"",
        b"\xef\xbb\xbf{}",
        b"{}\n",
        b'{"a":"\xff"}',
        b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        b'{"a":' + b"9" * 20_000 + b"}",
        b'{"a":"' + b"x" * DOCUMENT_BYTES_MAX + b'"}',
    ],
    ids=lambda content: repr(content[:16]),
)
def test_any_other_form_is_refused(content: bytes) -> None:
    with pytest.raises(Malformed):
        read_canonical(content)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), VALUES, max_size=5))
def test_what_is_made_canonical_is_read_back(document: dict[str, Any]) -> None:
    try:
        content = canonical(document)
    except OutOfRange:
        content = canonical({"too": "odd"})
        document = {"too": "odd"}
    assert read_canonical(content) == document


@pytest.mark.parametrize("value", [1.5, 2**63, b"x", "\ud800", {1: 2}, "x" * DOCUMENT_BYTES_MAX])
def test_what_canonical_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(OutOfRange):
        canonical({"a": value})


def test_hostile_documents() -> None:
    HostileKit(SMALL, read_canonical, bytes_max=DOCUMENT_BYTES_MAX).run_all()
