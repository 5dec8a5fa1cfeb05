"""Parameters and permissions in flash, beside a long deny list with issue lots; the list's age (R27, R28)."""

from __future__ import annotations

from contextlib import suppress

import pytest

from protocol.codes import ListForm, ListKind, ListStatus, TerminalKind
from protocol.deny_list import DenyList as Entries
from protocol.deny_list import cards_of_lot
from protocol.errors import Malformed
from protocol.list_receiver import Apply
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import SoftwareSigner, sign_head
from terminal_sim.errors import PowerCut
from terminal_sim.flash import SECTOR_BYTES, CutAfter, VirtualFlash
from terminal_sim.layout import JOURNAL_SECTORS, LIST_AREAS, RING_SECTORS_MIN, FlashLayout
from terminal_sim.list_age import LIST_AGE_UNKNOWN_MS, ListAge
from terminal_sim.lists import DenyListMemory, TerminalLists
from terminal_sim.rtc import DriftingRtc
from tests.hostile import peak_bytes
from tests.terminal_sim.kit import (
    LEDGER_SEED,
    ROOT_SEED,
    SITE,
    Bench,
    BenchClock,
    flash_layout,
    ledger_certificate,
    lists_certificate,
    signed_document,
    signed_list,
)

LAYOUT = flash_layout(documents=2)
ROOT = SoftwareSigner(ROOT_SEED).public_key
OLD = signed_document(ListKind.PARAMETERS, 1, {"price": 850})
NEW = signed_document(ListKind.PARAMETERS, 2, {"price": 900, "fill": "午" * 300})
GUARDS = signed_document(ListKind.PERMISSIONS, 5, {"doors": [1]})
DENIED = signed_list(3, [17, 19])


def boot(flash: VirtualFlash, kind: int = TerminalKind.DOOR) -> TerminalLists:
    return TerminalLists(flash, LAYOUT, site=SITE, root_public=ROOT, terminal_kind=kind)


def offer(signed: tuple[bytes, bytes], data: bytes) -> ListOffer:
    head, content = signed
    certificate = ledger_certificate() if head[8] == ListKind.DENY else lists_certificate()
    return ListOffer(ListForm.SNAPSHOT, 0, 0, len(content), head, certificate.encode(), data)


def send(terminal: TerminalLists, signed: tuple[bytes, bytes], *, part_bytes: int = 100) -> ListState:
    """As a front-end does: an offer, then chunks from where the terminal says it is."""
    head, content = signed
    [*_, state] = terminal.receive(offer(signed, content[:part_bytes]))
    while state.status is ListStatus.STAGING:
        at = state.staged_bytes
        part = content[at : at + part_bytes]
        [*_, state] = terminal.receive(ListChunk(head[8], state.staged_generation, state.staged_counter, at, part))
    return state


def holding_all() -> VirtualFlash:
    flash = VirtualFlash(LAYOUT.size_bytes)
    terminal = boot(flash)
    for signed in (DENIED, OLD, GUARDS):
        assert send(terminal, signed).status is ListStatus.HOLDS
    return flash


def test_each_kind_has_its_own_place_and_is_found_again_at_boot() -> None:
    flash = holding_all()
    for terminal in (boot(flash), boot(flash)):
        assert terminal.content(ListKind.PARAMETERS) == OLD[1]
        assert terminal.content(ListKind.PERMISSIONS) == GUARDS[1]
        assert terminal.deny.memory.refuses(17)
        assert [(state.kind, state.head) for state in terminal.states()] == [
            (ListKind.DENY, DENIED[0]),
            (ListKind.PERMISSIONS, GUARDS[0]),
            (ListKind.PARAMETERS, OLD[0]),
        ]


def test_a_pos_holds_no_permissions_and_leaves_an_offer_of_them_out() -> None:
    terminal = boot(VirtualFlash(LAYOUT.size_bytes), TerminalKind.POS)
    assert [state.kind for state in terminal.states()] == [ListKind.DENY, ListKind.PARAMETERS]
    assert terminal.receive(offer(GUARDS, GUARDS[1])) == []
    assert (terminal.held(ListKind.PERMISSIONS), terminal.content(ListKind.PERMISSIONS)) == (None, None)


def test_the_firmware_is_told_of_a_new_document_once_it_is_in_force() -> None:
    terminal = boot(holding_all())
    told: list[tuple[ListKind, bytes]] = []
    terminal.on_document = lambda kind, content: told.append((kind, content))
    send(terminal, NEW)
    send(terminal, signed_list(4, [17]))
    terminal.receive(offer(OLD, OLD[1]))
    assert told == [(ListKind.PARAMETERS, NEW[1])]


