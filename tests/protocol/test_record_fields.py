"""A record taken apart: places and names as in docs/protocol.md §7, and no card in what is shown."""

from __future__ import annotations

from itertools import pairwise

import pytest

from protocol.codes import ProofSuite
from protocol.errors import Malformed
from protocol.mac import MacKey
from protocol.record_fields import fields_of, masked_hex
from protocol.records import Body, Completion, RecordHead, Unknown, encode_record
from tests.protocol.samples import aborted, grey, purchase, vector_cases

PURCHASE = bytes.fromhex(next(case["bytes"] for case in vector_cases("07") if case["name"] == "purchase"))
COMPLETION = Completion(1001, 7, 1, 1, 1, 123456, b"\x04" + bytes(range(6)), 1, 500, 0, 9, 156, bytes(8))


def sealed(body: Body, kind: int) -> bytes:
    head = RecordHead(
        type=kind, proof_suite=ProofSuite.AES_CMAC, epoch=1, boot=1, terminal=1, sequence=1, uptime_ds=1, clock_ms=0,
        running_count=0, running_sum_cents=0,
    )  # fmt: skip
    return encode_record(head, body, bytes(8), MacKey(bytes(range(16))))


def test_the_purchase_of_the_protocol_page_is_taken_apart_as_it_stands_there() -> None:
    found = {(one.offset, one.size, one.name): one.value for one in fields_of(PURCHASE)}
    assert found == {
        (0, 1, "type"): "01 purchase",
        (1, 1, "length"): "96",
        (2, 1, "proof_suite"): "01 aes_cmac",
        (3, 1, "body_version"): "0",
        (4, 2, "epoch"): "3",
        (6, 2, "boot"): "5",
        (8, 4, "terminal"): "66051",
        (12, 4, "sequence"): "1",
        (16, 4, "uptime_ds"): "864100",
        (20, 8, "clock_ms"): "0",
        (28 + 4, 8, "running_sum_cents"): "1250 (12.50)",
        (28, 4, "running_count"): "1",
        (40, 4, "merchant"): "501",
        (44, 4, "card"): "…3456",
        (48, 7, "uid"): "…1d80",
        (55, 1, "key_version"): "1",
        (56, 4, "amount_cents"): "1250 (12.50)",
        (60, 4, "balance_after_cents"): "8750 (87.50)",
        (64, 4, "counter"): "101",
        (68, 2, "currency"): "156",
        (70, 1, "card_kind"): "01 aes",
        (72, 8, "proof"): "73d1e5f062b3be0f",
        (80, 8, "predecessor's seal"): "e9a2c9810ac4c93d",
        (88, 8, "seal"): "344dfe963e3e5978",
    }


def test_no_byte_of_card_number_or_uid_stands_in_the_hex() -> None:
    shown = masked_hex(PURCHASE, fields_of(PURCHASE))
    assert len(shown) == 2 * len(PURCHASE)
    assert shown[: 2 * 44] == PURCHASE[:44].hex()
    assert shown[2 * 44 : 2 * 55] == "·" * 22
    assert shown[2 * 55 :] == PURCHASE[55:].hex()


@pytest.mark.parametrize("body", [purchase(), grey(), aborted(), COMPLETION], ids=lambda body: type(body).__name__)
def test_fields_of_every_type_stand_in_order_without_overlap_inside_the_record(body: Body) -> None:
    assert not isinstance(body, Unknown)
    record = sealed(body, body.TYPE)
    found = fields_of(record)
    for before, after in pairwise(found):
        assert before.offset + before.size <= after.offset
    assert found[-1].offset + found[-1].size == len(record)
    assert "123456" not in str([one.value for one in found])


def test_a_body_of_a_later_type_is_not_shown_for_it_may_name_a_card() -> None:
    record = sealed(Unknown(0x44, 0, b"\x11" * 24), 0x44)
    found = fields_of(record)
    assert found[0].value == "44 not known here"
    assert "11111111" not in masked_hex(record, found)
    assert "24 bytes" in next(one.value for one in found if one.name == "body")


def test_a_record_that_is_none_is_refused() -> None:
    for broken in (b"", PURCHASE[:60], PURCHASE + b"\0", b"\0" + PURCHASE[1:]):
        with pytest.raises(Malformed):
            fields_of(broken)
