"""One large site on an ordinary day boots, sells, drains and agrees; the command with `--site 10000` tells how fast."""

from __future__ import annotations

from tests.simulation.big import big_cast, run_big


def test_a_site_of_a_hundred_sells_for_a_minute_and_agrees_to_the_cent() -> None:
    run = run_big(100, minutes=1.0)
    print(run)
    totals = run.agreement
    assert totals.records > 100
    assert totals.terminals_cents == totals.spool_cents == totals.ledger_cents + totals.open_cents


def test_a_large_site_has_terminals_of_every_kind_and_both_suites() -> None:
    cast = big_cast(10_000)
    assert len(cast.terminals) == 10_000
    assert {(role.kind, role.suite) for role in cast.terminals} >= {(1, 1), (1, 2), (2, 1), (3, 1), (4, 1)}
