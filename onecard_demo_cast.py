"""Who plays in the demo: terminals of every kind and both suites, cards of every kind, what they are told, two lists.

    of 20 terminals   1 door, 2 meal, 1 load station, the rest tills, every fifth of those in suite B (SM4, 国密)
    of 10 cards       8 AES, 1 memory card, 1 PBOC purse
    of the front-ends terminals are shared out between them and move over

Few terminals are tills alone: a kind needs one at least.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onecard_demo_process import asking, run_onecard
from onecard_keys import enrol, init_site, personalise
from onecard_site import SiteFile, load_site
from protocol.codes import ProofSuite, Suite, TerminalKind
from protocol.permission_parts import DOORS_MAX

SITE_NUMBER: Final = 1
FRONTENDS: Final = 2
FRONTENDS_MAX: Final = 8
MERCHANTS: Final = 5
OPENING_CENTS: Final = 50_000
CARDS_MIN: Final = 100
TAPS_PER_CARD: Final = 20
KINDS_FROM_TERMINALS: Final = 8  # fewer are tills alone
DOOR_TERMINALS_MAX: Final = DOORS_MAX // 3  # the entrance, its inside and an office each
ORDERS_SHARE: Final = 0.6  # of the taps that come to load stations: most who come have paid at the counter
ORDERS_MAX: Final = 600
ORDER_CENTS: Final = 2_000
PUBLISH: Final = {"parameters": "parameters.json", "permissions": "permissions.json"}


@dataclass(slots=True)
class Cast:
    """The terminals by kind and the cards by kind."""

    terminals: dict[str, int] = field(default_factory=dict)
    stations: list[int] = field(default_factory=list)
    doors: list[int] = field(default_factory=list)
    suite_b: int = 0
    first_card: int = 0
    cards: dict[str, int] = field(default_factory=dict)
    load_orders: int = 0

    @property
    def selling(self) -> int:
        """Terminals that customers with a card and a wish come to."""
        return sum(count for kind, count in self.terminals.items() if kind != "door")


def shares(terminals: int) -> dict[str, int]:
    """Kind → how many of `terminals`; they sum to it."""
    if terminals < KINDS_FROM_TERMINALS:
        return {"pos": terminals}
    few, some = max(1, terminals // 20), max(1, terminals // 10)
    doors = min(few, DOOR_TERMINALS_MAX)
    return {"pos": terminals - few - doors - some, "meal": some, "load_station": few, "door": doors}


def prepare(directory: Path, *, terminals: int, taps: int, frontends: int) -> Cast:
    """Site, keys, terminals, cards, published lists: all that is made before anything runs."""
    now_ms = time.time_ns() // 1_000_000
    init_site(directory, site=SITE_NUMBER, frontends=frontends, time_zone="Asia/Shanghai", now_ms=now_ms)
    site = load_site(directory, {})
    cast = Cast(terminals=shares(terminals))
    _enrol(site, cast)
    count = max(CARDS_MIN, taps // TAPS_PER_CARD)
    cast.cards = {"aes": count - 2 * (count // 10), "memory": count // 10, "pboc": count // 10}
    cast.first_card = personalise(
        site, count=count, opening_cents=OPENING_CENTS, memory=cast.cards["memory"], pboc=cast.cards["pboc"]
    )
    documents = {"parameters": _parameters(cast.first_card), "permissions": _permissions(cast.doors)}
    for kind, document in documents.items():
        if kind == "parameters" or cast.doors:
            path = directory / PUBLISH[kind]
            path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
            run_onecard(directory, "keys", "publish", kind, str(path))
    return cast


def order_loads(directory: Path, cast: Cast, *, taps: int) -> Path | None:
    """Cash comes in at the counter: load orders in the running ledger, and the file that the stations read."""
    if not cast.stations:
        return None
    expected = int(taps * len(cast.stations) / cast.selling * ORDERS_SHARE)
    cards = sum(cast.cards.values())
    orders = max(1, min(ORDERS_MAX, expected, cards))
    with asking(directory / "run" / "ledger.sock") as ledger:
        for number in range(orders):
            station = cast.stations[number % len(cast.stations)]
            card = cast.first_card + number * cards // orders  # evenly, so that cards of every kind come
            request = {"verb": "topup", "card": card, "amount_cents": ORDER_CENTS}
            told = ledger.ask(request | {"station": station, "operator": "counter"})
            cast.load_orders += bool(told.get("ok"))
    path = directory / "orders.jsonl"
    exported = (run_onecard(directory, "ledger", "loads", "export", "--station", str(one)) for one in cast.stations)
    path.write_text("".join(exported), encoding="utf-8")
    return path


def _enrol(site: SiteFile, cast: Cast) -> None:
    for kind, count in cast.terminals.items():
        of_suite_b = count // 5 if kind == "pos" else 0
        merchants = min(MERCHANTS, count)
        made = enrol(site, count=count - of_suite_b, kind=TerminalKind[kind.upper()], merchants=merchants)
        if of_suite_b:
            enrol(
                site,
                count=of_suite_b,
                kind=TerminalKind.POS,
                merchants=min(MERCHANTS, of_suite_b),
                suite=Suite.B,
                proof_suite=ProofSuite.SM4_CMAC,
            )
            cast.suite_b = of_suite_b
        if kind == "load_station":
            cast.stations = made
        if kind == "door":
            cast.doors = made


def _parameters(operator_card: int) -> dict[str, Any]:
    """One meal that is served all day, so that a demo at any hour sees it; limits that a usual sale does not meet."""
    menus = [(1, "A 套餐", 1200), (2, "B 套餐", 900), (3, "soup", 0)]
    meal = {
        "meal": 1,
        "name": "all day",
        "card_max": 3,
        "booking_days_max": 7,
        "cut_off_min": 1440,
        "serving_from_min": 0,
        "serving_to_min": 1440,
        "walk_in_cents": 1500,
        "menus": [{"menu": number, "name": name, "price_cents": cents} for number, name, cents in menus],
    }
    return {
        "format": 1,
        "utc_offset_min": 480,
        "amount_max_cents": 20_000,
        "daily_max_cents": 40_000,
        "list_age_ms_max": 86_400_000,
        "stale_max_cents": 5_000,
        "groups": [],
        "meals": [meal],
        "operator_cards": [operator_card],
    }


def _permissions(doors: list[int]) -> dict[str, Any]:
    """Per door terminal an entrance for everybody, its inside, and an office in working hours behind a code."""
    always = [[group, 0] for group in range(8)]
    listed: list[dict[str, Any]] = []
    for terminal in doors:
        entrance = {
            "terminal": terminal, "door": 1, "name": "entrance", "lock": 1, "area_from": 0, "area_to": 1,
            "anti_passback": "soft", "clockless": "unprofiled", "code": "", "duress": "off", "exit_button": True,
            "first_groups": [], "grants": always, "held_open_ms": 2_000, "unlock_ms": 1_000,
        }  # fmt: skip
        way_out = entrance | {"door": 2, "name": "entrance, inside", "area_from": 1, "area_to": 0}
        office = entrance | {
            "door": 3, "name": "office", "lock": 3, "area_from": 1, "area_to": 2, "anti_passback": "off",
            "clockless": "closed", "code": "2580", "duress": "plus_one", "grants": [[group, 1] for group in range(8)],
        }  # fmt: skip
        listed += [entrance, way_out, office]
    groups = [{"cards": [], "id": number, "name": f"group {number}"} for number in range(8)]
    hours = {"id": 1, "intervals": [[31, 480, 1080]], "name": "office hours"}
    return {
        "format": 1,
        "doors": listed,
        "groups": groups,
        "holidays": [],
        "profiles": [hours],
        "utc_offsets": [[0, 480]],
    }
