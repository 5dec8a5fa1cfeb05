"""Vectors of sections 2 to 5: keys, frames, handshake, sealed frames."""

from typing import Any, Final

from tests.oracle import handshake, keys, reference, sealed
from tests.oracle.fields import Fields, build
from tests.oracle.frames import build_frame
from tests.oracle.primitives import SUITE_A, SUITE_B, crc16
from tests.oracle.reference import EPOCH, TERMINAL, Case, case, section
from tests.oracle.session import challenge, first_messages, hello, plain_frame, run_handshake

SUITE_NAMES: Final = {SUITE_A: "suite A", SUITE_B: "suite B"}


def _kdf_case(name: str, key: bytes, label: str, context: bytes, suite: int) -> Case:
    bits = keys.LABELS[label]
    given = {
        "suite": suite,
        "key": key.hex(),
        "label": label,
        "context": context.hex(),
        "length_bits": bits,
    }
    return case(f"{name}, {SUITE_NAMES[suite]}", given, keys.kdf(key, label, context, bits, suite))


def section_2() -> Fields:
    cases: list[Case] = []
    for suite in (SUITE_A, SUITE_B):
        names = {
            "terminal": TERMINAL,
            "epoch": EPOCH,
            "key_version": reference.LINK_KEY_VERSION,
            "master": reference.LINK_MASTER.hex(),
            "suite": suite,
        }
        context = keys.link_context(TERMINAL, EPOCH, reference.LINK_KEY_VERSION)
        link = keys.derive(reference.LINK_MASTER, "link.terminal", context, suite)
        cases.append(case(f"link key by its names, {SUITE_NAMES[suite]}", names, link))
        cases.append(_kdf_case("link.terminal", reference.LINK_MASTER, "link.terminal", context, suite))
        seen = run_handshake(suite=suite)["transcript"]
        cases += [_kdf_case(label, link, label, seen, suite) for label in keys.LABELS if label.startswith("session.")]
        context = keys.terminal_context(TERMINAL, EPOCH)
        cases += [
            _kdf_case(label, reference.SEAL_MASTER, label, context, suite)
            for label in ("seal.terminal", "answer.terminal")
        ]
        long = keys.kdf(reference.LINK_MASTER, "two.blocks", b"\x00\x01", 256, suite)
        given = {
            "suite": suite,
            "key": reference.LINK_MASTER.hex(),
            "label": "two.blocks",
            "context": "0001",
            "length_bits": 256,
        }
        cases.append(case(f"KDF over two blocks, {SUITE_NAMES[suite]}", given, long))
    for purpose, master in reference.CARD_MASTERS.items():
        given = {
            "purpose": purpose,
            "master": master.hex(),
            "card_uid": reference.CARD_UID.hex(),
            "application_id": keys.APPLICATION_ID.hex(),
            "system_id": keys.SYSTEM_ID.hex(),
        }
        cases.append(case(f"card key, {purpose}", given, keys.card_key(master, reference.CARD_UID)))
    return section("2. Keys", cases)


def section_3() -> Fields:
    cases: list[Case] = []
    for line in (False, True):
        medium = "line" if line else "TCP"
        common = {"line": line, "line_address": reference.LINE_ADDRESS if line else 0}
        for name, kind, size in (
            ("HELLO", 1, 32),
            ("CHALLENGE", 2, 32),
            ("PROVE", 3, 16),
            ("ACCEPT", 4, 16),
            ("REFUSE", 5, 4),
        ):
            body = reference.counting(0, size).hex()
            given = {"kind": kind, "down": kind in {2, 4, 5}, **common, "counter": 0, "body": body}
            cases.append(case(f"{name} frame, {medium}, body not a real one", given, build_frame(given)))
        tag = reference.counting(0x80, 8 if line else 16).hex()
        for down in (False, True):
            given = {"kind": 0x10, "down": down, **common, "counter": 0x000ABCDE, "body": "0102030405", "tag": tag}
            name = f"SEALED frame {'down' if down else 'up'}, {medium}, tag not a real one"
            cases.append(case(name, given, build_frame(given)))
    whole = plain_frame(1, build(handshake.HELLO, hello()))
    on_line = plain_frame(1, build(handshake.HELLO, hello(line=True)), line=True)
    cases += [
        _refused("magic wrong", b"\xc4" + whole[1:], False, "magic"),
        _refused("header check wrong", whole[:4] + b"\x01" + whole[5:], False, "header check"),
        _refused("crc wrong", on_line[:-1] + bytes([on_line[-1] ^ 1]), True, "crc"),
        _refused("version 2", _rechecked(whole, 1, 0x20), False, "version"),
        _refused("reserved kind 06", _rechecked(whole, 2, 0x06), False, "kind"),
        _refused("reserved flag", _rechecked(whole, 1, 0x18), False, "flags"),
        _refused("HELLO marked sealed", _rechecked(whole, 1, 0x11), False, "flags"),
        _refused("HELLO marked down", _rechecked(whole, 1, 0x12), False, "flags"),
        _refused("line flag on TCP", _rechecked(whole, 1, 0x14), False, "flags"),
        _refused("SEALED kind without the flag", _rechecked(whole, 2, 0x10), False, "flags"),
        _refused("body longer than the limit of 4096", _rechecked(whole, 8, 0x10, 0x01), False, "length"),
        _refused("version comes before kind", _rechecked(_rechecked(whole, 1, 0x20), 2, 6), False, "version"),
    ]
    return section("3. Frames", cases)


