"""Every bound of the protocol, with its reason (docs/protocol.md §1)."""

from __future__ import annotations

from typing import Final

BODY_BYTES_MAX_TCP: Final = 4096  # 42 records of 96 bytes; one read
BODY_BYTES_MAX_LINE: Final = 960  # 89 ms of a bus at 115,200 baud
BODY_BYTES_MIN: Final = 320  # a signed head and its certificate must fit one message
TAG_BYTES_TCP: Final = 16
TAG_BYTES_LINE: Final = 8

RECORD_BYTES_MIN: Final = 64
RECORD_BYTES_MAX: Final = 112
RECORD_BYTES_STEP: Final = 16
RECORDS_PER_FRAME_MAX: Final = 63  # what 4,092 bytes hold of the shortest record
BASELINE_ENTRIES_MAX: Final = 4  # epochs that a terminal still holds
ACK_RANGES_MAX: Final = 4  # R8
CREDIT_MAX: Final = 16  # frames outstanding; bounds what a session can queue
CREDIT_USUAL: Final = 4  # hides one round trip of 10 ms at 16 records a frame

SESSION_FRAMES_MAX: Final = 1 << 20  # re-key (R33)
SESSION_MS_MAX: Final = 24 * 3600 * 1000  # re-key (R33)
HANDSHAKE_MS_MAX: Final = 10_000  # from connection to established
HEARTBEAT_MS: Final = 30_000
HEARTBEAT_MS_MAX: Final = 300_000  # between two of a terminal that holds a deny list, however busy: TIME confirms it
TAG_FAILURES_MAX: Final = 10  # forged frames on a line before the session ends
GARBAGE_BYTES_MAX: Final = 8192  # two frames of the largest size

LIST_CHUNKS_OUTSTANDING_MAX: Final = 4  # offers and chunks unanswered, all list kinds together
LIST_ENTRIES_MAX: Final = 500_000  # cards and issue lots together: 2 MB, one link message
DOCUMENT_BYTES_MAX: Final = 65_536  # parameters, permissions: 16 sectors of flash; 70 frames of a line
LIST_AGE_MS_MAX_USUAL: Final = 24 * 3600 * 1000  # a day without news of the deny list (R28); parameters may say less
BATCH_ROWS_MAX: Final = 1024
BATCH_BYTES_MAX: Final = 1 << 20  # one ledger transaction
BATCHES_OUTSTANDING_MAX: Final = 4
RECEIPT_EXCEPTIONS_MAX: Final = 2048
LINK_MESSAGE_BYTES_MAX: Final = 2 << 20
REPORT_TEXT_BYTES_MAX: Final = 512
REQUEST_BODY_BYTES_MAX: Final = 1024  # a question about one card at one terminal, and its answer
KEYSTORE_BYTES_MAX: Final = 16 << 20
