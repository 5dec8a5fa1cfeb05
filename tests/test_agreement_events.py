"""Events by type: terminals, spool and ledger hold as many of each, or a sentence says which differ."""

from __future__ import annotations

import copy
from typing import Any

from onecard_agreement import compare
from onecard_agreement_events import EVENT_TYPES
from protocol.codes import RecordType
from tests.test_agreement import artefacts

EVENTS = {"40": 7, "41": 2, "42": 3, "61": 1, "62": 1, "63": 4, "64": 2}


def with_events() -> dict[str, Any]:
    """As `artefacts`, and a door terminal beside the tills."""
    made = artefacts()
    count = sum(EVENTS.values())
    made["terminals"].append(
        {
            "terminal": 3,
            "epochs": [
                {
                    "oldest": 1,
                    "issued": count,
                    "acknowledged": count,
                    "unreadable": [],
                    "merchants": {},
                    "records_by_type": dict(EVENTS),
                }
            ],
        }
    )
    made["spool"]["totals"] += [{"type": int(name, 16), "count": held, "cents": 0} for name, held in EVENTS.items()]
    made["ledger"]["counts"]["identities"] += count
    made["ledger"]["events"] = {
        "by_type": {EVENT_TYPES[int(name, 16)]: {"first": 1, "rest": held - 1} for name, held in EVENTS.items()}
    }
    return made


def test_events_that_agree_are_no_disagreement() -> None:
    found = compare(**with_events())
    assert found.disagreements == []
    assert found.events.by_type.total() == sum(EVENTS.values())


def test_the_names_are_those_of_the_record_types() -> None:
    assert {type_: RecordType(type_).name.lower() for type_ in EVENT_TYPES} == EVENT_TYPES


def test_an_event_that_spool_or_ledger_lacks_is_named_with_all_counts() -> None:
    lost = with_events()
    lost["spool"]["totals"][3]["count"] -= 1
    assert compare(**lost).disagreements == ["access_granted: terminals 7, spool 6, ledger 7"]
    lost = with_events()
    lost["ledger"]["events"]["by_type"]["door_event"]["rest"] += 1
    assert compare(**lost).disagreements == ["door_event: terminals 3, spool 3, ledger 4"]


def test_a_ledger_without_a_table_of_events_is_not_asked() -> None:
    old = with_events()
    del old["ledger"]["events"]
    assert compare(**old).disagreements == []
    old["terminals"][2]["epochs"][0]["records_by_type"]["63"] -= 1
    assert compare(**old).disagreements == ["power: terminals 3, spool 4"]


def test_counts_of_an_overwritten_ring_say_nothing() -> None:
    turned = with_events()
    turned["terminals"][2]["epochs"][0] |= {"oldest": 5, "records_by_type": {"40": 1}}
    assert compare(**turned).disagreements == []


def test_known_gaps_are_not_told_twice() -> None:
    torn = copy.deepcopy(with_events())
    torn["ledger"]["open_items"]["gap"] = {"items": 1, "sequences": 1, "amount_cents": 0, "by_merchant": {}}
    torn["spool"]["totals"][3]["count"] -= 1
    assert compare(**torn).disagreements == []
