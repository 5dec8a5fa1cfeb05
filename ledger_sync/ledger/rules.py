"""The posting rules of a ledger: which record types it judges, and how (R5). Pure.

The number stands in `meta` and rises only by an operation, so `verify` does again with an old batch what was done
with it then: a type that nobody knew stays quarantined at its place in the chain, and posts by the operation that
retried it.

    1   purchase, grey, completion of a purchase, aborted; memory cards without limit, PBOC purses not at all
    2   every type of docs/protocol.md §7.2; cards by their kind (R4)

A type that comes after the first release of these rules needs the next number.
"""

from __future__ import annotations

from typing import Final

from protocol.codes import RecordType
from protocol.record_bodies import Body, Unknown

RULES_1: Final = 1
RULES: Final = 2
"""What a new ledger starts with, and an older one is raised to when it is served."""

UNPROVEN_LIMIT_CENTS: Final = 20_000
"""Per terminal and trade day, where the site file says nothing: some twenty meals (R4)."""

_TYPES_OF_RULES_1: Final = frozenset({RecordType.PURCHASE, RecordType.GREY, RecordType.COMPLETION, RecordType.ABORTED})


def judges(rules: int, type_: int) -> bool:
    """Whether these rules know the type, given that this program can decode it."""
    return rules > RULES_1 or type_ in _TYPES_OF_RULES_1


def is_known(rules: int, body: Body) -> bool:
    """The same of a decoded body; one that the decoder does not know is never judged."""
    return not isinstance(body, Unknown) and judges(rules, body.TYPE)
