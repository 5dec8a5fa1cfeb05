"""What the kinds of lists have and have not in common (docs/protocol.md §10). Pure.

| kind | content | form | signed by | held by |
|---|---|---|---|---|
| 01 deny list | cards, lots | snapshot, delta | the ledger's online key | every terminal |
| 02 parameters | document | snapshot | the site's offline key | every terminal |
| 03 permissions | document | snapshot | the site's offline key | doors |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.codes import ListKind, TerminalKind
from protocol.deny_list import DenyList
from protocol.documents import read_canonical
from protocol.signed import CertificateUse

LIST_KINDS: Final = (ListKind.DENY, ListKind.PERMISSIONS, ListKind.PARAMETERS)
"""Every kind that is distributed, the most urgent first: a lost card, then who may enter, then prices."""
DOCUMENT_KINDS: Final = (ListKind.PARAMETERS, ListKind.PERMISSIONS)
"""Those that people publish."""

_WITHOUT_DOORS: Final = (ListKind.DENY, ListKind.PARAMETERS)
_HELD: Final[Mapping[int, tuple[ListKind, ...]]] = {
    TerminalKind.POS: _WITHOUT_DOORS,
    TerminalKind.MEAL: _WITHOUT_DOORS,
    TerminalKind.LOAD_STATION: _WITHOUT_DOORS,
}


def kinds_held_by(terminal_kind: int) -> tuple[ListKind, ...]:
    """What a terminal of that kind holds, the most urgent first; a later kind may hold all of them."""
    return _HELD.get(terminal_kind, LIST_KINDS)


def certificate_use(kind: int) -> CertificateUse:
    """Whose key signs the heads of a kind."""
    return CertificateUse.ONLINE if kind == ListKind.DENY else CertificateUse.OFFLINE


def check_content(kind: int, content: bytes) -> None:
    """Whether a full content has the form of its kind.

    Raises:
        Malformed: it has not.
    """
    if kind == ListKind.DENY:
        DenyList.from_content(content)
    else:
        read_canonical(content)
