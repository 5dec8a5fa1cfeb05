"""Code points of OSDP 2.2, as enums: one per table of the standard."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class CommandCode(IntEnum):
    """What a control panel says."""

    POLL = 0x60
    ID = 0x61
    CAP = 0x62
    LSTAT = 0x64
    ISTAT = 0x65
    OSTAT = 0x66
    RSTAT = 0x67
    OUT = 0x68
    LED = 0x69
    BUZ = 0x6A
    TEXT = 0x6B
    COMSET = 0x6E
    KEYSET = 0x75
    CHLNG = 0x76
    SCRYPT = 0x77
    ACURXSIZE = 0x7B
    FILETRANSFER = 0x7C
    MFG = 0x80
    XWR = 0xA1
    ABORT = 0xA2
    KEEPACTIVE = 0xA7


class ReplyCode(IntEnum):
    """What a peripheral device (a reader) says."""

    ACK = 0x40
    NAK = 0x41
    PDID = 0x45
    PDCAP = 0x46
    LSTATR = 0x48
    ISTATR = 0x49
    OSTATR = 0x4A
    RSTATR = 0x4B
    RAW = 0x50
    FMT = 0x51
    KEYPAD = 0x53
    COM = 0x54
    CCRYPT = 0x76
    RMAC_I = 0x78
    BUSY = 0x79
    FTSTAT = 0x7A
    MFGREP = 0x90
    XRD = 0xB1


class NakCode(IntEnum):
    """Why a reader refuses a command."""

    CHECK = 1
    LENGTH = 2
    UNKNOWN_COMMAND = 3
    SEQUENCE = 4
    NO_SECURE_CHANNEL = 5
    """The reader does not do what the security block asks for."""
    SECURITY_CONDITIONS = 6
    BIO_TYPE = 7
    BIO_FORMAT = 8
    RECORD = 9


class ScsType(IntEnum):
    """Second byte of a security control block; odd numbers go to the reader."""

    CHLNG = 0x11
    CCRYPT = 0x12
    SCRYPT = 0x13
    RMAC_I = 0x14
    COMMAND_MAC = 0x15
    REPLY_MAC = 0x16
    COMMAND_DATA = 0x17
    REPLY_DATA = 0x18


class CapabilityCode(IntEnum):
    """Function codes of a capability report (PDCAP)."""

    CONTACTS = 1
    OUTPUTS = 2
    CARD_FORMAT = 3
    LED = 4
    BUZZER = 5
    TEXT = 6
    TIME = 7
    CHECK = 8
    SECURITY = 9
    RECEIVE_SIZE = 10
    COMBINED_SIZE = 11
    SMART_CARD = 12
    READERS = 13
    BIOMETRICS = 14


class LedColor(IntEnum):
    BLACK = 0
    RED = 1
    GREEN = 2
    AMBER = 3
    BLUE = 4
    MAGENTA = 5
    CYAN = 6
    WHITE = 7


class Tone(IntEnum):
    """Tone code of a buzzer command."""

    NONE = 0
    OFF = 1
    DEFAULT = 2


class CardFormat(IntEnum):
    """Format byte of a raw card read."""

    UNSPECIFIED = 0
    WIEGAND = 1


class FileStatus(IntEnum):
    """Status of a file transfer; what is below zero ends it."""

    GO_ON = 0
    DONE = 1
    REBOOTING = 2
    FINISHING = 3
    """The reader still works on what it got: ask again with an empty fragment."""
    ABORTED = -1
    UNKNOWN_TYPE = -2
    UNACCEPTABLE = -3


class FileFlag(IntFlag):
    """First byte of FTSTAT."""

    INTERLEAVE = 1
    """Other commands may come between two fragments."""
    LEAVE_SECURE_CHANNEL = 2
    """The reader asks for fragments in clear; this implementation does not."""
    POLL_REPLY = 4
    """A reply to a poll waits."""
