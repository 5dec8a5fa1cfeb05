"""Vectors of section 6: every message up and down, and malformed ones."""

from typing import Any, Final

from tests.oracle import vectors_records
from tests.oracle.fields import Fields
from tests.oracle.lists import Signed
from tests.oracle.messages import MESSAGES, build_message, parse_message, sealed_message
from tests.oracle.reference import BOOT, EPOCH, NOW_MS, SEAL_KEY, TERMINAL, UPTIME_DS, Case, case, section

ZERO_SEAL: Final = "00" * 8


def baseline(entries: list[tuple[int, int, int, int, str]]) -> Fields:
    names = ("epoch", "oldest_held", "first_unacknowledged", "next", "seal_before_first_unacknowledged")
    return {
        "type": 0x01,
        "boot": BOOT,
        "terminal": TERMINAL,
        "uptime_ds": UPTIME_DS,
        "clock_ms": NOW_MS,
        "entries": [dict(zip(names, entry, strict=True)) for entry in entries],
    }


def tombstone(first: int, last: int, reason: int = 1) -> Fields:
    return {
        "type": 0x04,
        "reason": reason,
        "epoch": EPOCH,
        "terminal": TERMINAL,
        "first": first,
        "last": last,
    }


def ack(durable: int, settled: int, *ranges: tuple[int, int], credit: int = 4, flags: int = 0) -> Fields:
    return {
        "type": 0x82,
        "epoch": EPOCH,
        "durable": durable,
        "settled": settled,
        "credit": credit,
        "flags": flags,
        "ranges": [{"first": first, "last": last} for first, last in ranges],
    }


def upload(records: list[bytes], *, live: bool = False) -> Fields:
    return {
        "type": 0x02,
        "count": len(records),
        "length_of_last": len(records[-1]),
        "flags": int(live),
        "records": [record.hex() for record in records],
    }


def _up(chain: list[bytes], head: bytes) -> list[tuple[str, Fields]]:
    genesis = vectors_records.genesis().hex()
    seals = [record[-8:].hex() for record in chain]
    heartbeat = {
        "type": 0x05,
        "epoch": EPOCH,
        "boot": BOOT,
        "uptime_ds": UPTIME_DS,
        "next": 8,
        "first_unacknowledged": 4,
    }
    answer = {"type": 0x03, "epoch": EPOCH, "sequence": 3}
    state = {"type": 0x06, "list_kind": 1, "signed_head_held": "00" * 128}
    staged = {"staged_generation": 2, "staged_counter": 9, "staged_bytes": 4096}
    nothing = dict.fromkeys(staged, 0)
    return [
        ("BASELINE, nothing held", sealed_message(baseline([(EPOCH, 1, 1, 1, genesis)]), SEAL_KEY)),
        ("BASELINE, one epoch", sealed_message(baseline([(EPOCH, 1, 4, 8, seals[2])]), SEAL_KEY)),
        (
            "BASELINE, four epochs",
            sealed_message(
                baseline(
                    [
                        (1, 90, 90, 90, "a1" * 8),
                        (2, 5, 7, 7, "a2" * 8),
                        (EPOCH, 1, 4, 8, seals[2]),
                        (4, 1, 1, 1, genesis),
                    ]
                ),
                SEAL_KEY,
            ),
        ),
        ("UPLOAD, one record, live", upload(chain[:1], live=True)),
        ("UPLOAD, the whole chain", upload(chain)),
        ("SEAL_ANSWER, held", {**answer, "status": 0, "seal": seals[2]}),
        ("SEAL_ANSWER, overwritten", {**answer, "status": 1, "seal": ZERO_SEAL}),
        ("SEAL_ANSWER, never issued", {**answer, "status": 2, "seal": ZERO_SEAL}),
        ("SEAL_ANSWER, unreadable", {**answer, "status": 3, "seal": ZERO_SEAL}),
        ("TOMBSTONE, flash unreadable", sealed_message(tombstone(4, 6), SEAL_KEY)),
        ("TOMBSTONE, overwritten, one sequence", sealed_message(tombstone(9, 9, 2), SEAL_KEY)),
        ("HEARTBEAT", {**heartbeat, "flags": 0, "clock_ms": NOW_MS}),
        ("HEARTBEAT, clock never set, all flags", {**heartbeat, "flags": 0x0F, "clock_ms": 0}),
        ("LIST_STATE, holds none", {**state, "status": 0, **nothing}),
        ("LIST_STATE, staging", {**state, "status": 1, **staged, "signed_head_held": head.hex()}),
        ("LIST_STATE, bad signature", {**state, "status": 2, **nothing}),
        ("BYE up, going down", {"type": 0x07, "code": 1}),
    ]


