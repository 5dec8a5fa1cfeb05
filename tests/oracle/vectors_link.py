"""Vectors of section 11: packed rows, every link message, batch name, receipt, chain of batches."""

from typing import Any, Final

from tests.oracle import link, reference, vectors_records
from tests.oracle.fields import Fields, parse
from tests.oracle.lists import Signed
from tests.oracle.messages import build_message, sealed_message
from tests.oracle.reference import BATCH_KEY, EPOCH, LEDGER_PUBLIC, LEDGER_SEED, NOW_MS, TERMINAL, Case, case, section
from tests.oracle.rows import BATCH_NAME, ROW, Row, batch_name, build_row
from tests.oracle.vectors_messages import baseline, tombstone

RECEIVED_MS: Final = NOW_MS + 100_000
GENERATION: Final = 2
FIRST_ROW: Final = 101
NOTHING_BEFORE: Final = bytes(32)

# What the ledger says to each record of the batch below, in order.
RESULTS: Final = [
    ("baseline", 0x20),
    ("purchase", 0x00),
    ("purchase with a lost card", 0x02),
    ("aborted", 0x20),
    ("grey", 0x06),
    ("completion", 0x08),
    ("unknown type", 0x13),
    ("unknown body version", 0x13),
    ("tombstone", 0x20),
    ("suspect", 0x07),
]


def _row(kind: int, first: int, last: int, payload: bytes, *, anchored: bool, trade_ms: list[int]) -> bytes:
    return build_row(
        {
            "row_kind": kind,
            "flags": int(anchored),
            "epoch": EPOCH,
            "terminal": TERMINAL,
            "first_sequence": first,
            "last_sequence": last,
            "received_ms": RECEIVED_MS,
            "trade_ms": trade_ms,
            "payload": payload.hex(),
        }
    )


def rows() -> list[Row]:
    """A baseline, the chain of section 7, a tombstone, a suspect; row 103 was never committed."""
    genesis = vectors_records.genesis().hex()
    login = sealed_message(baseline([(EPOCH, 1, 1, 8, genesis)]), reference.SEAL_KEY)
    lost = sealed_message(tombstone(8, 9), reference.SEAL_KEY)
    chain = vectors_records.chain()
    suspect = vectors_records.aborted_chain(2, fork_at=2)[1]
    times = [NOW_MS + 10_000 * sequence for sequence in range(1, len(chain) + 1)]
    return [
        (101, _row(2, 1, 8, build_message(login), anchored=True, trade_ms=[])),
        (102, _row(1, 1, len(chain), b"".join(chain), anchored=True, trade_ms=times)),
        (104, _row(3, 8, 9, build_message(lost), anchored=False, trade_ms=[])),
        (105, _row(4, 2, 2, suspect, anchored=False, trade_ms=[times[1]])),
    ]


def receipt(name: bytes) -> Fields:
    """Counted as section 11.4 says; the results are those above."""
    found = [result for _, result in RESULTS]
    quarantined = sum(0x10 <= result <= 0x14 for result in found)

    def exception(result: int, sequence: int, row_offset: int) -> Fields:
        identity = {"terminal": TERMINAL, "epoch": EPOCH, "sequence": sequence}
        return {**identity, "result": result, "row_offset": row_offset}

    return {
        "batch_name": name.hex(),
        "ledger_generation": GENERATION,
        "chain_position": 1,
        "chain_hash": link.chain_hash(NOTHING_BEFORE, name, found).hex(),
        "records_posted": len(found) - quarantined,
        "duplicates": 0,
        "quarantined": quarantined,
        "sum_of_posted_amounts": 1250 + 800 + 450,
        "exceptions_not_listed": 0,
        "exceptions": [
            exception(0x02, 2, 1),
            exception(0x06, 4, 1),
            exception(0x13, 6, 1),
            exception(0x13, 7, 1),
            exception(0x07, 2, 4),
        ],
    }


def _question(body: bytes) -> Fields:
    """What REQUEST and ANSWER share."""
    return {
        "correlation": bytes(range(0xC0, 0xD0)).hex(),
        "expires_ms": NOW_MS + 5_000,
        "request_kind": 0x01,
        "body_length": len(body),
        "request_body": body.hex(),
    }


def _up(name: bytes) -> list[tuple[str, int, Fields]]:
    hello = {
        "front_end": reference.FRONT_END,
        "spool_id": reference.SPOOL_ID.hex(),
        "spool_birth_ms": NOW_MS,
        "last_row": 105,
        "nonce": reference.HELLO_NONCE.hex(),
        "known_ledger_generation": GENERATION,
        "known_position": 0,
    }
    report = {"terminal": TERMINAL, "report_kind": 1}
    batch = {
        "batch_name": name.hex(),
        "count_of_rows": len(rows()),
        "rows": [{"row_id": row_id, "row": row.hex()} for row_id, row in rows()],
    }
    return [
        ("LINK_HELLO", 0x01, hello),
        ("LINK_HELLO, new spool", 0x01, {**hello, "last_row": 0, "known_ledger_generation": 0}),
        ("BATCH", 0x02, batch),
        ("LIST_REQUEST, none held", 0x03, {"list_kind": 1, "held_generation": 0, "held_counter": 0}),
        ("LIST_REQUEST", 0x03, {"list_kind": 1, "held_generation": 2, "held_counter": 8}),
        ("REPORT, fork", 0x04, {**report, "text": "链分叉: seal of 2 differs"}),
        ("REPORT, no text", 0x04, {**report, "report_kind": 4, "text": ""}),
        ("PING", 0x05, {"nonce": reference.HELLO_NONCE.hex()}),
        ("REQUEST, echo", 0x06, _question(b"how far?")),
        ("REQUEST of a kind to come, empty", 0x06, {**_question(b""), "request_kind": 0x7F}),
    ]


