"""Everything that enrolment and card issue would have put in place, made from a seed and kept in memory (R36, R40)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from frontend_server.keys import FrontendKeys
from ledger_sync.ledger.keys import LedgerKeys
from protocol.cards.image import AesCardImage, CardKeys
from protocol.codes import ListKind, Suite, TerminalClass, TerminalKind
from protocol.documents import canonical
from protocol.keys import card_key, link_key, seal_key
from protocol.mac import MacKey
from protocol.registry import EnrolledTerminal, Registry
from protocol.sam import SoftwareSam, TerminalMasters
from protocol.signed import CertificateUse, SoftwareSigner, issue_certificate, sign_head
from terminal_sim.card_kinds import Card, kind_of
from terminal_sim.provisioning import TerminalSecrets
from tests.simulation.world import EPOCH_MS

SITE: Final = 42
FRONTEND: Final = 7
FRONTENDS_MAX: Final = 3  # numbered from FRONTEND on
FIRST_TERMINAL: Final = 101
FIRST_CARD: Final = 1_000_001
MERCHANTS: Final = (501, 502, 503)
CURRENCY: Final = 156
YEAR_MS: Final = 365 * 86_400_000


@dataclass(slots=True)
class SiteKeys:
    """The masters of one site; every other key follows from them."""

    link_master: bytes
    seal_master: bytes
    card_masters: dict[str, bytes]
    batch_key: bytes
    root: SoftwareSigner
    root_seed: bytes
    signer: SoftwareSigner
    registry: Registry
    lists_seed: bytes

    @classmethod
    def from_seed(cls, seed: int, *, terminals: int) -> SiteKeys:
        """The same seed gives the same bytes."""
        rng = random.Random(f"{seed}:keys")
        registry = Registry(SITE)
        link_master, seal_master, batch_key = (rng.randbytes(16) for _ in range(3))
        masters = {purpose: rng.randbytes(16) for purpose in ("authenticate", "debit", "refund", "load", "tac")}
        root_seed, signing_seed = rng.randbytes(32), rng.randbytes(32)
        for number in range(FIRST_TERMINAL, FIRST_TERMINAL + terminals):
            registry.put(
                EnrolledTerminal(
                    number,
                    TerminalClass.TERMINAL,
                    TerminalKind.POS,
                    1,
                    Suite.A,
                    1,
                    rng.randbytes(8),
                    merchant=rng.choice(MERCHANTS),
                )
            )
        root, signer = SoftwareSigner(root_seed), SoftwareSigner(signing_seed)
        lists_seed = rng.randbytes(32)
        return cls(link_master, seal_master, masters, batch_key, root, root_seed, signer, registry, lists_seed)

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
            signer=self.signer,
            certificate=certificate,
            batch_keys={number: self.batch_key_of(number) for number in range(FRONTEND, FRONTEND + FRONTENDS_MAX)},
        )

    def parameters(self, counter: int) -> bytes:
        """Version (1, counter) of the parameters, as a published file: a few chunks of a slow link."""
        content = canonical({"version": counter, "fill": f"{counter:04d}" * 800})
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
            list_kind=ListKind.PARAMETERS,
            generation=1,
            counter=counter,
            issued_ms=EPOCH_MS + counter,
            content=content,
        )
        return head.encode() + certificate.encode() + content

    def secrets(self, enrolled: EnrolledTerminal) -> TerminalSecrets:
        """What enrolment has put into that terminal."""
        terminal, epoch = enrolled.terminal, enrolled.epoch
        masters = TerminalMasters(self.card_masters["authenticate"], self.card_masters["debit"])
        return TerminalSecrets(
            site=SITE,
            terminal=terminal,
            epoch=epoch,
            key_version=enrolled.key_version,
            link_key=link_key(self.link_master, terminal=terminal, epoch=epoch, key_version=enrolled.key_version),
            seal_key=seal_key(self.seal_master, terminal=terminal, epoch=epoch),
            enrolment_id=enrolled.enrolment_id,
            merchant=enrolled.merchant,
            root_public=self.root.public_key,
            sam=SoftwareSam({1: masters}),
        )

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
