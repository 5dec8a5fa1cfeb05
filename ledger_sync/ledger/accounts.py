"""Account numbers and the sign of amounts (R18, docs/ledger.md). Pure.

    account = kind << 32 | subject          subject: card number, merchant id, or 0

Credits are positive and debits negative, so every batch and every operation sums to zero, and so does the whole
ledger: cash in + opening (debit balances) = mirrors + prepaid + loads in flight + suspense + merchants + paid out.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

SUBJECT_BITS: Final = 32
SUBJECT_MASK: Final = (1 << SUBJECT_BITS) - 1


class AccountKind(IntEnum):
    CASH_IN = 1
    OPENING = 2
    MIRROR = 3
    """One per card; what the ledger believes the card's purse to hold. Subject 0 is the sum of them all."""
    LOADS_IN_FLIGHT = 4
    SUSPENSE_GREY = 5
    SUSPENSE_UNPROVEN = 6
    MERCHANT = 7
    PREPAID = 8
    PAID_OUT = 9


SOURCES: Final = (AccountKind.CASH_IN, AccountKind.OPENING)
"""The left side of the conservation equation: their balances are debits."""


def account_number(kind: AccountKind, subject: int = 0) -> int:
    return kind << SUBJECT_BITS | subject


CASH_IN: Final = account_number(AccountKind.CASH_IN)
OPENING: Final = account_number(AccountKind.OPENING)
MIRROR_BASE: Final = account_number(AccountKind.MIRROR)
"""Plus the card number: that card's mirror. Itself: the sum of all mirrors, kept for the cheap check."""
LOADS_IN_FLIGHT: Final = account_number(AccountKind.LOADS_IN_FLIGHT)
SUSPENSE_GREY: Final = account_number(AccountKind.SUSPENSE_GREY)
SUSPENSE_UNPROVEN: Final = account_number(AccountKind.SUSPENSE_UNPROVEN)
MERCHANT_BASE: Final = account_number(AccountKind.MERCHANT)
"""Plus the merchant id."""
