"""What two persons decide at the end of the demo: greys, doubts and unproven debits that no card will ever prove (R20).

In a site they look at the card and ask its holder. Here they look at what the simulator's cards really did, which the
ledger never learns in any other way. One proposes, another confirms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onecard_demo_process import Asked, DemoFailed

PERSONS = ("Li", "Wang")
WHY = "the card was looked at"
LOAD = 0x04
"""Record type."""


def decide_by_two_persons(
    ledger: Asked, items: Iterable[Mapping[str, Any]], loads: Mapping[str, Any], dump: Path
) -> int:
    """Decide every open item of suspense and every order still in flight; returns how many. Raises DemoFailed."""
    truth = json.loads((dump / "greys.json").read_text(encoding="utf-8"))["greys"]
    happened = [one for one in truth if one["executed"]]
    spent = {_identity(one) for one in happened if one["attempted_type"] != LOAD}  # the doubt of a load moves nothing,
    loaded = {one["order"] for one in happened if one["attempted_type"] == LOAD}  # its order does
    greys = {_identity(one) for one in truth}
    count = 0
    for order in loads["items"]:
        if order["state"] == "in_flight":
            outcome = "executed" if order["load_order"] in loaded else "not executed"
            _decide(ledger, "load", order["load_order"], outcome)
            count += 1
    for item in items:
        # what is not grey was sold, and set aside only for its amount, or because its terminal had been replaced
        is_spent = _identity(item) in spent if _identity(item) in greys else item["kind"] == "over_limit"
        _decide(ledger, "suspense", item["item"], "spent" if is_spent else "not spent")
        count += 1
    return count


def _identity(one: Mapping[str, Any]) -> tuple[int, int, int]:
    return one["terminal"], one["epoch"], one["sequence"]


def _decide(ledger: Asked, subject: str, item: int, outcome: str) -> None:
    for verb, person in zip(("propose", "confirm"), PERSONS, strict=True):
        request = {"verb": verb, "subject": subject, "item": item, "outcome": outcome, "operator": person}
        told = ledger.ask(request | ({"reason": WHY} if verb == "propose" else {}))
        if not told.get("ok"):
            raise DemoFailed(f"{subject} {item} could not be decided: {told.get('says', told)}")
