"""Every message, record type, link message and card command once more, a line of fields and its bytes (section 15).

Taken from the cases that the vectors are made of: what stands here is what both implementations are held to.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.oracle import vectors_card, vectors_link, vectors_messages, vectors_record_kinds, vectors_records
from tests.oracle.fields import Fields

BYTES_PER_LINE: Final = 48
HEX_SHOWN_MAX: Final = 16  # characters of a field; the bytes stand below
LINE_CHARACTERS: Final = 118
HEAD_FIELDS: Final = frozenset(
    {"length", "proof_suite", "body_version", "epoch", "boot", "terminal", "uptime_ds", "clock_ms", "predecessor_seal"}
)
"""Of a record: the same in all of them here, or of no interest; the bytes have them."""
MESSAGES: Final = (
    "BASELINE, one epoch", "SEAL_ANSWER, held", "TOMBSTONE, flash unreadable", "HEARTBEAT", "LIST_STATE, staging",
    "BYE up, going down", "SEAL_QUERY", "ACK, four ranges", "RECOLLECT", "TIME, deny list current",
    "LIST_CHUNK, the rest of the snapshot", "BYE down, code 05",
)  # fmt: skip
LINKS: Final = (
    "LINK_HELLO", "LINK_WELCOME", "LIST_REQUEST", "LIST, delta", "REPORT, fork", "RECOLLECT_REQUEST",
    "REFUSAL, try later", "PING", "PONG", "REQUEST, echo", "ANSWER, echo",
)  # fmt: skip
RECORDS: Final = ("aborted, card on deny list", "grey", "completion of the grey")
CARD: Final = (
    "book lunch for 9.00", "book lunch for 9.00: read meals", "cancel the lunch", "collect the free dinner",
    "load 20.00", "refund 5.00 of the debit",
)  # fmt: skip


def every(signed: Any) -> list[str]:
    """The lines of the four listings."""
    kinds = [one for one in vectors_record_kinds.section_7_kinds()["cases"] if "predecessor_seal" in one["given"]]
    records = [*_named(vectors_records.section_7(), RECORDS), *kinds]
    return [
        "**Every other message**, without its frame; `type` is the first byte.",
        "",
        *_listing(_named(vectors_messages.section_6(signed), MESSAGES)),
        "",
        "**Every other record type.** Two chains of their own; the fields of the head that tell nothing are left out.",
        "",
        *_listing(records, leave_out=HEAD_FIELDS),
        "",
        "**The other link messages**, with length, envelope and proof.",
        "",
        *_listing(_named(vectors_link.section_11(signed), LINKS)),
        "",
        "**The other commands of the AES card**, each after SELECT and AUTHENTICATE, and its answer.",
        "",
        *_listing(_named(vectors_card.section_12(), CARD), leave_out=frozenset({"card_before"})),
        "",
    ]


def _named(section: Fields, names: Iterable[str]) -> list[Fields]:
    cases = {one["name"]: one for one in section["cases"]}
    return [cases[name] for name in names]


def _listing(cases: Iterable[Fields], *, leave_out: frozenset[str] = frozenset()) -> list[str]:
    lines = ["```text"]
    for one in cases:
        data = bytes.fromhex(one["bytes"])
        lines += _folded(f"{one['name']}, {len(data)} bytes: {_fields(one['given'], leave_out)}")
        lines += _hex(data)
        answer = one.get("expected", {}).get("answer")
        if answer is not None:
            lines += ["  answer", *_hex(bytes.fromhex(answer))]
    return [*lines, "```"]


def _fields(given: Mapping[str, Any], leave_out: frozenset[str]) -> str:
    shown: list[str] = []
    for name, value in given.items():
        if name in leave_out:
            continue
        if name == "body" and isinstance(value, Mapping):
            shown.append(_fields(value, leave_out))
        elif isinstance(value, Mapping):
            shown.append(f"{name} ({_fields(value, leave_out)})")
        elif isinstance(value, list):
            shown.append(f"{name} × {len(value)}")
        elif isinstance(value, str) and len(value) > HEX_SHOWN_MAX:
            shown.append(f"{name} {value[:HEX_SHOWN_MAX]}…")
        else:
            shown.append(f"{name} {value}")
    return ", ".join(shown)


def _folded(text: str) -> list[str]:
    """Lines of fields, broken between words; those that follow stand under the first."""
    lines, line = [], ""
    for word in text.split(" "):
        if len(line) + len(word) >= LINE_CHARACTERS:
            lines.append(line)
            line = " " * 4 + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _hex(data: bytes) -> list[str]:
    return [f"  {data[at : at + BYTES_PER_LINE].hex()}" for at in range(0, len(data), BYTES_PER_LINE)]
