"""Section 15: annotated bytes for a reader who writes a terminal. `python -m tests.oracle.examples` rewrites the block.

Each example is a list of (bytes, meaning) cut out of what the vectors are made of; that the pieces add up to the whole
is asserted, so that the page can show nothing that is not sent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.oracle import reference, sealed, vectors_card, vectors_link, vectors_lists, vectors_records
from tests.oracle.example_layouts import ACK, CARD, CHALLENGE, HEADER, HELLO, LIST_OFFER, RECEIPT, UPLOAD, Piece
from tests.oracle.examples_every import every
from tests.oracle.keys import derive
from tests.oracle.messages import build_message
from tests.oracle.session import run_handshake
from tests.oracle.vectors_messages import ack, upload

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
BEGIN: Final = "<!-- worked examples: begin -->"
END: Final = "<!-- worked examples: end -->"
BYTES_PER_LINE: Final = 24


def annotate(data: bytes, pieces: Sequence[Piece]) -> list[str]:
    """One line per piece, more where it is long."""
    assert sum(size for size, _ in pieces) == len(data), (len(data), pieces)
    lines, at = [], 0
    for size, meaning in pieces:
        piece = data[at : at + size]
        for start in range(0, size, BYTES_PER_LINE):
            shown = piece[start : start + BYTES_PER_LINE].hex()
            lines.append(f"{at + start:4}  {shown:{2 * BYTES_PER_LINE}}  {'' if start else meaning}".rstrip())
        at += size
    return lines


def _block(*parts: Sequence[str]) -> list[str]:
    return ["```text", *(line for part in parts for line in part), "```"]


def _named(values: dict[str, bytes]) -> list[str]:
    """Derived values beside their names; they are not sent."""
    width = max(len(name) for name in values)
    return [f"{name:{width}}  {value.hex()}" for name, value in values.items()]


def _keys_given() -> list[str]:
    masters = {f"card master, {purpose}": key for purpose, key in reference.CARD_MASTERS.items()}
    return _named(
        {
            "link master, version 2": reference.LINK_MASTER,
            "seal master": reference.SEAL_MASTER,
            **{name: masters[name] for name in ("card master, authenticate", "card master, debit", "card master, tac")},
            "enrolment id": reference.ENROLMENT_ID,
            "root seed": reference.ROOT_SEED,
            "ledger seed": reference.LEDGER_SEED,
        }
    )


def _handshake() -> list[str]:
    made = run_handshake()
    derived = {
        "link key": made["link_key"],
        "prove key": _prove_key("terminal"),
        "accept key": _prove_key("frontend"),
        **{name.replace("_", " "): made[name] for name in ("up_key", "up_salt", "down_key", "down_salt")},
    }
    return [
        "**Handshake** (suite A, TCP). The transcript is HELLO ‖ CHALLENGE as shown.",
        "",
        *_block(
            annotate(made["hello_frame"], HELLO),
            [""],
            annotate(made["challenge_frame"], CHALLENGE),
            [""],
            annotate(made["prove_frame"], [(12, "header: kind 03"), (16, "PROVE")]),
            [""],
            annotate(made["accept_frame"], [(12, "header: down, kind 04"), (16, "ACCEPT")]),
            [""],
            _named(derived),
        ),
        "",
    ]


def _prove_key(who: str) -> bytes:
    made = run_handshake()
    return derive(made["link_key"], f"session.prove.{who}", made["transcript"])


def _purchase() -> list[str]:
    made = run_handshake()
    message = build_message(upload(vectors_records.chain()[:1], live=True))
    answer = build_message(ack(1, 0))
    up = sealed.seal_frame(message, key=made["up_key"], salt=made["up_salt"], counter=3, down=False)
    down = sealed.seal_frame(answer, key=made["down_key"], salt=made["down_salt"], counter=2, down=True)
    derived = {
        "seal key": reference.SEAL_KEY,
        "card's TAC key": reference.CARD_KEYS["tac"],
        "up nonce": sealed.nonce(made["up_salt"], 3),
        "down nonce": sealed.nonce(made["down_salt"], 2),
    }
    return [
        "**A purchase, uploaded and acknowledged.** The bodies first, then the frames: the terminal's fourth in this",
        "session (counter 3), the front-end's third (counter 2).",
        "",
        *_block(
            annotate(message, UPLOAD),
            [""],
            annotate(up, [*HEADER, (len(message), "body, encrypted"), (16, "tag")]),
            [""],
            annotate(answer, ACK),
            [""],
            annotate(down, [*HEADER, (len(answer), "body, encrypted"), (16, "tag")]),
            [""],
            _named(derived),
        ),
        "",
    ]


def _offer() -> list[str]:
    signed = vectors_lists.issued()
    message = build_message(
        {
            "type": 0x85,
            "form": 2,
            "base_generation": signed.base_version[0],
            "base_counter": signed.base_version[1],
            "transfer_bytes": len(signed.delta),
            "signed_head": signed.head.hex(),
            "certificate": signed.certificate.hex(),
            "data": signed.delta.hex(),
        }
    )
    return [
        "**A delta of the deny list**, from cards 100, 200, 300, 4000000000 and lot 7 to cards 100, 250, 300, 301,",
        "4000000000 and lots 7, 8; the whole transfer fits into the offer.",
        "",
        *_block(annotate(message, LIST_OFFER)),
        "",
    ]


def _receipt() -> list[str]:
    data = vectors_link.message(0x82, vectors_link.receipt(vectors_link.name_of_batch()))
    return [
        "**A receipt** for rows 101 (baseline), 102 (seven records), 104 (tombstone) and 105 (suspect); row 103 was",
        "never committed. The results are 20, 00 02 20 06 08 13 13, 20, 07. The rows are in `11_link.json`.",
        "",
        *_block(annotate(data, RECEIPT)),
        "",
    ]


def _card() -> list[str]:
    parts: list[list[str]] = []
    for one in vectors_card.purchase_dialogue():
        command, answer = CARD[one["name"]]
        sent, got = bytes.fromhex(one["bytes"]), bytes.fromhex(one["expected"]["answer"])
        parts += [["terminal → card"], annotate(sent, command)]
        parts += [["card → terminal"], annotate(got, [*answer, (2, "done")])]
    keys = {f"{name} key": reference.CARD_KEYS[name] for name in ("authenticate", "debit", "tac")}
    return [
        "**The card dialogue** of that purchase; GET PROOF is only needed where the answer to DEBIT was lost.",
        "",
        *_block(*parts, [""], _named(keys)),
        "",
    ]


def render() -> str:
    """The block between the two comments, with both of them."""
    lines = [
        BEGIN,
        "",
        "All keys count upwards; nothing here is a secret.",
        "",
        *_block(_keys_given()),
        "",
        *_handshake(),
        *_purchase(),
        *_offer(),
        *_receipt(),
        *_card(),
        *every(vectors_lists.issued()),
        END,
    ]
    return "\n".join(lines)


def block_of(page: str) -> str:
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(block_of(page), render()), encoding="utf-8")


if __name__ == "__main__":
    main()
