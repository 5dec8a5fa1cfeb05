"""Bugs planted in memory, each of which the harness must catch: a harness that cannot fail proves nothing.

A `Plant` patches the product. Most are looked for in seeds; a few show in a scene only, which is named then. `sabotage`
searches for the first seed that catches each, writes it into `recorded.json`, and the table into docs/reliability.md.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.simulation import planted_frontend as frontend
from tests.simulation import planted_ledger as ledger
from tests.simulation import planted_terminal as terminal
from tests.simulation.plays import (
    play_dead_sector,
    play_full_memory,
    play_lost_card,
    play_missed_list,
    play_old_list_again,
    play_restored_ledger,
    play_rolled_back,
    play_torn_taps,
)
from tests.simulation.runner import run_seed, scratch

SEEDS_MAX: Final = 200  # a bug that so many seeds do not show is a hole in the harness


@dataclass(frozen=True, slots=True)
class Plant:
    """One sabotage, and where it shows."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    play: Callable[[Path], object] | None = None
    """A scene instead of seeds."""


@dataclass(frozen=True, slots=True)
class Caught:
    """By which seed (None: by its scene), after how many, and what was said, without numbers."""

    seed: int | None
    tried: int
    said: str


PLANTS: Final = (
    Plant("acknowledge before commit", frontend.acknowledge_before_commit),
    Plant("settle on send", frontend.settle_on_send),
    Plant("receipt matched by number only", frontend.receipt_matched_by_number_only),
    Plant("dedupe by watermark alone", frontend.dedupe_by_watermark_alone, play_rolled_back),
    Plant("forget a gap", frontend.forget_a_gap, play_dead_sector),
    Plant("skip the tail of a frame", frontend.skip_the_tail_of_a_frame),
    Plant("drop every fifth frame", frontend.drop_every_fifth_frame),
    Plant("count only purchases at intake", frontend.count_only_purchases_at_intake),
    Plant("spool not synced at commit", frontend.spool_not_synced_at_commit),
    Plant("spool never synced", frontend.spool_never_synced),
    Plant("ignore a restored ledger", frontend.ignore_a_restored_ledger, play_restored_ledger),
    Plant("send each row once", frontend.send_each_row_once),
    Plant("lists wait for the next log-in", frontend.lists_wait_for_the_next_log_in, play_lost_card),
    Plant("accept an older list at the front-end", frontend.accept_an_older_list, play_old_list_again),
    Plant("apply a delta on the wrong base", frontend.apply_a_delta_on_the_wrong_base, play_missed_list),
    Plant("credit 0 while the disk refuses", frontend.credit_nothing_while_the_disk_refuses),
    Plant("never ask again for a damaged list", frontend.never_ask_again_for_a_damaged_list),
    Plant("accept any proof of a terminal", frontend.accept_any_proof_of_a_terminal),
    Plant("skip the tag", frontend.skip_the_tag),
    Plant("the ledger forgets what it posted", ledger.forget_what_was_posted),
    Plant("post a proof twice", ledger.post_a_proof_twice),
    Plant("believe every card proof", ledger.believe_every_card_proof),
    Plant("believe the record which kind its card is", ledger.believe_the_record_which_kind_its_card_is),
    Plant("believe every seal", ledger.believe_every_seal),
    Plant("forget a counter", ledger.forget_the_counter_of_a_resolved_grey, play_torn_taps),
    Plant("refund a grey by timer", ledger.refund_grey_by_timer),
    Plant("forget a committed list", ledger.forget_a_committed_list),
    Plant("ledger not synced at commit", ledger.ledger_not_synced_at_commit),
    Plant("ledger never synced", ledger.ledger_never_synced),
    Plant("receipt before commit", ledger.receipt_before_commit),
    Plant("refunds are nobody's", ledger.allow_a_refund_of_nothing),
    Plant("an executed order stays in flight", ledger.leave_an_order_in_flight),
    Plant("collect a meal and keep its booking", ledger.collect_a_meal_without_its_booking),
    Plant("quarantine blocks what follows", ledger.quarantine_blocks_what_follows),
    Plant("no mark before the debit", terminal.debit_without_a_mark_in_flash),
    Plant("forget an open sale at boot", terminal.forget_an_open_sale_at_boot),
    Plant("reset a counter at boot", terminal.reset_a_counter_at_boot),
    Plant("overwrite what is not acknowledged", terminal.overwrite_what_is_not_acknowledged, play_full_memory),
    Plant("clear a proof without a record", terminal.clear_a_proof_without_a_record),
    Plant("an older list after a boot", terminal.older_list_after_a_boot),
    Plant("believe every list", terminal.believe_every_list),
    Plant("take an older list", terminal.take_an_older_list),
    Plant("miss the last entry of a list", terminal.miss_the_last_entry_of_a_list),
    Plant("take the head of a list alone", terminal.take_the_head_of_a_list_alone),
    Plant("wait for a silent front-end", terminal.wait_for_a_silent_front_end),
    Plant("take a cent too much", terminal.take_a_cent_too_much),
)


def try_once(planted: Plant, seed: int) -> str | None:
    """What the harness says with that bug in that seed (or in its scene); None: nothing."""
    with pytest.MonkeyPatch.context() as patch:
        planted.plant(patch)
        try:
            if planted.play is None:
                run_seed(seed)
            else:
                with tempfile.TemporaryDirectory(prefix="onecard-sim-", dir=scratch()) as directory:
                    planted.play(Path(directory))
        except AssertionError as error:
            if isinstance(error.__cause__, TypeError | AttributeError | NameError):
                raise RuntimeError(f"{planted.name} fits the product no more") from error  # noqa: TRY004
            return wording(str(error))
    return None


def search(planted: Plant, seeds_max: int = SEEDS_MAX) -> Caught | None:
    """The first seed that catches it; None: a hole in the harness."""
    if planted.play is not None:
        said = try_once(planted, 0)
        return None if said is None else Caught(None, 1, said)
    for seed in range(seeds_max):
        said = try_once(planted, seed)
        if said is not None:
            return Caught(seed, seed + 1, said)
    return None


def wording(text: str) -> str:
    """What was said, in one short line that other numbers would not change."""
    line = text.splitlines()[0]
    line = re.sub(r"^seed \d+, commit \S+ (Violation: |AssertionError: )?", "", line)
    line = re.sub(r"Identity\([^)]*\)", "a record", line)
    line = re.sub(r"\(\d+, \d+\)|\d+[./]\d+|\d+", "N", line)
    line = re.split(r" at \[|: \[|\{|; ", line)[0]
    return line[:100].strip(" :,")
