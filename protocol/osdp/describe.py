"""One line for a person about one packet. Card data, keys pressed and keys are never in it, whoever asks."""

from __future__ import annotations

from protocol.errors import RemoteError
from protocol.osdp.codes import CommandCode, ReplyCode, ScsType
from protocol.osdp.commands import Command, FileTransfer, KeySet, SetCommunication, decode_command
from protocol.osdp.limits import BROADCAST
from protocol.osdp.packet import Packet
from protocol.osdp.replies import (
    CardRead,
    FileState,
    FormattedRead,
    Identity,
    Keypad,
    LocalStatus,
    Nak,
    Reply,
    decode_reply,
)

_ENCRYPTED = frozenset({ScsType.COMMAND_DATA, ScsType.REPLY_DATA})


def describe(packet: Packet) -> str:
    """Direction, address, sequence, name, security, and what its data say where they are in clear."""
    where = "all" if packet.address == BROADCAST else str(packet.address)
    arrow = f"{where} -> panel" if packet.reply else f"panel -> {where}"
    check = "" if packet.uses_crc else ", checksum"
    return f"{arrow}  #{packet.sequence} {_name(packet)}{_security(packet)}{check}{_details(packet)}"


def _name(packet: Packet) -> str:
    codes: type[CommandCode | ReplyCode] = ReplyCode if packet.reply else CommandCode
    try:
        return codes(packet.code).name
    except ValueError:
        return f"{packet.code:02X}?"


def _security(packet: Packet) -> str:
    kind = packet.block_type
    if not kind:
        return ""
    if kind in _ENCRYPTED:
        return f", sealed, {len(packet.data)} bytes encrypted"
    if packet.mac:
        return ", sealed"
    if kind in {ScsType.CHLNG, ScsType.CCRYPT, ScsType.SCRYPT} and len(packet.block) == 2:
        return ", default key" if packet.block[1] == 0 else ", own key"
    return f", block {kind:02X}"


def _details(packet: Packet) -> str:
    if packet.block_type in _ENCRYPTED or not packet.data:
        return ""
    try:
        if packet.reply:
            return ": " + _of_reply(decode_reply(packet.code, packet.data))
        return ": " + _of_command(decode_command(packet.code, packet.data))
    except RemoteError as error:
        return f": {error}"


def _of_command(command: Command) -> str:
    match command:
        case KeySet():
            return "a key in clear"
        case SetCommunication(address=address, baud=baud):
            return f"address {address}, {baud} baud"
        case FileTransfer():
            return f"{len(command.fragment)} bytes at {command.offset} of {command.total_bytes}"
    return f"{len(command.encode())} bytes"


def _of_reply(reply: Reply) -> str:
    match reply:
        case Nak():
            return reply.name
        case Identity():
            firmware = ".".join(map(str, reply.firmware))
            return f"vendor {reply.vendor.hex()}, serial {reply.serial.hex()}, firmware {firmware}"
        case CardRead(bits=bits):
            return f"a card of {bits} bits"
        case FormattedRead() | Keypad():
            return f"{len(reply.encode()) - 2} characters"
        case LocalStatus(tampered=tampered, power_failed=failed):
            return f"{'tampered' if tampered else 'closed'}, power {'failed' if failed else 'good'}"
        case FileState(status=status, delay_ms=delay_ms):
            return f"status {status}, delay {delay_ms} ms"
    return f"{len(reply.encode())} bytes"
