"""Account numbers and the sign of amounts (R18, docs/money.md). Pure.

    account = kind << 32 | subject          subject: card number, merchant id, or 0

Credits are positive and debits negative, so every batch and every operation sums to zero, and so does the whole
ledger: cash in + opening + loads without order (debit balances) = mirrors + prepaid + loads in flight + booked meals +
suspense + merchants + refund exceptions + paid out.
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
    """Load orders that will not be executed: the payer's again."""
    BOOKED_MEALS = 10
    """Paid for, neither collected nor cancelled; below zero for a while where a collection comes before its booking."""
    REFUND_EXCEPTIONS = 11
    """One per merchant: refunds whose purchase is not there, or does not allow them (R21)."""
    LOADS_WITHOUT_ORDER = 12
    """What cards prove to have been loaded with, and no order explains (R22): cash that somebody must have taken."""


SOURCES: Final = (AccountKind.CASH_IN, AccountKind.OPENING, AccountKind.LOADS_WITHOUT_ORDER)
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
PAID_OUT: Final = account_number(AccountKind.PAID_OUT)
BOOKED_MEALS: Final = account_number(AccountKind.BOOKED_MEALS)
REFUND_EXCEPTIONS_BASE: Final = account_number(AccountKind.REFUND_EXCEPTIONS)
"""Plus the merchant id."""
LOADS_WITHOUT_ORDER: Final = account_number(AccountKind.LOADS_WITHOUT_ORDER)
