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


def decide_by_two_persons(
    ledger: Asked, items: Iterable[Mapping[str, Any]], loads: Mapping[str, Any], dump: Path
) -> int:
    """Decide every open item of suspense and every order still in flight; returns how many. Raises DemoFailed."""
    truth = json.loads((dump / "greys.json").read_text(encoding="utf-8"))
    executed = {(one["terminal"], one["epoch"], one["sequence"]): one["executed"] for one in truth["greys"]}
    count = 0
    for item in items:
        identity = (item["terminal"], item["epoch"], item["sequence"])
        # what is not grey was sold, and set aside only for its amount
        outcome = "spent" if executed.get(identity, item["kind"] == "over_limit") else "not spent"
        _decide(ledger, "suspense", item["item"], outcome)
        count += 1
    for order in loads["items"]:
        if order["state"] == "in_flight":
            _decide(ledger, "load", order["load_order"], "not executed")
            count += 1
    return count


def _decide(ledger: Asked, subject: str, item: int, outcome: str) -> None:
    for verb, person in zip(("propose", "confirm"), PERSONS, strict=True):
        request = {"verb": verb, "subject": subject, "item": item, "outcome": outcome, "operator": person}
        told = ledger.ask(request | ({"reason": WHY} if verb == "propose" else {}))
        if not told.get("ok"):
            raise DemoFailed(f"{subject} {item} could not be decided: {told.get('says', told)}")