def _down(signed: Signed) -> list[tuple[str, Fields]]:
    offer = {"type": 0x85, "signed_head": signed.head.hex(), "certificate": signed.certificate.hex()}
    snapshot, delta = signed.content, signed.delta
    return [
        ("SEAL_QUERY", {"type": 0x81, "epoch": EPOCH, "sequence": 3}),
        ("ACK, no ranges", ack(7, 3)),
        ("ACK, four ranges", ack(10, 3, (12, 12), (14, 20), (30, 39), (41, 4_294_967_295), credit=16)),
        ("ACK, kept as suspect, wait", ack(7, 0, credit=0, flags=1)),
        ("RECOLLECT", {"type": 0x83, "epoch": EPOCH, "first": 4, "last": 6}),
        ("TIME", {"type": 0x84, "flags": 0, "boot": BOOT, "uptime_ds": UPTIME_DS, "utc_ms": NOW_MS}),
        ("TIME, deny list current", {"type": 0x84, "flags": 1, "boot": BOOT, "uptime_ds": 1, "utc_ms": NOW_MS}),
        (
            "LIST_OFFER, snapshot, first 16 bytes",
            {
                **offer,
                "form": 1,
                "base_generation": 0,
                "base_counter": 0,
                "transfer_bytes": len(snapshot),
                "data": snapshot[:16].hex(),
            },
        ),
        (
            "LIST_OFFER, delta, complete",
            {
                **offer,
                "form": 2,
                "base_generation": signed.base_version[0],
                "base_counter": signed.base_version[1],
                "transfer_bytes": len(delta),
                "data": delta.hex(),
            },
        ),
        (
            "LIST_CHUNK, the rest of the snapshot",
            {
                "type": 0x86,
                "list_kind": 1,
                "generation": signed.version[0],
                "counter": signed.version[1],
                "offset": 16,
                "data": snapshot[16:].hex(),
            },
        ),
        *((f"BYE down, code {code:02x}", {"type": 0x87, "code": code}) for code in range(1, 8)),
    ]


def _refused(chain: list[bytes]) -> list[tuple[str, bytes]]:
    good = {
        kind: build_message(given)
        for kind, given in (
            (0x01, sealed_message(baseline([(EPOCH, 1, 4, 8, "aa" * 8)]), SEAL_KEY)),
            (0x02, upload(chain[:2])),
            (0x82, ack(10, 3, (12, 12), (14, 20))),
            (0x84, {"type": 0x84, "flags": 0, "boot": BOOT, "uptime_ds": UPTIME_DS, "utc_ms": NOW_MS}),
            (0x04, sealed_message(tombstone(4, 6), SEAL_KEY)),
            (0x05, {"type": 0x05, "flags": 0, "epoch": EPOCH, "boot": 1, "uptime_ds": 1, "clock_ms": 1}
             | {"next": 1, "first_unacknowledged": 1}),
        )
    }  # fmt: skip

    def changed(kind: int, at: int, *values: int) -> bytes:
        return good[kind][:at] + bytes(values) + good[kind][at + len(values) :]

    cases = [(f"{MESSAGES[kind][0]} one byte short", message[:-1]) for kind, message in good.items()]
    cases += [(f"{MESSAGES[kind][0]} one byte long", message + b"\0") for kind, message in good.items()]
    cases += [
        ("empty body", b""),
        ("unknown type up", b"\x7f"),
        ("unknown type down", b"\xff\x00"),
        ("BASELINE without entries", good[1][:1] + b"\0" + good[1][2:20] + good[1][-8:]),
        ("BASELINE, oldest 0", changed(1, 22, 0, 0, 0, 0)),
        ("BASELINE, oldest above first unacknowledged", changed(1, 22, 0, 0, 0, 5)),
        ("BASELINE, first unacknowledged above next", changed(1, 26, 0, 0, 0, 9)),
        ("UPLOAD of no record", b"\x02\x00\x60\x00"),
        ("UPLOAD with a count too high", changed(2, 1, 3)),
        ("UPLOAD with a wrong last length", changed(2, 2, 0x40)),
        ("UPLOAD with a reserved flag", changed(2, 3, 0x02)),
        ("TOMBSTONE, first above last", changed(4, 8, 0, 0, 0, 7)),
        ("HEARTBEAT with a reserved flag", changed(5, 1, 0x10)),
        ("HEARTBEAT with a reserved byte", changed(5, 7, 1)),
        ("ACK, n too high", changed(0x82, 1, 3)),
        ("ACK, credit 17", changed(0x82, 12, 17)),
        ("ACK with a reserved flag", changed(0x82, 13, 2)),
        ("ACK with a reserved byte", changed(0x82, 15, 1)),
        ("ACK, range touches durable", changed(0x82, 16, 0, 0, 0, 11)),
        ("ACK, ranges overlap", changed(0x82, 24, 0, 0, 0, 12)),
        ("ACK, range ends before it begins", changed(0x82, 20, 0, 0, 0, 11)),
        ("TIME with a reserved flag", changed(0x84, 1, 2)),
    ]
    return cases


def section_6(signed: Signed) -> Fields:
    chain = vectors_records.chain()
    cases: list[Case] = []
    for name, given in [*_up(chain, signed.head), *_down(signed)]:
        data = build_message(given)
        shown: dict[str, Any] = parse_message(data)
        more: Fields = {}
        if given["type"] in {0x01, 0x04}:
            more = {"expected": {"seal_key": SEAL_KEY.hex(), "sealed_over": _sealed_over(data).hex()}}
        cases.append(case(name, shown, data, **more))
    cases += [case(f"refused: {name}", {}, data, error="malformed") for name, data in _refused(chain)]
    assert {one["given"]["type"] for one in cases if one["given"]} == set(MESSAGES)
    return section("6. Messages", cases)


def _sealed_over(data: bytes) -> bytes:
    return (b"\xff\x02" if data[0] == 0x01 else b"\xff\x03") + data[:-8]
