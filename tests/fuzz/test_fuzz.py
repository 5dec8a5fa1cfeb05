"""A million bent inputs on every decoder and state machine; and that the harness finds what is there to be found."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import pytest

from protocol.errors import Malformed
from tests.fuzz import streams
from tests.fuzz.run import Unit, run_unit, shares
from tests.fuzz.targets import TARGETS, Target
from tests.source_tree import ROOT

FRAMES: Final = 1_050_000  # at least a million, whatever rounding leaves out
SEED: Final = 20261128
NEVER_REFUSE: Final = {name for name, target in TARGETS.items() if target.accepts_any} | {"line frames"}
NEVER_TAKE: Final = {"cards without a key", "keystore"}  # an authentic file or command cannot be found by bending


@pytest.mark.timeout(600)  # half a minute on two idle cores
def test_a_million_bent_inputs_bring_out_nothing_but_errors_of_the_protocol() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--frames", str(FRAMES), "--seed", str(SEED), "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    figures = json.loads(done.stdout)
    assert figures["inputs"] >= 1_000_000
    targets = figures["targets"]
    assert set(targets) == set(shares())
    assert {name for name, each in targets.items() if not each["refused"]} <= NEVER_REFUSE
    assert {name for name, each in targets.items() if not each["taken"]} <= NEVER_TAKE


def test_a_unit_gives_the_same_again() -> None:
    for name in ("record", "line frames", "dialogue with a lying card"):
        assert run_unit(Unit(name, 7, 300)) == run_unit(Unit(name, 7, 300))


def _reads_beyond(data: bytes) -> int:
    if len(data) < 4:
        raise Malformed("test", "too short")
    return int(struct.unpack_from("!I", data, data[0] % 8)[0])


def _planted(monkeypatch: pytest.MonkeyPatch, decode: Any, encode: Any = None) -> str:
    """What the harness says of a decoder with a fault."""
    planted = Target("planted", decode, lambda: (bytes(12), b"\x00\x01\x02\x03\x04\x05"), encode)
    monkeypatch.setitem(TARGETS, "planted", planted)
    return run_unit(Unit("planted", SEED, 2_000)).failure


def test_an_error_that_is_not_the_protocols_is_found_with_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = _planted(monkeypatch, _reads_beyond)
    assert "planted: error for " in failure
    assert "unpack_from requires a buffer" in failure


def test_a_value_that_does_not_survive_its_own_encoding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = _planted(monkeypatch, lambda data: data[:1], lambda value: value + b"!" if value != b"\0" else b"\1")
    assert "another value after encoding and decoding" in failure


def test_a_decoder_that_depends_on_how_bytes_are_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(chunks: Sequence[bytes]) -> streams.Result:
        return [chunk[:2] for chunk in chunks if chunk], ""

    monkeypatch.setitem(streams.READERS, "TCP frames", (read, streams.READERS["TCP frames"][1]))
    assert "whole no error" in run_unit(Unit("TCP frames", SEED, 200)).failure