def test_a_document_that_the_firmware_cannot_use_leaves_the_old_one_in_force() -> None:
    def check(content: bytes) -> None:
        if b"fill" in content:
            raise Malformed("parameters", "unknown key: fill")

    flash = holding_all()
    terminal = TerminalLists(
        flash,
        LAYOUT,
        site=SITE,
        root_public=ROOT,
        terminal_kind=TerminalKind.DOOR,
        checks={ListKind.PARAMETERS: check},
    )
    state = send(terminal, NEW)
    assert (state.status, state.head) == (ListStatus.DIGEST_WRONG, OLD[0])
    assert terminal.content(ListKind.PARAMETERS) == OLD[1]


@pytest.mark.parametrize("part_bytes", [64, 4096])
def test_power_cut_at_every_byte_leaves_the_old_parameters_or_the_new_ones_and_the_other_kinds_whole(
    part_bytes: int,
) -> None:
    image = holding_all().snapshot()
    steps, resumed, applied = 0, 0, 0
    while True:
        flash = VirtualFlash(LAYOUT.size_bytes)
        flash.restore(image)
        flash.cut_plan = plan = CutAfter(steps, bits_done=0x5A, erase_step_bytes=512)
        with suppress(PowerCut):
            send(boot(flash), NEW, part_bytes=part_bytes)
        flash.power_on()
        terminal = boot(flash)
        state = next(one for one in terminal.states() if one.kind == ListKind.PARAMETERS)
        assert (state.head, terminal.content(ListKind.PARAMETERS)) in ((OLD[0], OLD[1]), (NEW[0], NEW[1]))
        resumed += state.staged_bytes > 0
        applied += state.head == NEW[0]
        assert (terminal.deny.memory.head, terminal.content(ListKind.PERMISSIONS)) == (DENIED[0], GUARDS[1])
        final = send(terminal, NEW, part_bytes=part_bytes)
        assert (final.status, final.head) == (ListStatus.HOLDS, NEW[0])
        if not plan.fired:
            break
        steps += 1
    print(f"{steps} cuts, {resumed} resumed, {applied} applied")
    assert steps > 1_000
    assert resumed > 0
    assert applied > 0


def test_a_sector_that_dies_under_a_transfer_is_answered_and_leaves_what_is_held() -> None:
    flash = holding_all()
    terminal = boot(flash)
    spare = LAYOUT.list_areas(ListKind.PARAMETERS)[1]
    flash.dead_sectors.add(spare.start + 1)  # found out only when the new version is written there
    state = send(terminal, NEW)
    assert (state.status, state.head) == (ListStatus.NO_ROOM, OLD[0])
    assert terminal.damaged
    assert terminal.content(ListKind.PARAMETERS) == OLD[1]
    assert boot(flash).content(ListKind.PARAMETERS) == OLD[1]


def test_the_usual_chip_keeps_its_records_beside_the_longest_documents() -> None:
    pos, door = (FlashLayout.of_kind(4 << 20, kind) for kind in (TerminalKind.POS, TerminalKind.DOOR))
    assert (len(pos.ring), len(door.ring)) == (885, 834)
    assert FlashLayout() == pos
    areas = [
        area for kind in (ListKind.DENY, ListKind.PARAMETERS, ListKind.PERMISSIONS) for area in door.list_areas(kind)
    ]
    assert [*door.journal, *(sector for area in areas for sector in area), *door.ring] == list(range(1024))
    assert all((len(area) - 1) * SECTOR_BYTES == 65_536 for area in areas[3:])


class CountedFlash(VirtualFlash):
    reads = 0

    def read(self, offset: int, count: int) -> bytes:
        self.reads += 1
        return super().read(offset, count)


