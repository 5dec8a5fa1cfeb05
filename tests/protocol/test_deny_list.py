"""protocol.deny_list: content, look-up, deltas (docs/protocol.md §10, R28)."""

import json
import random
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.deny_list import DenyList, apply_delta, cards_of_lot, lot_of, make_delta
from protocol.errors import Malformed, OutOfRange
from protocol.limits import LIST_ENTRIES_MAX
from tests.hostile import HostileKit, peak_bytes

VECTORS: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[1] / "vectors" / "10_lists.json").read_text(encoding="utf-8"))[
        "cases"
    ]
}


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["bytes"])


BASE = DenyList([100, 200, 300, 4_000_000_000], [7])
NEXT = DenyList([100, 250, 300, 301, 4_000_000_000], [7, 8])

cards = st.sets(st.integers(1, 60) | st.integers(1, 0xFFFF_FFFF), max_size=40)
lots = st.sets(st.integers(0, 20), max_size=10)
lists = st.builds(DenyList, cards, lots)


@pytest.mark.parametrize("which", ["empty", "base", "next"])
def test_content_is_byte_for_byte_the_vector(which: str) -> None:
    case = VECTORS[f"deny list content, {which}"]
    made = DenyList(case["given"]["cards"], case["given"]["lots"])
    content = bytes.fromhex(case["bytes"])
    assert made.content() == content
    assert DenyList.from_content(content) == made
    assert made.digest() == sha256(content).digest()
    assert (list(made.cards), list(made.lots)) == (case["given"]["cards"], case["given"]["lots"])


def test_delta_is_byte_for_byte_the_vector() -> None:
    delta = vector("delta from base to next")
    assert make_delta(BASE, NEXT) == delta
    assert apply_delta(BASE, delta) == NEXT
    assert apply_delta(BASE, delta).content() == vector("deny list content, next")


def test_delta_between_equal_lists_is_sixteen_zero_bytes() -> None:
    nothing = vector("delta that changes nothing")
    assert nothing == bytes(16)
    assert make_delta(BASE, BASE) == nothing
    assert apply_delta(BASE, nothing) == BASE


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("refused: delta")])
def test_delta_that_adds_what_is_there_or_removes_what_is_not_is_wrong(name: str) -> None:
    base = DenyList.from_content(bytes.fromhex(VECTORS[name]["given"]["base_content"]))
    with pytest.raises(Malformed, match="adds what is there"):
        apply_delta(base, vector(name))


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("refused: content")])
def test_content_of_the_refused_vectors_is_malformed(name: str) -> None:
    with pytest.raises(Malformed):
        DenyList.from_content(vector(name))


def test_delta_that_adds_and_removes_the_same_card_is_wrong() -> None:
    for base in (DenyList([5]), DenyList()):
        with pytest.raises(Malformed):
            apply_delta(base, struct.pack("!IIII2I", 1, 1, 0, 0, 5, 5))


@given(lists, lists)
def test_delta_applied_to_its_base_always_gives_the_new_list(old: DenyList, new: DenyList) -> None:
    assert apply_delta(old, make_delta(old, new)) == new


@given(lists, lists, lists)
def test_delta_applied_to_another_base_never_gives_the_new_digest_by_chance(
    old: DenyList, new: DenyList, other: DenyList
) -> None:
    delta = make_delta(old, new)
    try:
        result = apply_delta(other, delta)
    except Malformed:
        return
    assert (result == new) == (result.digest() == new.digest())
    assert DenyList.from_content(result.content()) == result


@given(lists)
def test_contains_exactly_its_cards(deny: DenyList) -> None:
    held = set(deny.cards)
    for card in held | {0, 1, 30, 0xFFFF_FFFF} | {card + 1 for card in held} | {card - 1 for card in held}:
        assert deny.contains(card) == (card in held)
    for lot in range(22):
        assert deny.contains_lot(lot) == (lot in set(deny.lots))


def test_changes_make_a_new_list_and_leave_the_old_one() -> None:
    changed = BASE.with_changes([5, 100], [200, 999], lots_added=[9], lots_removed=[7])
    assert list(changed.cards) == [5, 100, 300, 4_000_000_000]
    assert list(changed.lots) == [9]
    assert list(BASE.cards) == [100, 200, 300, 4_000_000_000]
    with pytest.raises(TypeError):
        BASE.cards[0] = 1


