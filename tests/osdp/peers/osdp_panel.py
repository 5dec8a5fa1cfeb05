"""Runs in the environment of the `osdp` package: its control panel on a TCP connection, one reader at the other end.

    osdp_panel.py PORT  < one JSON object: {"address", "master_key", "secure"}

It asks, switches and listens; what came of it goes out as JSON lines, until standard input ends.
"""

import json
import logging
import os
import socket
import sys
import time
from typing import Any

import osdp  # type: ignore[import-not-found]  # the environment of this process has it, ours must not

logging.disable(logging.CRITICAL)


def tell(**facts: Any) -> None:
    print(json.dumps(facts, default=str), flush=True)


class Panel(osdp.ControlPanel):  # type: ignore[misc]  # of an untyped package
    def on_raw_card_data_reply_received(self, address: int, raw_card_data: Any) -> None:
        tell(card=[address, raw_card_data.bit_count, bytes(raw_card_data.data).hex()])

    def on_keypad_data_reply_received(self, address: int, keypad_data: Any) -> None:
        tell(keys=address)


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    connection = osdp.TcpClientOsdpConnection("127.0.0.1", int(sys.argv[1]))
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    panel = Panel(bytes.fromhex(wanted["master_key"]) if wanted["master_key"] else None)
    bus = panel.start_connection(connection)
    address = wanted["address"]
    panel.add_device(bus, address, True, wanted["secure"])
    try:
        device = panel._buses[bus]._configured_devices[address]
        give_up = time.monotonic() + 20
        while not (panel.is_online(bus, address) and (device.is_security_established or not wanted["secure"])):
            if time.monotonic() > give_up:
                raise TimeoutError("never online")
            time.sleep(0.02)
        tell(online=True, secure=device.is_security_established, default_key=device.is_scbkd)
        tell(identity=str(panel.id_report(bus, address)))
        tell(capabilities=str(panel.device_capabilities(bus, address)))
        tell(local=str(panel.local_status(bus, address)))
        control = osdp.OutputControl(0, osdp.OutputControlCode.PermanentStateOnAbortTimedOperation, 0)
        tell(output=panel.output_control(bus, address, osdp.OutputControls([control])))
        while os.read(0, 4096):
            pass
    finally:
        panel.shutdown()
        os._exit(0)  # its polling thread ends when it likes


main()
