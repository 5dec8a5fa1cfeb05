"""Everything that enrolment and card issue would have put in place, made from a seed and kept in memory (R36, R40)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from frontend_server.keys import FrontendKeys
from ledger_sync.ledger.keys import LedgerKeys
from protocol.cards.image import AesCardImage, CardKeys
from protocol.cards.memory_format import SectorMasters, formatted_image
from protocol.cards.memory_layout import Application, MemoryFacts
from protocol.cards.memory_sam import SoftwareMemorySam
from protocol.cards.pboc_image import PbocCardImage, PbocCardKeys
from protocol.cards.pboc_macs import pboc_key
from protocol.cards.pboc_sam import PbocTerminalMasters, SoftwarePbocSam
from protocol.codes import CardKind, ListKind, TerminalClass, TerminalKind
from protocol.keys import card_key, link_key, seal_key
from protocol.mac import MacKey
from protocol.registry import EnrolledTerminal, Registry
from protocol.sam import SoftwareSam, TerminalMasters
from protocol.signed import CertificateUse, SoftwareSigner, issue_certificate, sign_head
from terminal_sim.card_kinds import Card, MemoryCard, kind_of
from terminal_sim.provisioning import TerminalSecrets
from tests.simulation.cast import Cast, parameters, permissions
from tests.simulation.world import EPOCH_MS

SITE: Final = 42
FRONTEND: Final = 7
FRONTENDS_MAX: Final = 3  # numbered from FRONTEND on
FIRST_TERMINAL: Final = 101
FIRST_CARD: Final = 1_000_001
MERCHANTS: Final = (501, 502, 503)
CURRENCY: Final = 156
YEAR_MS: Final = 365 * 86_400_000


PBOC_PURPOSES: Final = ("internal", "purchase", "maintenance", "load", "tac")
SAM_CONTEXTS_MAX: Final = 1_024
UNPROVEN_LIMIT_CENTS: Final = 5_000  # low, so that a busy till passes it within a run (R4)


@dataclass(slots=True)
class SiteKeys:
    """The masters of one site; every other key follows from them."""

    link_master: bytes
    seal_master: bytes
    card_masters: dict[str, bytes]
    sector_masters: dict[Application, SectorMasters]
    pboc_masters: dict[str, bytes]
    batch_key: bytes
    root: SoftwareSigner
    root_seed: bytes
    signer: SoftwareSigner
    registry: Registry
    lists_seed: bytes
    sams: dict[str, SoftwareSam]
    """Of terminals that sell, and of load stations; their caches of card keys are shared here."""

    @classmethod
    def from_seed(cls, seed: int, cast: Cast) -> SiteKeys:
        """The same seed and cast give the same bytes."""
        rng = random.Random(f"{seed}:keys")
        registry = Registry(SITE)
        link_master, seal_master, batch_key = (rng.randbytes(16) for _ in range(3))
        masters = {purpose: rng.randbytes(16) for purpose in ("authenticate", "debit", "refund", "load", "tac")}
        sectors = {each: SectorMasters(rng.randbytes(16), rng.randbytes(16)) for each in Application}
        pboc = {purpose: rng.randbytes(16) for purpose in PBOC_PURPOSES}
        root_seed, signing_seed, lists_seed = (rng.randbytes(32) for _ in range(3))
        for number, role in enumerate(cast.terminals, FIRST_TERMINAL):
            is_door = role.kind is TerminalKind.DOOR
            registry.put(
                EnrolledTerminal(
                    number,
                    TerminalClass.TERMINAL,
                    role.kind,
                    1,
                    role.suite,
                    1,
                    rng.randbytes(8),
                    merchant=0 if is_door else rng.choice(MERCHANTS),
                    proof_suite=role.proof_suite,
                )
            )
        selling = TerminalMasters(masters["authenticate"], masters["debit"], masters["refund"])
        loading = TerminalMasters(masters["authenticate"], masters["debit"], masters["refund"], masters["load"])
        sams = {
            name: SoftwareSam({1: each}, contexts_max=SAM_CONTEXTS_MAX)
            for name, each in (("selling", selling), ("loading", loading))
        }
        root, signer = SoftwareSigner(root_seed), SoftwareSigner(signing_seed)
        return cls(
            *(link_master, seal_master, masters, sectors, pboc, batch_key, root, root_seed, signer, registry),
            *(lists_seed, sams),
        )

    def batch_key_of(self, frontend: int) -> bytes:
        """Each front-end has its own (R36)."""
        if frontend == FRONTEND:
            return self.batch_key
        return random.Random(f"{self.batch_key.hex()}:{frontend}").randbytes(16)

    def frontend_keys(self, frontend: int = FRONTEND) -> FrontendKeys:
        return FrontendKeys({1: self.link_master}, self.batch_key_of(frontend))

    def batch_mac(self, frontend: int = FRONTEND) -> MacKey:
        return MacKey(self.batch_key_of(frontend))

    def ledger_keys(self) -> LedgerKeys:
        certificate = issue_certificate(
            self.root_seed,
            key_id=1,
            site=SITE,
            valid_from_ms=EPOCH_MS - YEAR_MS,
            valid_to_ms=EPOCH_MS + YEAR_MS,
            public_key=self.signer.public_key,
        )
        return LedgerKeys(
            seal_masters={1: self.seal_master},
            tac_masters={1: self.card_masters["tac"]},
            pboc_tac_masters={1: self.pboc_masters["tac"]},
            signer=self.signer,
            certificate=certificate,
            batch_keys={number: self.batch_key_of(number) for number in range(FRONTEND, FRONTEND + FRONTENDS_MAX)},
        )

    def published(self, kind: ListKind, counter: int) -> bytes:
        """Version (1, counter) of a document, as the file that people put beside a server."""
        if kind is ListKind.PARAMETERS:
            content = parameters(counter, FIRST_CARD).content()
        else:
            content = permissions([one.terminal for one in self.registry if one.kind == TerminalKind.DOOR]).encode()
        certificate = issue_certificate(
            self.root_seed,
            key_id=1,
            site=SITE,
            valid_from_ms=EPOCH_MS - YEAR_MS,
            valid_to_ms=EPOCH_MS + YEAR_MS,
            public_key=SoftwareSigner(self.lists_seed).public_key,
            use=CertificateUse.OFFLINE,
        )
        head = sign_head(
            self.lists_seed,
            key_id=1,
            site=SITE,
            list_kind=kind,
            generation=1,
            counter=counter,
            issued_ms=EPOCH_MS + counter,
            content=content,
        )
        return head.encode() + certificate.encode() + content

    def secrets(self, enrolled: EnrolledTerminal) -> TerminalSecrets:
        """What enrolment has put into that terminal."""
        terminal, epoch, suite = enrolled.terminal, enrolled.epoch, enrolled.suite
        is_station = enrolled.kind == TerminalKind.LOAD_STATION
        pboc = PbocTerminalMasters(*(self.pboc_masters[name] for name in ("internal", "purchase", "maintenance")))
        return TerminalSecrets(
            site=SITE,
            terminal=terminal,
            epoch=epoch,
            key_version=enrolled.key_version,
            link_key=link_key(
                self.link_master, terminal=terminal, epoch=epoch, key_version=enrolled.key_version, suite=suite
            ),
            seal_key=seal_key(self.seal_master, terminal=terminal, epoch=epoch, proof_suite=enrolled.proof_suite),
            enrolment_id=enrolled.enrolment_id,
            merchant=enrolled.merchant,
            root_public=self.root.public_key,
            sam=self.sams["loading" if is_station else "selling"],
            memory_sam=SoftwareMemorySam({1: {Application.PURSE: self.sector_masters[Application.PURSE].a}}),
            pboc_sam=SoftwarePbocSam({1: pboc}),
            suite=suite,
            proof_suite=enrolled.proof_suite,
            terminal_kind=enrolled.kind,
        )

    def issue(self, number: int, kind: CardKind, balance_cents: int) -> Card:
        """A personalised card of any kind."""
        if kind is CardKind.AES:
            return self.card(number, balance_cents)
        uid = b"\x04" + number.to_bytes(6, "big")
        if kind is CardKind.MEMORY:
            facts = MemoryFacts(number, 1, CURRENCY)
            return MemoryCard(formatted_image(uid, facts, self.sector_masters, balance_cents=balance_cents))
        keys = PbocCardKeys(**{name: pboc_key(master, uid) for name, master in self.pboc_masters.items()})
        return PbocCardImage(uid, number, 1, CURRENCY, keys, balance_cents)

    def card(self, number: int, balance_cents: int) -> AesCardImage:
        """A personalised card."""
        uid = b"\x04" + number.to_bytes(6, "big")
        keys = CardKeys(*(card_key(master, uid) for master in self.card_masters.values()))
        return AesCardImage(
            uid=uid, number=number, key_version=1, currency=CURRENCY, keys=keys, balance_cents=balance_cents
        )


def register_entry(image: Card) -> dict[str, Any]:
    """A card as the ledger's `card_issue` takes it."""
    return {
        "number": image.number,
        "uid": image.uid.hex(),
        "kind": int(kind_of(image)),
        "key_version": image.key_version,
        "group": 0,
        "opening_cents": image.balance_cents,
    }