def _rechecked(frame: bytes, at: int, *values: int) -> bytes:
    """The frame with other header bytes and a header check that is right again."""
    changed = frame[:at] + bytes(values) + frame[at + len(values) :]
    return changed[:10] + crc16(changed[:10]).to_bytes(2, "big") + changed[12:]


def _refused(name: str, frame: bytes, line: bool, error: str) -> Case:
    return case(f"refused: {name}", {"line": line, "body_limit": 4096}, frame, error=error)


def section_4() -> Fields:
    refuse = {
        "refused": {"code": 1, "retry_after_s": 0},
        "busy": {"code": 2, "retry_after_s": 30},
    }
    cases = [
        case("HELLO body", {"kind": 1, **hello()}, build(handshake.HELLO, hello())),
        case("CHALLENGE body", {"kind": 2, **challenge()}, build(handshake.CHALLENGE, challenge())),
    ]
    cases += [
        case(f"REFUSE body, {name}", {"kind": 5, **given}, build(handshake.REFUSE, given))
        for name, given in refuse.items()
    ]
    for name, suite, line in (
        ("suite A on TCP", SUITE_A, False),
        ("suite A on a line", SUITE_A, True),
        ("suite B on TCP", SUITE_B, False),
    ):
        made = run_handshake(suite=suite, line=line)
        frames = {key: value.hex() for key, value in made.items()}
        given = {
            "link_master": reference.LINK_MASTER.hex(),
            "line_address": reference.LINE_ADDRESS if line else 0,
            "hello": hello(suite=suite, line=line),
            "challenge": challenge(suite=suite, line=line),
        }
        cases.append(case(f"handshake, {name}", given, made["transcript"], expected=frames))
    wrong_hello, wrong_challenge = (build(handshake.HELLO, hello()), build(handshake.CHALLENGE, challenge()))
    cases += [
        case(
            "refused: HELLO with a reserved byte",
            {"kind": 1},
            wrong_hello[:15] + b"\x01" + wrong_hello[16:],
            error="malformed",
        ),
        case("refused: HELLO of 31 bytes", {"kind": 1}, wrong_hello[:-1], error="malformed"),
        case("refused: HELLO of 33 bytes", {"kind": 1}, wrong_hello + b"\0", error="malformed"),
        case(
            "refused: CHALLENGE with a reserved byte",
            {"kind": 2},
            wrong_challenge[:14] + b"\x01" + wrong_challenge[15:],
            error="malformed",
        ),
    ]
    return section("4. Handshake", cases)


def section_5() -> Fields:
    cases: list[Case] = []
    for name, suite, line in (
        ("suite A on TCP", SUITE_A, False),
        ("suite A on a line", SUITE_A, True),
        ("suite B on TCP", SUITE_B, False),
    ):
        made = run_handshake(suite=suite, line=line)
        messages = [(f"{message}, {name}", *rest) for message, rest in first_messages().items()]
        messages.append((f"last frame before rekey, {name}", False, (1 << 20) - 1, bytes.fromhex("0702")))
        for title, down, counter, message in messages:
            way = "down" if down else "up"
            secret: dict[str, Any] = {"key": made[f"{way}_key"], "salt": made[f"{way}_salt"]}
            given: dict[str, Any] = {
                "suite": suite,
                "down": down,
                "line": line,
                "line_address": reference.LINE_ADDRESS if line else 0,
                "counter": counter,
            }
            frame = sealed.seal_frame(message, **given, **secret)
            shown = {**given, **{key: value.hex() for key, value in secret.items()}, "message": message.hex()}
            nonce = sealed.nonce(secret["salt"], counter, suite).hex()
            cases.append(case(title, shown, frame, expected={"nonce": nonce}))
    return section("5. Sealed frames", cases)
