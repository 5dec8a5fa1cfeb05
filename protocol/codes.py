"""Code points of docs/protocol.md, as enums: one per table."""

from __future__ import annotations

from enum import IntEnum


class Suite(IntEnum):
    """Link suite; fixed by provisioning, never negotiated (R32)."""

    A = 0x01
    """AES-128-CCM and AES-CMAC."""
    B = 0x02
    """SM4-GCM and SM4-CMAC; TCP only."""
    A_X25519 = 0x11
    """Reserved."""
    B_SM2 = 0x12
    """Reserved."""


class ProofSuite(IntEnum):
    """Algorithm of every use of a terminal's seal key, fixed at enrolment; independent of the link (R3)."""

    AES_CMAC = 0x01
    SM4_CMAC = 0x02


class Role(IntEnum):
    TERMINAL = 0x01
    FRONTEND = 0x02
    SERVICE_TOOL = 0x03


class Medium(IntEnum):
    TCP = 0x01
    LINE = 0x02


class TerminalClass(IntEnum):
    TERMINAL = 0x01
    PROXY = 0x02


class TerminalKind(IntEnum):
    POS = 0x01
    MEAL = 0x02
    DOOR = 0x03
    LOAD_STATION = 0x04


TERMINAL_KIND_MAX = 0x7F
"""Kinds up to here are accepted and passed on, known or not."""


class CardKind(IntEnum):
    AES = 0x01
    MEMORY = 0x02
    PBOC = 0x03


class FrameKind(IntEnum):
    HELLO = 0x01
    CHALLENGE = 0x02
    PROVE = 0x03
    ACCEPT = 0x04
    REFUSE = 0x05
    SEALED = 0x10


class RefuseCode(IntEnum):
    REFUSED = 0x01
    BUSY = 0x02


class MessageType(IntEnum):
    BASELINE = 0x01
    UPLOAD = 0x02
    SEAL_ANSWER = 0x03
    TOMBSTONE = 0x04
    HEARTBEAT = 0x05
    LIST_STATE = 0x06
    BYE_UP = 0x07
    COMMAND_RESULT = 0x08
    SEAL_QUERY = 0x81
    ACK = 0x82
    RECOLLECT = 0x83
    TIME = 0x84
    LIST_OFFER = 0x85
    LIST_CHUNK = 0x86
    BYE_DOWN = 0x87
    COMMAND = 0x88


class SealStatus(IntEnum):
    HELD = 0x00
    OVERWRITTEN = 0x01
    NEVER_ISSUED = 0x02
    UNREADABLE = 0x03


class TombstoneReason(IntEnum):
    UNREADABLE = 0x01
    OVERWRITTEN = 0x02
    LOST_IN_RESET = 0x03


class ListKind(IntEnum):
    DENY = 0x01
    PARAMETERS = 0x02
    PERMISSIONS = 0x03
    FIRMWARE = 0x04
    KEYS = 0x05


class ListForm(IntEnum):
    SNAPSHOT = 0x01
    DELTA = 0x02


class ListStatus(IntEnum):
    HOLDS = 0x00
    STAGING = 0x01
    BAD_SIGNATURE = 0x02
    NOT_HIGHER = 0x03
    BASE_NOT_HELD = 0x04
    DIGEST_WRONG = 0x05
    NO_ROOM = 0x06


class ByeCode(IntEnum):
    GOING_DOWN = 0x01
    REKEY = 0x02
    TAKEN_OVER = 0x03
    PROTOCOL_ERROR = 0x04
    FORKED = 0x05
    IDLE = 0x06
    CANNOT_STORE = 0x07


class RecordType(IntEnum):
    PURCHASE = 0x01
    COMPLETION = 0x02
    REFUND = 0x03
    LOAD = 0x04
    LOAD_NOT_EXECUTED = 0x05
    REFUSAL = 0x06
    GREY = 0x07
    """A debit whose outcome is not known."""
    DOUBT = 0x08
    """A refund, load, cancellation or collection whose outcome is not known."""
    BOOKING = 0x20
    CANCELLATION = 0x21
    COLLECTION = 0x22
    ACCESS_GRANTED = 0x40
    ACCESS_DENIED = 0x41
    DOOR_EVENT = 0x42
    ABORTED = 0x60
    EVENTS_LOST = 0x61
    TAMPER = 0x62
    POWER = 0x63
    ALARM = 0x64
    END_OF_EPOCH = 0x65
    """The terminal's sealed word that no record of this epoch follows (R11)."""


RECORD_TYPES_FORBIDDEN = frozenset({0x00, 0xFF})
"""Programmed and erased flash; 0xFF also separates the seal key's other uses."""


class AbortReason(IntEnum):
    CARD_REMOVED = 0x01
    CARD_REFUSED = 0x02
    DENY_LIST = 0x03
    BALANCE_TOO_LOW = 0x04
    OPERATOR = 0x05
    POWER_LOST = 0x06
    CARD_NOT_GENUINE = 0x07


