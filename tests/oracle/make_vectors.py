"""Writes tests/vectors: `python -m tests.oracle.make_vectors`. Always the same."""

import json
from pathlib import Path
from typing import Final

from tests.oracle import (
    vectors_card,
    vectors_link,
    vectors_lists,
    vectors_messages,
    vectors_ranges,
    vectors_record_kinds,
    vectors_records,
    vectors_records_sm4,
    vectors_session,
    vectors_time,
)
from tests.oracle.fields import Fields

VECTORS: Final = Path(__file__).resolve().parent.parent / "vectors"


def all_vectors() -> dict[str, Fields]:
    """File name and content."""
    signed = vectors_lists.issued()
    return {
        "02_keys.json": vectors_session.section_2(),
        "03_frames.json": vectors_session.section_3(),
        "04_handshake.json": vectors_session.section_4(),
        "05_sealed_frames.json": vectors_session.section_5(),
        "06_messages.json": vectors_messages.section_6(signed),
        "07_records.json": vectors_records.section_7(),
        "07b_records_sm4.json": vectors_records_sm4.section_7_sm4(),
        "07c_record_kinds.json": vectors_record_kinds.section_7_kinds(),
        "08_ranges.json": vectors_ranges.section_8(),
        "09_trade_time.json": vectors_time.section_9(),
        "10_lists.json": vectors_lists.section_10(signed),
        "11_link.json": vectors_link.section_11(signed),
        "12_card.json": vectors_card.section_12(),
        "13_keystore.json": vectors_card.section_13(),
    }


def as_text(vectors: Fields) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    VECTORS.mkdir(exist_ok=True)
    for name, vectors in all_vectors().items():
        (VECTORS / name).write_text(as_text(vectors), encoding="utf-8")


if __name__ == "__main__":
    main()
