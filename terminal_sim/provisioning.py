"""What enrolment has put into a terminal's secure element: it survives power cuts and lost flash (R40)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protocol.cards.memory_dialogue import MemoryDialogue
from protocol.cards.memory_load import MemoryLoadDialogue
from protocol.cards.memory_sam import MemorySam
from protocol.cards.pboc_dialogue import PbocDialogue
from protocol.cards.pboc_load import PbocLoadDialogue
from protocol.cards.pboc_sam import PbocLoadSam, PbocSam
from protocol.cards.port import AesPurse, Choose, DebitTerms, Kinds, PurseDialogue
from protocol.codes import CardKind, ProofSuite, Suite, TerminalKind
from protocol.handshake import TerminalIdentity
from protocol.mac import MacKey
from protocol.sam import Sam

CURRENCY_CNY = 156


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalSecrets:
    """One terminal and epoch. Keys never show in a repr."""

    site: int
    terminal: int
    epoch: int
    key_version: int
    link_key: bytes = field(repr=False)
    seal_key: bytes = field(repr=False)
    enrolment_id: bytes = field(repr=False)
    merchant: int
    root_public: bytes
    sam: Sam = field(repr=False)
    """For AES cards."""
    memory_sam: MemorySam | None = field(default=None, repr=False)
    """None: this terminal takes no memory cards."""
    pboc_sam: PbocSam | None = field(default=None, repr=False)
    """None: this terminal takes no PBOC purses."""
    memory_load_sam: MemorySam | None = field(default=None, repr=False)
    """Key B of memory cards' purses; only a load station's has it."""
    pboc_load_sams: Mapping[int, PbocLoadSam] = field(default_factory=dict, repr=False)
    """By key version; only a load station has any."""
    currency: int = CURRENCY_CNY
    suite: int = Suite.A
    """Of the link; never negotiated."""
    proof_suite: int = ProofSuite.AES_CMAC
    """Of every use of the seal key."""
    terminal_kind: int = TerminalKind.POS

    def sealing(self) -> MacKey:
        """The seal key at work, in the proof suite of this enrolment."""
        return MacKey(self.seal_key, self.proof_suite)

    def card_kinds(self) -> Kinds:
        """The kinds of card that this terminal's SAMs serve."""
        aes, memory, pboc = self.sam, self.memory_sam, self.pboc_sam
        kinds: dict[CardKind, Callable[[DebitTerms], PurseDialogue]] = {
            CardKind.AES: lambda terms: AesPurse(aes, terms),
        }
        if memory is not None:
            kinds[CardKind.MEMORY] = lambda terms: MemoryDialogue(memory, terms)
        if pboc is not None:
            kinds[CardKind.PBOC] = lambda terms: PbocDialogue(pboc, terms)
        return kinds

    def load_kinds(self, choose: Choose) -> Kinds:
        """The kinds of card, beside AES, that this terminal's SAMs can load."""
        memory, memory_load, pboc, pboc_load = self.memory_sam, self.memory_load_sam, self.pboc_sam, self.pboc_load_sams
        kinds: dict[CardKind, Callable[[DebitTerms], PurseDialogue]] = {}
        if memory is not None and memory_load is not None:
            kinds[CardKind.MEMORY] = lambda terms: MemoryLoadDialogue(memory, memory_load, terms, choose)
        if pboc is not None and pboc_load:
            kinds[CardKind.PBOC] = lambda terms: PbocLoadDialogue(pboc, pboc_load, terms, choose)
        return kinds

    def identity(self) -> TerminalIdentity:
        """What HELLO states."""
        return TerminalIdentity(
            site=self.site,
            terminal=self.terminal,
            epoch=self.epoch,
            key_version=self.key_version,
            terminal_kind=self.terminal_kind,
            suite=self.suite,
        )