class RefusalReason(IntEnum):
    """Why a terminal turned a card away before any dialogue about money."""

    DENY_LIST = 0x01
    EXPIRED = 0x02
    BALANCE_TOO_LOW = 0x03
    NOT_GENUINE = 0x04
    CARD_REFUSED = 0x05
    AMOUNT_LIMIT = 0x06
    DAILY_LIMIT = 0x07
    MEAL_LIMIT = 0x08
    NOT_BOOKED = 0x09
    OUTSIDE_SERVING_TIME = 0x0A
    CUT_OFF_PASSED = 0x0B
    LIST_TOO_OLD = 0x0C
    OPERATOR = 0x0D
    NO_ORDER = 0x0E
    NOT_REFUNDABLE = 0x0F


class AccessReason(IntEnum):
    """Why a door opened, or did not."""

    PERMITTED = 0x00
    FIRST_CARD_SEEN = 0x01
    UNKNOWN_CARD = 0x02
    DENY_LIST = 0x03
    EXPIRED = 0x04
    NO_PERMISSION = 0x05
    OUTSIDE_TIME_PROFILE = 0x06
    ANTI_PASSBACK = 0x07
    FIRST_CARD_MISSING = 0x08
    NOT_GENUINE = 0x09
    LOCKED = 0x0A
    WRONG_CODE = 0x0B


class AccessIdentity(IntEnum):
    """What the door knows of who stands before it (R41)."""

    CARD_PROVED = 0x01
    NUMBER_ONLY = 0x02


class DoorEventKind(IntEnum):
    FORCED = 0x01
    HELD_OPEN = 0x02
    CLOSED = 0x03
    REMOTE_OPEN = 0x04
    EXIT_BUTTON = 0x05
    LOCKED = 0x06
    UNLOCKED = 0x07


class PowerEvent(IntEnum):
    ON = 0x01
    MAINS_LOST = 0x02
    MAINS_BACK = 0x03
    BATTERY_LOW = 0x04


class EndReason(IntEnum):
    REPLACED = 0x01
    OUT_OF_SERVICE = 0x02


class AlarmKind(IntEnum):
    MEMORY_WARNING = 0x01
    MEMORY_FULL = 0x02
    CLOCK_DOUBTFUL = 0x03
    LIST_DAMAGED = 0x04
    DURESS = 0x05


class RowKind(IntEnum):
    RECORDS = 0x01
    BASELINE = 0x02
    TOMBSTONE = 0x03
    SUSPECT = 0x04


class LinkType(IntEnum):
    HELLO = 0x01
    BATCH = 0x02
    LIST_REQUEST = 0x03
    REPORT = 0x04
    PING = 0x05
    REQUEST = 0x06
    WELCOME = 0x81
    RECEIPT = 0x82
    LIST = 0x83
    RECOLLECT_REQUEST = 0x84
    REFUSAL = 0x85
    PONG = 0x86
    ANSWER = 0x87


class ReportKind(IntEnum):
    FORK = 0x01
    UNSIGNED_HEAD = 0x02
    HIGHER_HEAD = 0x03
    TAKE_OVERS = 0x04


class RequestKind(IntEnum):
    """What a front-end may ask over the link and wait for (docs/protocol.md §11.5)."""

    ECHO = 0x01


class AnswerStatus(IntEnum):
    DONE = 0x00
    UNKNOWN_KIND = 0x01
    TRY_LATER = 0x02


class RefusalCode(IntEnum):
    UNKNOWN_FRONTEND = 0x01
    MALFORMED = 0x02
    TRY_LATER = 0x03
    SUPERSEDED = 0x04


class PostingResult(IntEnum):
    """What the ledger did with one record (docs/protocol.md §11.4)."""

    POSTED = 0x00
    DUPLICATE = 0x01
    POSTED_CARD_STATE = 0x02
    POSTED_BALANCE = 0x03
    POSTED_COUNTER_REUSED = 0x04
    POSTED_FORK = 0x05
    SUSPENSE_GREY = 0x06
    SUSPENSE_UNPROVEN_FORK = 0x07
    COMPLETED = 0x08
    COMPLETION_NOTHING_NEW = 0x09
    POSTED_UNPROVEN = 0x0A
    SUSPENSE_UNPROVEN_LIMIT = 0x0B
    POSTED_REFUND_EXCEPTION = 0x0C
    POSTED_LOAD_WITHOUT_ORDER = 0x0D
    POSTED_MEAL_TWICE = 0x0E
    DOUBTFUL = 0x0F
    QUARANTINED_SEAL = 0x10
    QUARANTINED_CARD_PROOF = 0x11
    QUARANTINED_FORMAT = 0x12
    QUARANTINED_UNKNOWN_TYPE = 0x13
    QUARANTINED_UNKNOWN_TERMINAL = 0x14
    NOTED = 0x20
