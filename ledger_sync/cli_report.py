"""What people read of `onecard ledger report` and `balances`: yuan, dates, ages, and what each open item means."""

from __future__ import annotations

from typing import Any, Final

from ledger_sync.cli_work import Host

DAYS_SHOWN: Final = 14
"""Booking days in the clearing table; `--json` has them all."""
MEANINGS: Final = {
    "gap": "never came: re-collect (断号)",
    "tombstone": "the terminal cannot read it any more",
    "quarantine": "came, but does not prove itself",
    "epoch_tail": "a replaced terminal: its end is not known",
    "grey": "debited or not: waits for its card (灰记录)",
    "doubt": "loaded, refunded, collected or not: waits for its card",
    "over_limit": "cards without proof, above the day's limit: two persons",
    "suspect": "a second record of one sequence, unproven",
    "load_in_flight": "topped up, not yet on the card (充值)",
    "completion": "booked on the card's proof alone",
    "sums_differ": "the terminal's running sums do not follow",
}
EXCEPTIONS: Final = {
    "refund_exception": "a refund that its purchase does not allow (退款异常)",
    "load_without_order": "a card proves a load that nobody ordered",
    "load_contradiction": "its card was loaded, its station says it was not",
    "meal_twice": "a meal collected or cancelled a second time",
}
_AGES: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def show_report(host: Host, found: dict[str, Any], *, with_items: bool) -> None:
    """The report as tables: clearing first, then whether it all meets, then what is open."""
    counts = found["counts"]
    host.say(
        f"Site {found['site']}, generation {found['generation']}, position {found['position']}: "
        f"{counts['posted']} records posted, {counts['duplicates']} duplicates, {counts['quarantined']} quarantined, "
        f"{found['double_posted']} posted twice, {found['forks']} forks."
    )
    records: list[list[object]] = [
        [one["merchant"], one["count"], host.yuan(one["amount_cents"])] for one in found["records"]["by_merchant"]
    ]
    records.append(["all", found["records"]["count"], host.yuan(found["records"]["amount_cents"])])
    host.table("records held, by merchant (商户)", ["merchant", "records", "yuan"], records)
    show_merchants(host, found["merchants"])
    _show_days(host, found["merchant_days"])
    _show_agreement(host, found)
    show_conservation(host, found["conservation"])
    _show_open(host, found["open_items"])
    _show_exceptions(host, found["exceptions"], found["at_ms"], with_items=with_items)
    _show_events(host, found["events"])
    _show_holes(host, found["card_holes"])
    _show_decided(host, found["decided"])
    if with_items:
        _show_items(host, found["open_items"], found["at_ms"])


def show_merchants(host: Host, merchants: list[dict[str, Any]]) -> None:
    rows: list[list[object]] = [[one["merchant"], host.yuan(one["balance_cents"])] for one in merchants]
    rows.append(["all", host.yuan(sum(one["balance_cents"] for one in merchants))])
    host.table("owed to merchants", ["merchant", "yuan"], rows)


def show_conservation(host: Host, sums: dict[str, int]) -> None:
    rows: list[list[object]] = [
        [name.removesuffix("_cents").replace("_", " "), host.yuan(cents)] for name, cents in sums.items()
    ]
    host.table("accounts; sources equal uses when the difference is 0.00", ["account", "yuan"], rows)


def _show_days(host: Host, days: list[dict[str, int]]) -> None:
    newest = sorted({one["booking_day"] for one in days})[-DAYS_SHOWN:]
    rows: list[list[object]] = [
        [host.day(one["booking_day"]), one["merchant"], host.yuan(one["amount_cents"])]
        for one in days
        if one["booking_day"] in newest
    ]
    host.table(f"cleared (清分), by booking day; the last {DAYS_SHOWN} days", ["day", "merchant", "yuan"], rows)


def _show_agreement(host: Host, found: dict[str, Any]) -> None:
    """Records against money, each from its own tables; only forks may keep them apart (docs/money.md, "Agreement")."""
    books, apart = found["conservation"], {kind: one["amount_cents"] for kind, one in found["apart"].items()}
    records = {
        "records held": found["records"]["amount_cents"],
        "+ booked before their records came": found["open_items"]["completion"]["amount_cents"],
        "+ loads, which no merchant pays": apart["loads"],
        "+ doubts proved or decided": apart["doubts_proved"] + apart["doubts_spent"],
        "+ cancellations that moved nothing": apart["cancelled_twice"],
    }
    money = {
        "owed to merchants": books["merchant_cents"],
        "+ meals booked and not served": books["booked_meals_cents"],
        "+ refund exceptions": books["refund_exceptions_cents"],
        "+ set aside (grey, unproven)": books["suspense_grey_cents"] + books["suspense_unproven_cents"],
        "+ given back to cards by two persons": found["decided"]["not_spent"]["grey_cents"],
    }
    difference = sum(money.values()) - sum(records.values())
    always = ("records held", "+ booked before their records came", "owed to merchants", "+ set aside (grey, unproven)")
    shown: list[list[object]] = [
        [name, host.yuan(cents)] for name, cents in (records | money).items() if cents or name in always
    ]
    rows: list[list[object]] = [
        *shown,
        [f"difference; {found['forks']} forks may explain it", host.yuan(difference)],
    ]
    host.table("records and money", ["", "yuan"], rows)


