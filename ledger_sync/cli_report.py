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
    "suspect": "a second record of one sequence, unproven",
    "load_in_flight": "topped up, not yet on the card (充值)",
    "completion": "booked on the card's proof alone",
    "sums_differ": "the terminal's running sums do not follow",
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
    """Records against money, each from its own tables; only forks may keep them apart."""
    books, ahead = found["conservation"], found["open_items"]["completion"]["amount_cents"]
    held = found["records"]["amount_cents"]
    aside = books["suspense_grey_cents"] + books["suspense_unproven_cents"]
    given_back = found["decided"]["not_spent"]["grey_cents"]
    difference = books["merchant_cents"] + aside + given_back - held - ahead
    rows: list[list[object]] = [
        ["records held", host.yuan(held)],
        ["+ booked before their records came", host.yuan(ahead)],
        ["owed to merchants", host.yuan(books["merchant_cents"])],
        ["+ set aside (grey, unproven)", host.yuan(aside)],
        ["+ greys given back to cards by two persons", host.yuan(given_back)],
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
