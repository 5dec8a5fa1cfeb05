"""An UPLOAD of one record, read at once: what is taken so is what the general way takes, with the same facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from frontend_server.intake import check_upload, single_upload
from protocol.errors import Malformed
from protocol.records import single_cents, summarise
from tests.protocol.test_messages import vector

UPLOADS: Final = [vector(name) for name in ("UPLOAD, one record, live", "UPLOAD, the whole chain")]


def judged(judge: Callable[[], object]) -> object:
    try:
        return judge()
    except Malformed:
        return Malformed


@pytest.mark.parametrize("body", UPLOADS, ids=["one record", "a chain"])
def test_an_upload_of_one_record_is_judged_alike_whatever_its_bytes(body: bytes) -> None:
    terminal = int.from_bytes(body[12:16], "big")
    hostile = [body, body[:-1], body + b"\0", body[:4], b"", body + body[4:]]
    hostile += [body[:at] + bytes((value,)) + body[at + 1 :] for at in range(24) for value in (0, 1, 2, 64, 112, 255)]
    short = 0
    for data in hostile:
        for number in (terminal, terminal + 1):
            single = single_upload(data, number) if data else None
            if single is None:
                continue
            short += 1
            found = summarise(data[4:])
            assert check_upload(data, number) == (single[3], single[6], single[6])
            assert (found.terminal, found.epoch, found.first, found.last) == (number, single[3], single[6], single[6])
            assert (found.types, found.boots) == (bytes(single[:1]), (single[4],))
            assert (found.uptimes_ds, found.clocks_ms) == ((single[7],), (single[8],))
            assert found.amounts_cents == (single_cents(single),)
    assert bool(short) == (body is UPLOADS[0])
    general = [data for data in hostile if judged(lambda data=data: check_upload(data, terminal)) is not Malformed]  # type: ignore[misc]
    forbidden = [data for data in general if data[4] in {0, 255}]
    if body is UPLOADS[0]:
        assert short == len(general) - len(forbidden)