def test_card_number_zero_and_numbers_beyond_u32_are_refused() -> None:
    for wrong in (0, -1, 1 << 32):
        with pytest.raises(OutOfRange):
            DenyList([wrong])
    with pytest.raises(Malformed, match="card number 0"):
        DenyList.from_content(struct.pack("!III", 1, 0, 0))


def test_claimed_counts_are_checked_before_anything_is_copied() -> None:
    for counts in ((0xFFFF_FFFF, 0xFFFF_FFFF), (LIST_ENTRIES_MAX, 1), (0, LIST_ENTRIES_MAX + 1)):
        with pytest.raises(Malformed, match="at most"):
            DenyList.from_content(struct.pack("!II", *counts))
    with pytest.raises(Malformed, match="at most"):
        apply_delta(BASE, struct.pack("!IIII", LIST_ENTRIES_MAX, LIST_ENTRIES_MAX, 1, 0))


def test_list_that_grows_beyond_the_limit_is_refused() -> None:
    full = DenyList(range(1, LIST_ENTRIES_MAX + 1))
    assert len(full) == LIST_ENTRIES_MAX
    with pytest.raises(OutOfRange, match="at most"):
        full.with_changes([LIST_ENTRIES_MAX + 1])
    with pytest.raises(Malformed, match="at most"):
        apply_delta(full, struct.pack("!IIIII", 1, 0, 0, 0, LIST_ENTRIES_MAX + 1))


def test_a_delta_to_ten_thousand_entries_costs_bytes_for_its_changes_alone() -> None:
    seed = 28
    print(f"seed={seed}")
    big = DenyList(random.Random(seed).sample(range(1, 1 << 32), 10_000))
    content = big.content()
    newer = big.with_changes([1, 2, 3], [big.cards[17]])
    delta = make_delta(big, newer)
    assert len(delta) == 16 + 4 * 4
    assert apply_delta(DenyList.from_content(content), delta).digest() == newer.digest()


def test_repr_shows_counts_and_no_card_number() -> None:
    assert repr(BASE) == "DenyList(4 cards, 1 lots)"
    assert hash(DenyList.from_content(BASE.content())) == hash(BASE)
    assert DenyList() != "another thing"


def test_hostile_bytes_in_content_and_delta() -> None:
    content = BASE.content()
    HostileKit(content, DenyList.from_content, length_fields=[(0, 4), (4, 4)]).run_all()
    delta = make_delta(BASE, NEXT)
    HostileKit(delta, lambda data: apply_delta(BASE, data), length_fields=[(at, 4) for at in (0, 4, 8, 12)]).run_all()


def test_a_lot_is_the_1024_numbers_that_share_their_upper_bits() -> None:
    assert (lot_of(1_000_447), lot_of(1_000_448), lot_of(1_001_471), lot_of(1_001_472)) == (976, 977, 977, 978)
    assert cards_of_lot(977) == range(1_000_448, 1_001_472)
    assert lot_of(0xFFFF_FFFF) == 4_194_303


def test_a_card_is_refused_by_its_number_or_by_its_lot() -> None:
    deny = DenyList([5, 4_294_967_295], [977, 4_194_304])
    assert [card for card in (5, 6, 1_000_447, 1_000_448, 1_001_471, 1_001_472) if deny.refuses(card)] == [
        5,
        1_000_448,
        1_001_471,
    ]
    assert deny.refuses(4_294_967_295)
    assert not DenyList([], [4_194_304]).refuses(4_294_967_295)  # beyond every card


@pytest.mark.parametrize("entries", [10_000, 100_000])
def test_long_lists_cost_four_bytes_an_entry_and_a_search(entries: int) -> None:
    lots = entries // 10
    deny = DenyList(range(2, 2 * (entries - lots) + 1, 2), range(1_000_000, 1_000_000 + lots))
    content = deny.content()
    assert len(content) == 8 + 4 * entries
    again = DenyList.from_content(content)
    assert again == deny
    assert again.refuses(2 * (entries - lots))
    assert not again.refuses(1)
    assert again.refuses(cards_of_lot(1_000_000 + lots - 1)[-1])
    assert not again.refuses(cards_of_lot(1_000_000 + lots)[0])
    held = peak_bytes(lambda: DenyList.from_content(content))
    assert held < 3 * len(content)
