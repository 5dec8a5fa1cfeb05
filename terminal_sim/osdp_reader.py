"""A simulated OSDP reader: what its lamps, buzzer, display and outputs show, and the files, keys and settings it took.

The line's side is `protocol.osdp.peripheral`; this is the device behind it. It has no clock of its own: what a command
says about time is not acted out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.errors import OutOfRange
from protocol.osdp.codes import CapabilityCode, FileFlag, FileStatus, NakCode
from protocol.osdp.commands import (
    Abort,
    Buzzer,
    Command,
    FileTransfer,
    InputStatusRequest,
    KeepActive,
    Led,
    LocalStatusRequest,
    Manufacturer,
    Output,
    OutputStatusRequest,
    ReaderStatusRequest,
    Text,
)
from protocol.osdp.limits import FILE_BYTES_MAX
from protocol.osdp.peripheral import Peripheral, ReaderSetup
from protocol.osdp.replies import (
    Ack,
    Busy,
    Capabilities,
    FileState,
    Identity,
    InputStatus,
    Keypad,
    LocalStatus,
    ManufacturerReply,
    Nak,
    OutputStatus,
    ReaderStatus,
    Reply,
    card_read,
)

OUTPUTS: Final = 2
INPUTS: Final = 2
LEDS: Final = 2
RECEIVE_BYTES: Final = 1024
_ON_CONTROLS: Final = frozenset({2, 4, 5})
CAPABILITIES: Final = Capabilities(
    (
        (CapabilityCode.CONTACTS, 1, INPUTS),
        (CapabilityCode.OUTPUTS, 1, OUTPUTS),
        (CapabilityCode.CARD_FORMAT, 1, 1),
        (CapabilityCode.LED, 1, LEDS),
        (CapabilityCode.BUZZER, 1, 1),
        (CapabilityCode.TEXT, 1, 1),
        (CapabilityCode.CHECK, 1, 0),
        (CapabilityCode.SECURITY, 1, 1),
        (CapabilityCode.RECEIVE_SIZE, RECEIVE_BYTES & 0xFF, RECEIVE_BYTES >> 8),
        (CapabilityCode.READERS, 1, 1),
    )
)
IDENTITY: Final = Identity(b"\x0c\xa5\x1d", 1, 1, b"\0\0\0\0", (1, 0, 0))


class OsdpReader:
    """One device; `line` is its core, to be joined to a bus."""

    def __init__(
        self,
        address: int,
        random_bytes: Callable[[int], bytes],
        *,
        base_key: bytes | None = None,
        install_until_ms: int | None = None,
        baud: int = 9600,
    ) -> None:
        serial = Identity(IDENTITY.vendor, 1, 1, address.to_bytes(4, "little"), IDENTITY.firmware)
        setup = ReaderSetup(
            address, serial, CAPABILITIES, base_key=base_key, install_until_ms=install_until_ms, baud=baud
        )
        self.line = Peripheral(setup, self)
        self.random_bytes = random_bytes
        self.led_color = [0] * LEDS
        self.outputs = bytearray(OUTPUTS)
        self.inputs = bytearray(INPUTS)
        self.sounds = 0
        self.text = b""
        self.tampered = False
        self.power_failed = False
        self.stored_key = base_key
        self.files: dict[int, bytes] = {}
        self.manufacturer_commands: list[Manufacturer] = []
        self.file_delay_ms = 0
        self.file_interleaves = True
        self.busy_times = 0
        """So many commands are answered by BUSY before one is done."""
        self.takes_communication = True
        self._incoming = bytearray()

    # -- what people do to it --------------------------------------------------------------------------------

    def tap(self, bits: str) -> None:
        """Hold a card in front of it."""
        self.line.submit(card_read(bits))

    def press(self, digits: str) -> None:
        self.line.submit(Keypad(0, digits.encode("ascii")))

    def tamper(self, *, open_case: bool) -> None:
        self.tampered = open_case
        self.line.submit(LocalStatus(self.tampered, self.power_failed))

    def fail_power(self, *, failed: bool) -> None:
        self.power_failed = failed
        self.line.submit(LocalStatus(self.tampered, self.power_failed))

    def set_input(self, number: int, *, active: bool) -> None:
        self.inputs[number] = active
        self.line.submit(InputStatus(bytes(self.inputs)))

    # -- the handler of its core -----------------------------------------------------------------------------

    def handle(self, command: Command) -> Reply:
        if self.busy_times:
            self.busy_times -= 1
            return Busy()
        match command:
            case LocalStatusRequest():
                return LocalStatus(self.tampered, self.power_failed)
            case InputStatusRequest():
                return InputStatus(bytes(self.inputs))
            case OutputStatusRequest():
                return OutputStatus(bytes(self.outputs))
            case ReaderStatusRequest():
                return ReaderStatus(b"\2" if self.tampered else b"\0")
            case Output():
                return self._switch(command)
            case Led():
                return self._light(command)
            case Buzzer():
                self.sounds += 1
            case Text():
                self.text = command.text
            case FileTransfer():
                return self._take_fragment(command)
            case Manufacturer():
                self.manufacturer_commands.append(command)
                return ManufacturerReply(command.vendor, command.body)
            case Abort():
                self._incoming.clear()
            case KeepActive():
                pass
            case _:
                return Nak(NakCode.UNKNOWN_COMMAND)
        return Ack()

    def store_key(self, key: bytes) -> bool:
        self.stored_key = key
        return True

    def store_communication(self, address: int, baud: int) -> bool:
        if not 0 <= address < 0x7F or baud <= 0:
            raise OutOfRange(f"address {address}, {baud} baud")
        return self.takes_communication

    def _switch(self, command: Output) -> Reply:
        if any(one.output >= OUTPUTS for one in command.outputs):
            return Nak(NakCode.RECORD)
        for one in command.outputs:
            if one.control:
                self.outputs[one.output] = one.control in _ON_CONTROLS
        return Ack()

    def _light(self, command: Led) -> Reply:
        if any(one.led >= LEDS for one in command.leds):
            return Nak(NakCode.RECORD)
        for one in command.leds:
            if one.permanent.control == 1:
                self.led_color[one.led] = one.permanent.on_color
            if one.temporary.control == 2:
                self.led_color[one.led] = one.temporary.on_color
        return Ack()

    def _take_fragment(self, command: FileTransfer) -> Reply:
        flags = FileFlag.INTERLEAVE if self.file_interleaves else FileFlag(0)
        if command.offset == 0:
            self._incoming.clear()
        if command.total_bytes > FILE_BYTES_MAX or command.offset != len(self._incoming):
            return FileState(flags, 0, FileStatus.UNACCEPTABLE, 0)
        self._incoming += command.fragment
        if len(self._incoming) < command.total_bytes:
            return FileState(flags, self.file_delay_ms, FileStatus.GO_ON, 0)
        self.files[command.file_type] = bytes(self._incoming)
        self._incoming.clear()
        return FileState(flags, 0, FileStatus.DONE, 0)