def _down(name: bytes, signed: Signed) -> list[tuple[str, int, Fields]]:
    welcome = {
        "site": reference.SITE,
        "generation": GENERATION,
        "position": 0,
        "nonce": reference.HELLO_NONCE.hex(),
        "utc_ms": NOW_MS,
        "certificate": signed.certificate.hex(),
    }
    signatures = {"signed_head": signed.head.hex(), "certificate": signed.certificate.hex()}
    bare: Fields = {
        **receipt(name),
        "records_posted": 0,
        "duplicates": len(RESULTS),
        "quarantined": 0,
        "sum_of_posted_amounts": -1,
        "exceptions": [],
    }
    return [
        ("LINK_WELCOME", 0x81, welcome),
        ("RECEIPT", 0x82, receipt(name)),
        ("RECEIPT without exceptions, negative sum", 0x82, bare),
        (
            "LIST, snapshot",
            0x83,
            {
                "form": 1,
                "base_generation": 0,
                "base_counter": 0,
                "transfer_bytes": len(signed.content),
                **signatures,
                "data": signed.content.hex(),
            },
        ),
        (
            "LIST, delta",
            0x83,
            {
                "form": 2,
                "base_generation": signed.base_version[0],
                "base_counter": signed.base_version[1],
                "transfer_bytes": len(signed.delta),
                **signatures,
                "data": signed.delta.hex(),
            },
        ),
        ("RECOLLECT_REQUEST", 0x84, {"terminal": TERMINAL, "epoch": EPOCH, "first": 8, "last": 9}),
        ("REFUSAL, try later", 0x85, {"code": 3, "first_row": FIRST_ROW}),
        ("PONG", 0x86, {"nonce": reference.HELLO_NONCE.hex()}),
        ("ANSWER, echo", 0x87, {**_question(b"how far?"), "status": 0}),
        ("ANSWER, unknown kind", 0x87, {**_question(b""), "request_kind": 0x7F, "status": 1}),
    ]


def message(kind: int, given: Fields) -> bytes:
    body = link.build_body(kind, given)
    return link.build_message(kind, body, batch_key=BATCH_KEY, ledger_seed=LEDGER_SEED)


def name_of_batch() -> bytes:
    return batch_name(reference.FRONT_END, reference.SPOOL_ID, rows())


def _message_case(name: str, kind: int, given: Fields) -> Case:
    data = message(kind, given)
    _, shown = link.parse_message(data, batch_key=BATCH_KEY, ledger_public=LEDGER_PUBLIC)
    expected: dict[str, Any] = {"body": link.build_body(kind, given).hex()}
    size = link.proof_bytes(kind)
    if size:
        expected["proved"] = link.proved(data[4:-size]).hex()
        expected["proof"] = data[-size:].hex()
    return case(name, {"type": kind, **shown}, data, expected=expected)


def section_11(signed: Signed) -> Fields:
    name = name_of_batch()
    keys = {
        "batch_key": BATCH_KEY.hex(),
        "ledger_seed": LEDGER_SEED.hex(),
        "ledger_public_key": LEDGER_PUBLIC.hex(),
    }
    titles = ("baseline row", "records row", "tombstone row", "suspect row")
    cases: list[Case] = [case("keys of all messages below", keys, b"")]
    cases += [
        case(title, {**parse(ROW, row), "row_id": row_id}, row)
        for title, (row_id, row) in zip(titles, rows(), strict=True)
    ]
    cases.append(case("batch name", parse(BATCH_NAME, name), name))
    results = bytes(result for _, result in RESULTS)
    second = [0x01] * len(RESULTS)
    first_hash = link.chain_hash(NOTHING_BEFORE, name, list(results))
    for title, previous, found in (
        ("chain hash at position 1", NOTHING_BEFORE, list(results)),
        ("chain hash at position 2", first_hash, second),
    ):
        given = {"previous_chain_hash": previous.hex(), "batch_name": name.hex(), "results": bytes(found).hex()}
        expected = {"result_digest": link.result_digest(found).hex()}
        cases.append(case(title, given, link.chain_hash(previous, name, found), expected=expected))
    cases += [_message_case(*one) for one in [*_up(name), *_down(name, signed)]]
    cases += _refused(name)
    return section("11. Spool rows and the link to the ledger", cases)


def _refused(name: bytes) -> list[Case]:
    ping = message(0x05, {"nonce": reference.HELLO_NONCE.hex()})
    batch = message(0x02, next(given for _, kind, given in _up(name) if kind == 0x02))
    signed_receipt = message(0x82, receipt(name))
    middle = len(batch) // 2

    def wrong(title: str, data: bytes, error: str) -> Case:
        return case(f"refused: {title}", {}, data, error=error)

    return [
        wrong("version 2", ping[:4] + b"\x02" + ping[5:], "malformed"),
        wrong("unknown type", ping[:5] + b"\x7f" + ping[6:], "malformed"),
        wrong("reserved not zero", ping[:7] + b"\x01" + ping[8:], "malformed"),
        wrong("length too small", ping[:3] + bytes([ping[3] - 1]) + ping[4:], "malformed"),
        wrong("MAC of a PING", ping[:-1] + bytes([ping[-1] ^ 1]), "MAC wrong"),
        wrong("row of a BATCH", batch[:middle] + bytes([batch[middle] ^ 1]) + batch[middle + 1 :], "digest wrong"),
        wrong("signature of a RECEIPT", signed_receipt[:-1] + bytes([signed_receipt[-1] ^ 1]), "signature wrong"),
        wrong("position in a RECEIPT", signed_receipt[:87] + b"\x02" + signed_receipt[88:], "signature wrong"),
    ]
