"""The site of a bench run: numbers and keys on which server and generator agree. Keys are drawn anew for each run."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from protocol.codes import Suite, TerminalClass, TerminalKind
from protocol.mac import KEY_BYTES
from protocol.registry import ENROLMENT_ID_BYTES, EnrolledTerminal, Registry

SITE: Final = 1
FRONTEND: Final = 1
FIRST_TERMINAL: Final = 1001
EPOCH: Final = 1
KEY_VERSION: Final = 1
MERCHANT: Final = 501
CURRENCY: Final = 156
ENROLMENT_ID: Final = bytes(range(1, ENROLMENT_ID_BYTES + 1))


def _fresh_key() -> str:
    return secrets.token_hex(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class BenchSite:
    """Travels as JSON on a pipe, so keys are hex here."""

    terminals: int
    link_master: str = field(default_factory=_fresh_key, repr=False)
    seal_master: str = field(default_factory=_fresh_key, repr=False)
    batch_key: str = field(default_factory=_fresh_key, repr=False)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def numbers(self) -> range:
        """The terminals' numbers."""
        return range(FIRST_TERMINAL, FIRST_TERMINAL + self.terminals)

    def registry(self) -> Registry:
        registry = Registry(SITE)
        for number in self.numbers():
            registry.put(
                EnrolledTerminal(
                    terminal=number,
                    terminal_class=TerminalClass.TERMINAL,
                    kind=TerminalKind.POS,
                    epoch=EPOCH,
                    suite=Suite.A,
                    key_version=KEY_VERSION,
                    enrolment_id=ENROLMENT_ID,
                    merchant=MERCHANT,
                )
            )
        return registry