@pytest.mark.parametrize(("entries", "reads_max"), [(10_000, 25), (100_000, 31)])
def test_a_long_list_with_lots_is_looked_up_in_flash_with_few_reads(entries: int, reads_max: int) -> None:
    """Cost: 4 bytes of flash an entry, two binary searches, and no memory that grows with the list."""
    lots = range(2_000_000, 2_000_000 + entries // 10)
    deny = Entries(range(2, 2 * (entries - len(lots)) + 1, 2), lots)
    content = deny.content()
    sectors = 1 + -(-len(content) // SECTOR_BYTES)
    layout = FlashLayout(
        (JOURNAL_SECTORS + LIST_AREAS * sectors + RING_SECTORS_MIN) * SECTOR_BYTES, sectors, documents=0
    )
    flash = CountedFlash(layout.size_bytes)
    head = sign_head(
        LEDGER_SEED, key_id=1, site=SITE, list_kind=1, generation=1, counter=1, issued_ms=1, content=content
    )
    DenyListMemory(flash, layout).perform(Apply(head.encode(), content))
    memory = DenyListMemory(flash, layout)
    del content
    asked = [1, 2, 3, entries, 2 * (entries - len(lots)), *cards_of_lot(lots[0])[::500], *cards_of_lot(lots[-1])[:2]]
    asked += [cards_of_lot(lots[0] - 1)[-1], cards_of_lot(lots[-1] + 1)[0], 4_294_967_295]
    assert memory.refuses(2)
    for card in asked:
        flash.reads = 0
        assert memory.refuses(card) == deny.refuses(card), card
        assert flash.reads <= reads_max
    assert peak_bytes(lambda: memory.refuses(4_294_967_295)) < 4_096


def test_a_card_of_a_denied_lot_is_refused_at_the_till() -> None:
    bench = Bench()
    card, other = bench.issue(1_000_448), bench.issue(1_000_447)
    content = Entries([], [977]).content()
    head = sign_head(
        LEDGER_SEED, key_id=1, site=SITE, list_kind=1, generation=1, counter=1, issued_ms=1, content=content
    )
    terminal = bench.boot()
    terminal.deny_list.memory.perform(Apply(head.encode(), content))
    assert [bench.tap(terminal, each, 100).why.value for each in (card, other)] == ["deny_list", ""]


# -- age


def clock_at(ms: int, *, set_to_ms: int | None) -> tuple[BenchClock, DriftingRtc]:
    clock = BenchClock()
    rtc = DriftingRtc(clock)
    clock.time_ms = ms
    if set_to_ms is not None:
        rtc.set_utc(set_to_ms)
    return clock, rtc


def test_without_a_word_and_without_a_clock_every_list_is_old() -> None:
    _, rtc = clock_at(5_000, set_to_ms=None)
    age = ListAge(rtc)
    assert age.age_ms(1_000) == LIST_AGE_UNKNOWN_MS
    assert age.age_ms(0) == LIST_AGE_UNKNOWN_MS


def test_a_confirmed_list_ages_by_uptime_whatever_the_clock_does() -> None:
    clock, rtc = clock_at(5_000, set_to_ms=None)
    age = ListAge(rtc)
    age.confirmed(50)
    assert age.age_ms(1_000) == 0
    clock.time_ms += 7_000
    age.confirmed(30)  # an answer overtaken by a later one
    assert age.age_ms(1_000) == 7_000
    rtc.set_utc(10**15)
    assert age.age_ms(1_000) == 7_000
    assert age.age_ms(0) == LIST_AGE_UNKNOWN_MS  # nothing is held


def test_a_clock_that_was_set_ages_a_list_from_its_issue() -> None:
    clock, rtc = clock_at(5_000, set_to_ms=1_000_000)
    age = ListAge(rtc)
    assert age.age_ms(400_000) == 600_000
    clock.time_ms += 1_000
    assert age.age_ms(400_000) == 601_000
    assert age.age_ms(2_000_000) == LIST_AGE_UNKNOWN_MS  # the list is younger than the clock: the clock is wrong


def test_a_boot_forgets_the_confirmation() -> None:
    bench = Bench()
    bench.rtc = DriftingRtc(bench.clock)  # no battery
    terminal = bench.boot()
    terminal.deny_list.memory.perform(Apply(*DENIED))
    terminal.list_age.confirmed(terminal.rtc.uptime_ds())
    assert (terminal.list_age_ms(), terminal.list_stale) == (0, False)
    again = bench.boot()
    assert (again.list_age_ms(), again.list_stale) == (LIST_AGE_UNKNOWN_MS, True)


def test_a_terminal_with_a_battery_knows_the_age_of_a_list_over_a_power_cut() -> None:
    bench = Bench()
    issued_ms = bench.clock.now_ms() - 3_600_000
    content = Entries([5]).content()
    head = sign_head(
        LEDGER_SEED, key_id=1, site=SITE, list_kind=1, generation=1, counter=1, issued_ms=issued_ms, content=content
    )
    bench.boot().deny_list.memory.perform(Apply(head.encode(), content))
    terminal = bench.boot()
    assert (terminal.list_age_ms(), terminal.list_stale) == (3_600_000, False)
    bench.clock.time_ms += 24 * 3_600_000
    assert terminal.list_stale
