"""Parameters and permissions on their way into a terminal; what the kinds share (docs/protocol.md §10, R27, R36)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.codes import ListForm, ListKind, ListStatus, TerminalKind
from protocol.deny_list import DenyList
from protocol.documents import canonical
from protocol.errors import Malformed, ProofError
from protocol.limits import DOCUMENT_BYTES_MAX
from protocol.list_kinds import LIST_KINDS, certificate_use, check_content, kinds_held_by
from protocol.list_transfer import ListReceiver, ListSender, ListVersion, SenderState
from protocol.messages import ListChunk, ListOffer, ListState
from protocol.signed import (
    Certificate,
    CertificateUse,
    SignedHead,
    SoftwareSigner,
    issue_certificate,
    sign_head,
    verify_certificate,
    verify_head,
)

VECTORS: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[1] / "vectors" / "10_lists.json").read_text(encoding="utf-8"))[
        "cases"
    ]
}
SITE = 42
ROOT = SoftwareSigner(b"R" * 32)
LEDGER_SEED, LISTS_SEED = b"L" * 32, b"P" * 32
BODY_BYTES = 320
CONTENT = canonical({"limits": {"amount_max_cents": 5_000}, "fill": "x" * 3_000})


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["bytes"])


def certificate(seed: bytes, use: CertificateUse) -> Certificate:
    facts = {"key_id": 1, "site": SITE, "valid_from_ms": 0, "valid_to_ms": 100}
    return issue_certificate(ROOT, public_key=SoftwareSigner(seed).public_key, use=use, **facts)


ONLINE = certificate(LEDGER_SEED, CertificateUse.ONLINE)
OFFLINE = certificate(LISTS_SEED, CertificateUse.OFFLINE)


def version(
    content: bytes, counter: int, *, kind: ListKind = ListKind.PARAMETERS, by: Certificate = OFFLINE, seed: bytes = b""
) -> ListVersion:
    seed = seed or (LEDGER_SEED if by is ONLINE else LISTS_SEED)
    head = sign_head(
        seed, key_id=1, site=SITE, list_kind=kind, generation=1, counter=counter, issued_ms=5, content=content
    )
    return ListVersion(head, by, content)


class Empty:
    def held_content(self) -> bytes:
        raise AssertionError("a document has no delta")

    def staged_data(self) -> bytes:
        return b""


def receiver(kind: ListKind = ListKind.PARAMETERS, **options: Any) -> ListReceiver:
    return ListReceiver(
        site=SITE, root_public=ROOT.public_key, room_bytes=DOCUMENT_BYTES_MAX, store=Empty(), kind=kind, **options
    )


def offer(of: ListVersion, *, form: ListForm = ListForm.SNAPSHOT, base: tuple[int, int] = (0, 0)) -> ListOffer:
    return ListOffer(form, *base, len(of.content), of.head_bytes, of.certificate_bytes, of.content)


def answer(terminal: ListReceiver, message: ListOffer) -> ListStatus:
    last = terminal.receive_offer(message)[-1]
    assert isinstance(last, ListState)
    return last.status


def test_offline_certificate_and_head_are_those_of_the_vector() -> None:
    expected = VECTORS["offline certificate"]["expected"]
    root, lists = (bytes.fromhex(expected[name]) for name in ("root_public_key", "lists_public_key"))
    certified = Certificate.decode(vector("offline certificate"))
    verify_certificate(certified, root, SITE, None, use=CertificateUse.OFFLINE)
    assert certified.public_key == lists
    head = SignedHead.decode(vector("signed head of the parameters"))
    verify_head(head, certified)
    assert head.names(vector("parameters, canonical"))
    with pytest.raises(ProofError):
        verify_certificate(certified, root, SITE, None)


def test_each_terminal_kind_holds_what_the_page_says() -> None:
    deny, parameters, permissions = ListKind.DENY, ListKind.PARAMETERS, ListKind.PERMISSIONS
    for kind in (TerminalKind.POS, TerminalKind.MEAL, TerminalKind.LOAD_STATION):
        assert kinds_held_by(kind) == (deny, parameters)
    assert kinds_held_by(TerminalKind.DOOR) == (deny, permissions, parameters)
    assert kinds_held_by(0x7F) == LIST_KINDS
    assert {certificate_use(kind) for kind in (parameters, permissions)} == {CertificateUse.OFFLINE}
    assert certificate_use(deny) is CertificateUse.ONLINE


def test_a_terminal_takes_parameters_signed_offline_and_refuses_them_signed_by_the_ledger() -> None:
    assert answer(receiver(), offer(version(CONTENT, 1))) is ListStatus.HOLDS
    assert answer(receiver(), offer(version(CONTENT, 1, by=ONLINE))) is ListStatus.BAD_SIGNATURE
    stolen = version(CONTENT, 1, by=OFFLINE, seed=LEDGER_SEED)
    assert answer(receiver(), offer(stolen)) is ListStatus.BAD_SIGNATURE


def test_the_offline_key_signs_no_deny_list() -> None:
    content = DenyList([5]).content()
    terminal = receiver(ListKind.DENY)
    assert answer(terminal, offer(version(content, 1, kind=ListKind.DENY))) is ListStatus.BAD_SIGNATURE
    assert answer(terminal, offer(version(content, 1, kind=ListKind.DENY, by=ONLINE))) is ListStatus.HOLDS


def test_permissions_are_not_taken_for_parameters() -> None:
    permissions = version(CONTENT, 1, kind=ListKind.PERMISSIONS)
    assert answer(receiver(), offer(permissions)) is ListStatus.BAD_SIGNATURE
    assert answer(receiver(ListKind.PERMISSIONS), offer(permissions)) is ListStatus.HOLDS


def test_a_delta_of_a_document_is_refused_whatever_its_base() -> None:
    terminal = receiver()
    assert answer(terminal, offer(version(CONTENT, 1))) is ListStatus.HOLDS
    delta = offer(version(CONTENT, 2), form=ListForm.DELTA, base=(1, 1))
    assert answer(terminal, delta) is ListStatus.BASE_NOT_HELD
    assert terminal.held_version == (1, 1)


def test_parameters_never_go_back() -> None:
    terminal = receiver()
    assert answer(terminal, offer(version(CONTENT, 7))) is ListStatus.HOLDS
    assert answer(terminal, offer(version(b"{}", 6))) is ListStatus.NOT_HIGHER
    assert answer(terminal, offer(version(b"{}", 7))) is ListStatus.NOT_HIGHER
    assert terminal.held_version == (1, 7)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"[]", b"\xff", DenyList([1]).content()])
def test_a_signed_content_in_another_form_replaces_nothing(content: bytes) -> None:
    terminal = receiver()
    assert answer(terminal, offer(version(CONTENT, 1))) is ListStatus.HOLDS
    assert answer(terminal, offer(version(content, 2))) is ListStatus.DIGEST_WRONG
    assert terminal.held_version == (1, 1)
    with pytest.raises(Malformed):
        check_content(ListKind.PARAMETERS, content)


def test_what_the_firmware_cannot_use_replaces_nothing() -> None:
    def check(content: bytes) -> None:
        if b"newer" in content:
            raise Malformed("parameters", "a key this firmware does not know")

    terminal = receiver(check=check)
    assert answer(terminal, offer(version(CONTENT, 1))) is ListStatus.HOLDS
    assert answer(terminal, offer(version(b'{"newer":1}', 2))) is ListStatus.DIGEST_WRONG
    assert terminal.held_version == (1, 1)


def test_a_longer_document_than_the_bound_is_refused_before_anything_is_staged() -> None:
    content = b'{"a":"' + b"x" * DOCUMENT_BYTES_MAX + b'"}'
    terminal = receiver()
    events = terminal.receive_offer(offer(version(content, 1)))
    assert [event.status for event in events if isinstance(event, ListState)] == [ListStatus.NO_ROOM]
    assert len(events) == 1


def staging(of: ListVersion, staged: int) -> ListState:
    return ListState(of.kind, ListStatus.STAGING, *of.head.version, staged)


def test_a_sender_without_window_sends_no_chunk_until_it_is_resumed() -> None:
    mine = version(CONTENT, 1)
    sender = ListSender(mine, body_bytes_max=BODY_BYTES)
    [first] = sender.on_state(ListState(mine.kind, ListStatus.HOLDS))
    assert isinstance(first, ListOffer)
    sender.window = 0
    assert sender.on_state(staging(mine, len(first.data))) == []
    assert (sender.is_busy, sender.unanswered, sender.state) == (True, 0, SenderState.SENDING)
    assert sender.resume() == []
    sender.window = 2
    chunks = sender.resume()
    assert [type(chunk) for chunk in chunks] == [ListChunk, ListChunk]
    assert chunks[0].offset == len(first.data)  # type: ignore[union-attr]
    assert sender.resume() == []
    assert sender.unanswered == 2