def _show_open(host: Host, kinds: dict[str, Any]) -> None:
    rows: list[list[object]] = [
        [
            kind.replace("_", " "),
            one["items"],
            one["sequences"],
            host.yuan(one["amount_cents"]),
            one["amount_unknown"],
            age(one["age_ms"]) if one["oldest_ms"] is not None else "",
            MEANINGS[kind],
        ]
        for kind, one in kinds.items()
        if one["items"]
    ]
    columns = ["kind", "items", "records", "yuan", "of unknown amount", "oldest", "means"]
    host.table("open items: what is not settled yet, by kind", columns, rows)


def _show_exceptions(host: Host, kinds: dict[str, Any], at_ms: int, *, with_items: bool) -> None:
    """Posted all the same (R19); they stay until what explains them comes."""
    rows: list[list[object]] = [
        [kind.replace("_", " "), one["items"], host.yuan(one["amount_cents"]), age(one["age_ms"]), EXCEPTIONS[kind]]
        for kind, one in kinds.items()
        if one["items"]
    ]
    if not rows:
        return
    host.table("exceptions: posted, and to be looked at", ["kind", "items", "yuan", "oldest", "means"], rows)
    if with_items:
        names = ("terminal", "epoch", "sequence", "card", "reference")
        listed: list[list[object]] = [
            [kind.replace("_", " "), *(item[name] for name in names), host.yuan(item["amount_cents"]),
             age(at_ms - item["since_ms"])]
            for kind, one in kinds.items() for item in one["listed"]
        ]  # fmt: skip
        host.table("exceptions by name", ["kind", *names, "yuan", "age"], listed)


def _show_events(host: Host, found: dict[str, Any]) -> None:
    """One line for each type of record that moves no money."""
    rows: list[list[object]] = [
        [kind.replace("_", " "), sum(codes.values()),
         ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in codes.items() if not name.isdigit())]
        for kind, codes in found["by_type"].items()
    ]  # fmt: skip
    if rows:
        host.table("records that move no money", ["kind", "records", "of these"], rows)
    if found["events_lost"]:
        host.say(f"{found['events_lost']} events were lost where a memory was full.")


def _show_holes(host: Host, found: dict[str, Any]) -> None:
    rows: list[list[object]] = [
        [one["card"], f"{one['first']}–{one['last']}", age(one["age_ms"])] for one in found.get("listed", [])
    ]
    if found["items"]:
        host.say(
            f"{found['counters']} card counters (卡计数) between proofs were never seen, {found['items']} holes; "
            f"the oldest is {age(found['age_ms'])} old."
        )
    if rows:
        host.table("holes in card counters", ["card", "counters", "age"], rows)


def _show_decided(host: Host, decided: dict[str, Any]) -> None:
    """Nothing where two persons never had to decide."""
    rows: list[list[object]] = [
        [name.replace("_", " "), decided[name]["items"], host.yuan(decided[name]["amount_cents"])]
        for name in ("spent", "not_spent", "rejected")
    ]
    if any(row[1] for row in rows) or decided["reversed"]:
        host.table("decided by two persons, and not reversed by a proof", ["decision", "items", "yuan"], rows)
        host.say(f"{decided['reversed']} decisions were reversed by a proof that came later.")
    if decided["proposed"]:
        host.say(f"{decided['proposed']} decisions wait for a second person: onecard ledger suspense list")


def _show_items(host: Host, kinds: dict[str, Any], at_ms: int) -> None:
    rows: list[list[object]] = [
        [
            item["kind"].replace("_", " "),
            item["terminal"] or "",
            item["epoch"] or "",
            _stretch(item),
            "" if item["merchant"] is None else item["merchant"],
            "unknown" if item["amount_cents"] is None else host.yuan(item["amount_cents"]),
            age(at_ms - item["since_ms"]) if item["since_ms"] else "",
            item["detail"],
        ]
        for one in kinds.values()
        for item in one["listed"]
    ]
    columns = ["kind", "terminal", "epoch", "sequence", "merchant", "yuan", "age", "detail"]
    if rows:
        host.table("open items by name", columns, rows)
    for kind, one in kinds.items():
        if one["items"] > len(one["listed"]):
            host.say(f"{one['items'] - len(one['listed'])} more items of kind {kind.replace('_', ' ')} are not listed.")


def _stretch(item: dict[str, Any]) -> str:
    """The sequences of an item; nothing where it covers none (a tail, a baseline, a load order)."""
    if not item["terminal"] or item["last"] < item["first"]:
        return ""
    return str(item["first"]) if item["first"] == item["last"] else f"{item['first']}–{item['last']}"


def age(age_ms: int) -> str:
    """The largest unit that fits, cut off: 26 hours are `1 d`."""
    for size_ms, unit in _AGES:
        if age_ms >= size_ms:
            return f"{age_ms // size_ms} {unit}"
    return "0 s"
