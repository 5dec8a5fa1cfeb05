"""A POS terminal (消费机): boots from its flash, sells, and never tells a customer what its flash cannot prove.

Made anew at every boot: all that an object of this class knows comes from the flash, the secure element and the clock
chip it is given. A PowerCut out of any method means: throw the object away, `flash.power_on()`, make the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from protocol.cards.apdu import CardFacts, Identity
from protocol.codes import EndReason, ListKind
from protocol.limits import LIST_AGE_MS_MAX_USUAL
from protocol.ports import Log, Random
from protocol.record_bodies import EndOfEpoch
from terminal_sim.errors import MemoryLost, RingFull
from terminal_sim.flash import VirtualFlash
from terminal_sim.layout import FlashLayout
from terminal_sim.list_age import LIST_AGE_UNKNOWN_MS, ListAge
from terminal_sim.lists import Check, TerminalLists
from terminal_sim.memory import Memory
from terminal_sim.outcome import Alarm, CardReader, Outcome, TapResult, Why
from terminal_sim.provisioning import TerminalSecrets
from terminal_sim.ring import WARN_PERCENT
from terminal_sim.rtc import NEVER_SET, DriftingRtc
from terminal_sim.tap import Tap

__all__ = ["Alarm", "CardReader", "Outcome", "PosTerminal", "TapResult", "Why"]

CHALLENGE_BYTES: Final = 16
TAP_RECORDS_MAX: Final = 2  # a completion and the sale's own record
DAY_MS: Final = 86_400_000


class PosTerminal:
    """The firmware between two power cuts; the constructor is the boot.

    Raises PowerCut when the power goes during the boot. A lost memory or a fork is `alarm`: it does not sell then.
    """

    def __init__(
        self,
        flash: VirtualFlash,
        secrets: TerminalSecrets,
        *,
        rtc: DriftingRtc,
        random: Random,
        log: Log,
        layout: FlashLayout | None = None,
        list_checks: Mapping[ListKind, Check] | None = None,
    ) -> None:
        self.secrets = secrets
        self.rtc = rtc
        self.flash = flash
        self.alarm: Alarm | None = None
        self.boot_number = 0
        self.on_record: Callable[[bytes], None] | None = None
        """Told of every record after its commit, in the tap that made it."""
        self.kinds = secrets.card_kinds()
        self._random = random
        self._log = log
        layout = layout if layout is not None else FlashLayout.of_kind(flash.size_bytes, secrets.terminal_kind)
        rtc.boot()
        self.lists = TerminalLists(
            flash,
            layout,
            site=secrets.site,
            root_public=secrets.root_public,
            terminal_kind=secrets.terminal_kind,
            checks=list_checks,
        )
        self.deny_list = self.lists.deny
        self.list_age = ListAge(rtc)
        self.list_age_ms_max = LIST_AGE_MS_MAX_USUAL
        """The site's parameters may say another."""
        self.memory: Memory | None = None
        self.is_retired = False
        """The epoch's last record is written."""
        try:
            self.memory = Memory(flash, layout, secrets)
            self.is_retired = self.memory.has_ended
            self._recover()
            self.boot_number = self.memory.begin_boot()
        except MemoryLost as error:
            self.memory = None
            self.raise_alarm(Alarm.MEMORY_LOST)
            log("terminal_memory_lost", terminal=secrets.terminal, why=str(error))

    @property
    def memory_warning(self) -> bool:
        """Whether 80 % of the ring may not be overwritten (R12)."""
        return self.memory is not None and self.memory.ring.fill_percent >= WARN_PERCENT

    @property
    def memory_full(self) -> bool:
        """Whether a tap would be refused for want of room."""
        return self.memory is not None and self.memory.ring.room_records() < TAP_RECORDS_MAX

    @property
    def parameters_content(self) -> bytes | None:
        """The parameters (参数) in force, canonical JSON; None: none are held."""
        return self.lists.content(ListKind.PARAMETERS)

    @property
    def permissions_content(self) -> bytes | None:
        """The permissions (权限) in force, canonical JSON; None: none are held."""
        return self.lists.content(ListKind.PERMISSIONS)

    def list_age_ms(self) -> int:
        """How long ago it was certain that no newer deny list had been issued (R28)."""
        if self.deny_list.memory.damaged:
            return LIST_AGE_UNKNOWN_MS
        return self.list_age.age_ms(self.deny_list.issued_ms)

    @property
    def list_stale(self) -> bool:
        """The deny list is older than `list_age_ms_max`, or some list can no longer be read."""
        return self.lists.damaged or self.list_age_ms() > self.list_age_ms_max

    def raise_alarm(self, alarm: Alarm) -> None:
        """Until re-enrolment; a fork goes on selling, a lost memory does not."""
        self.alarm = alarm
        self._log("terminal_alarm", terminal=self.secrets.terminal, alarm=alarm.value)

    @property
    def charging(self) -> Identity | None:
        """The record for which a card may be paying at this moment; None while no sale is open."""
        entry = self.memory.open_entry if self.memory is not None else None
        return None if entry is None else Identity(self.secrets.terminal, entry.epoch, entry.sequence)

    def tap(self, card: CardReader, amount_cents: int) -> TapResult:
        """Sell for `amount_cents` (≥ 1) to the card in the field; every record made is committed on return."""
        return self._run(card, amount_cents)

    def check(self, card: CardReader) -> TapResult:
        """Look at the card in the field and sell nothing (卡检查, R20).

        A proof that an earlier tap left is written as a completion, a memory card's purse is repaired; where there was
        neither, no sequence is used. CHECKED also for a card that would not be sold to.
        """
        return self._run(card, 0)

    def retire(self, reason: EndReason) -> bool:
        """Seal the last record of this epoch and serve nobody any more; False: it cannot be written now (R11)."""
        memory = self.memory
        if memory is None:
            return False
        self._recover()
        if memory.open_entry is not None:
            return False
        if not self.is_retired:
            body, rtc = EndOfEpoch(reason), self.rtc
            try:
                self.made(
                    memory.write_plain(body, boot=self.boot_number, uptime_ds=rtc.uptime_ds(), clock_ms=rtc.now_ms())
                )
            except RingFull:
                return False
            self.is_retired = True
        return True

    def _run(self, card: CardReader, amount_cents: int) -> TapResult:
        memory = self.memory
        if memory is None or self.is_retired:
            return TapResult(Outcome.REFUSED, Why.NOT_READY, amount_cents)
        self._recover()
        if memory.open_entry is not None or self.memory_full:
            return TapResult(Outcome.REFUSED, Why.MEMORY_FULL, amount_cents)
        return Tap(self, memory, card, amount_cents).run()

    def _recover(self) -> None:
        memory = self.memory
        if memory is None or memory.open_entry is None:
            return
        try:
            self.made(memory.recover())
        except RingFull:
            self._log("terminal_recovery_waits_for_room", terminal=self.secrets.terminal)

    # -- for the tap

    def made(self, record: bytes | None) -> None:
        if record is not None and self.on_record is not None:
            self.on_record(record)

    def challenge(self) -> bytes:
        return self._random.random_bytes(CHALLENGE_BYTES)

    def refuses_sale(self, card: CardFacts, amount_cents: int) -> Why:
        """Why the site's parameters allow no such sale; NONE: they do."""
        return Why.NONE

    def is_expired(self, card: CardFacts) -> bool:
        """By the terminal's own clock; a clock that was never set refuses nobody."""
        now_ms = self.rtc.now_ms()
        return card.valid_until_day != 0 and now_ms != NEVER_SET and now_ms // DAY_MS > card.valid_until_day
