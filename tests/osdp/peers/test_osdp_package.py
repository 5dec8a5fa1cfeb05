"""The control panel of the `osdp` package, which nobody here wrote, over our reader."""

from __future__ import annotations

import secrets

import pytest
from Crypto.Cipher import AES

from protocol.osdp.replies import Identity
from terminal_sim.osdp_reader import IDENTITY, OsdpReader
from tests.osdp.peers.child import now_ms, peer
from tests.osdp.peers.environment import peer_python

MASTER_KEY = bytes(range(50, 66))


def key_of(address: int) -> bytes:
    """The key that this panel derives from its master key and the reader's identity: a scheme of old, deprecated."""
    identity = Identity(IDENTITY.vendor, 1, 1, address.to_bytes(4, "little"), IDENTITY.firmware).client_id
    return AES.new(MASTER_KEY, AES.MODE_ECB).encrypt(identity + bytes(byte ^ 0xFF for byte in identity))


@pytest.mark.parametrize("mode", ["in clear", "secure", "from the default key"])
def test_its_panel_works_over_our_reader(mode: str) -> None:
    """Its first poll carries a security block before there is a session: the reader says NAK and carries on."""
    reader = OsdpReader(
        7,
        secrets.token_bytes,
        base_key=key_of(7) if mode == "secure" else None,
        install_until_ms=now_ms() + 60_000 if mode == "from the default key" else None,
    )
    wanted = {"address": 7, "master_key": MASTER_KEY.hex(), "secure": mode != "in clear"}
    with peer(peer_python("osdp"), "osdp_panel.py", wanted) as far:
        assert far.run(reader.line, reader.line.receive, reader.line.tick, lambda: bool(far.facts("output"))), far.told
        assert far.facts("output") == [True]
        assert reader.outputs[0] == 1
        assert reader.line.secure is (mode != "in clear")
        if mode == "from the default key":
            assert reader.stored_key == key_of(7)
        for number in range(3):
            reader.tap(format(0xC0FFEE00 + number, "032b"))
        assert far.run(reader.line, reader.line.receive, reader.line.tick, lambda: len(far.facts("card")) == 3)
        assert len({str(card) for card in far.facts("card")}) == 3
