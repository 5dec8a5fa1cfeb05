"""Replay, reflection, splicing, truncation and downgrade, each tried in every state of a session (R31–R35)."""

from __future__ import annotations

import pytest

from protocol.codes import FrameKind, Medium, Suite
from protocol.frame import HEADER_BYTES
from protocol.session import Established
from tests.attacks.wire import DOWN, MESSAGES, STEPS, UP, WAYS, Wire, recordings
from tests.fuzz.streams import checks_mended

EVERY_WAY = pytest.mark.parametrize(("medium", "suite"), WAYS, ids=lambda each: each.name)


def _honest_prefix(wire: Wire, steps: int) -> list[tuple[str, bytes]]:
    """What has been taken by then if nobody interferes."""
    return list(wire.run(steps).taken)


@EVERY_WAY
def test_no_frame_of_any_session_is_taken_again_in_any_later_state(medium: Medium, suite: Suite) -> None:
    tried = 0
    for steps in range(STEPS + 1):
        for whose, direction, data in recordings(medium, suite):
            wire = Wire(medium, suite)
            expected = _honest_prefix(wire, steps)
            if whose == "this" and (direction, data) not in wire.writes:
                continue  # not said yet: that would be the next honest step
            if whose == "another" and data in [write for _, write in wire.writes]:
                continue  # no such: the nonces differ in every handshake frame
            events = wire.say(direction, data)
            tried += 1
            assert wire.taken == expected, f"{whose} session's frame was taken after {steps} steps"
            assert not any(isinstance(event, Established) for event in events)
    print(f"{tried} replays")
    assert tried > 100


@EVERY_WAY
def test_no_frame_is_taken_by_the_side_that_made_it(medium: Medium, suite: Suite) -> None:
    for steps in range(1, STEPS + 1):
        made = Wire(medium, suite).run(steps).writes
        for direction, data in made:
            wire = Wire(medium, suite)
            expected = _honest_prefix(wire, steps)
            wire.say(DOWN if direction == UP else UP, data)
            assert wire.taken == expected, f"a reflected frame was taken after {steps} steps"


@EVERY_WAY
def test_no_frame_spliced_from_two_sessions_or_directions_is_taken(medium: Medium, suite: Suite) -> None:
    sealed = [(direction, data) for _, direction, data in recordings(medium, suite) if data[2] == FrameKind.SEALED]
    assert len(sealed) == 2 * len(MESSAGES)
    for steps in range(4, STEPS):
        _, ours = Wire(medium, suite).run(steps + 1).writes[-1]
        for _, theirs in sealed:
            for cut in (HEADER_BYTES, HEADER_BYTES + 3, len(ours) - 16, len(ours) - 8):
                spliced = checks_mended(ours[:cut] + theirs[cut:], medium)
                if spliced == ours:
                    continue
                wire = Wire(medium, suite)
                expected = _honest_prefix(wire, steps)
                for direction in (UP, DOWN):
                    wire.say(direction, spliced)
                assert wire.taken == expected, f"a splice at {cut} was taken after {steps} steps"


@EVERY_WAY
def test_no_frame_with_a_shorter_or_longer_tag_is_taken(medium: Medium, suite: Suite) -> None:
    tag_bytes = 8 if medium is Medium.LINE else 16
    crc_bytes = 4 if medium is Medium.LINE else 0
    direction, whole = Wire(medium, suite).run(5).writes[-1]
    end = len(whole) - crc_bytes
    for change in [*range(-tag_bytes, 0), *range(1, 9)]:
        body = whole[HEADER_BYTES : end + change] if change < 0 else whole[HEADER_BYTES:end] + bytes(change)
        # The length field says what makes the frame whole again: the attacker moves the border of body and tag.
        length = int.from_bytes(whole[8:10], "big") + change
        if length < 0:
            continue
        frame = whole[:8] + length.to_bytes(2, "big") + bytes(2) + body + bytes(crc_bytes)
        wire = Wire(medium, suite)
        expected = _honest_prefix(wire, 4)
        wire.say(direction, checks_mended(frame, medium))
        assert wire.taken == expected, f"a tag of {tag_bytes + change} bytes was taken"


@EVERY_WAY
def test_no_sealed_frame_with_one_bit_changed_is_taken_under_right_checks(medium: Medium, suite: Suite) -> None:
    direction, whole = Wire(medium, suite).run(5).writes[-1]
    tried = 0
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        forged = checks_mended(bytes(changed), medium)
        if forged == whole:
            continue  # the bit was one of a check, which has been put right again
        wire = Wire(medium, suite)
        expected = _honest_prefix(wire, 4)
        wire.say(direction, forged)
        assert wire.taken == expected, f"bit {bit} made no difference"
        tried += 1
    assert tried == 8 * (len(whole) - 2 - (4 if medium is Medium.LINE else 0))


@pytest.mark.parametrize("suite", list(Suite)[:2], ids=lambda suite: suite.name)
def test_a_session_survives_no_change_of_suite_on_the_way(suite: Suite) -> None:
    """Whoever changes HELLO, CHALLENGE or both to the other suite ends the handshake: the transcript differs."""
    other = Suite.B if suite is Suite.A else Suite.A
    for changes_hello in (True, False):
        for changes_challenge in (True, False):
            if not (changes_hello or changes_challenge):
                continue
            wire = Wire(Medium.TCP, suite)
            hello = wire.terminal.take_output()
            wire.say(UP, _with_suite(hello, other) if changes_hello else hello)
            challenge = wire.front_end.take_output()
            wire.say(DOWN, _with_suite(challenge, other) if changes_challenge else challenge)
            wire.say(UP, wire.terminal.take_output())
            wire.say(DOWN, wire.front_end.take_output())
            assert not wire.terminal.established
            assert not wire.front_end.established


def _with_suite(frame: bytes, suite: Suite) -> bytes:
    """A handshake frame whose suite byte (the first of the body, docs/protocol.md §4) says another."""
    if len(frame) <= HEADER_BYTES:
        return frame
    return checks_mended(frame[:HEADER_BYTES] + bytes((suite,)) + frame[HEADER_BYTES + 1 :], Medium.TCP)
