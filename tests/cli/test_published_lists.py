"""`onecard keys publish` and its kin: versions that only rise, files that a front-end takes up (R27, R36)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

import onecard_lists
from onecard_keys import KeyFile
from onecard_site import load_site
from protocol.codes import ListKind
from protocol.errors import Malformed, ProofError
from protocol.signed import (
    CERTIFICATE_BYTES,
    HEAD_BYTES,
    Certificate,
    CertificateUse,
    SignedHead,
    verify_certificate,
    verify_head,
)
from tests.cli.commands import onecard_here, serving, wait_until

HEADS_BYTES = HEAD_BYTES + CERTIFICATE_BYTES


def refuse(_content: bytes) -> NoReturn:
    raise Malformed("parameters", "unknown key: pryce")


@pytest.fixture(autouse=True)
def any_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the keys mean is tested where it is known; here a document is any document."""
    monkeypatch.setattr(onecard_lists, "READERS", dict.fromkeys(onecard_lists.READERS, ("json", "loads")))


def publish(site: Path, document: Any, *options: object, kind: str = "parameters") -> Any:
    source = site / "source.json"
    source.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    return onecard_here("keys", "publish", kind, source, "--json", "--site", site, *options)


def parts(path: Path) -> tuple[SignedHead, Certificate, bytes]:
    data = path.read_bytes()
    return (
        SignedHead.decode(data[:HEAD_BYTES]),
        Certificate.decode(data[HEAD_BYTES:HEADS_BYTES]),
        data[HEADS_BYTES:],
    )


def test_a_document_is_published_in_canonical_form_under_the_offline_key(site: Path) -> None:
    told = publish(site, {"price": 850, "menu": "午餐"}).json
    served = site / "lists" / "parameters.list"
    assert (told["version"], told["is_new"], told["file"]) == ([1, 1], True, str(served))
    head, certificate, content = parts(served)
    assert content == '{"menu":"午餐","price":850}'.encode()
    assert head.names(content)
    root = load_site(site, {}).root_public_key()
    verify_certificate(certificate, root, 42, None, use=CertificateUse.OFFLINE)
    verify_head(head, certificate)
    with pytest.raises(ProofError):
        verify_certificate(certificate, root, 42, None)
    assert (head.list_kind, head.version) == (ListKind.PARAMETERS, (1, 1))


def test_versions_only_rise_and_each_keeps_its_own_file(site: Path) -> None:
    versions = [publish(site, {"price": price}).json["version"] for price in (850, 900, 850)]
    assert versions == [[1, 1], [1, 2], [1, 3]]
    names = sorted(path.name for path in (site / "lists").iterdir())
    assert names == ["parameters-1-1.list", "parameters-1-2.list", "parameters-1-3.list", "parameters.list"]
    assert (site / "lists" / "parameters.list").read_bytes() == (site / "lists" / "parameters-1-3.list").read_bytes()
    again = publish(site, {"price": 850}).json
    assert (again["version"], again["is_new"]) == ([1, 3], False)
    assert publish(site, {"doors": []}, kind="permissions").json["version"] == [1, 1]


def test_a_version_whose_publishing_was_cut_is_not_used_twice(site: Path) -> None:
    publish(site, {"price": 850})
    (site / "lists" / "parameters-1-7.list").write_bytes(b"torn")
    assert publish(site, {"price": 900}).json["version"] == [1, 8]


def test_a_generation_is_raised_and_never_lowered(site: Path) -> None:
    publish(site, {"price": 850})
    assert publish(site, {"price": 850}, "--generation", 3).json["version"] == [3, 2]
    done = publish(site, {"price": 900}, "--generation", 2)
    assert (done.code, "versions only rise" in done.err) == (1, True)
    assert publish(site, {"price": 900}).json["version"] == [3, 3]


@pytest.mark.parametrize("text", ['{"a": 1.5}', "[1]", '{"a": 1, "a": 2}', "no json", '{"a": "' + "x" * 70_000 + '"}'])
def test_what_no_terminal_would_take_is_not_published(site: Path, text: str) -> None:
    source = site / "source.json"
    source.write_text(text)
    done = onecard_here("keys", "publish", "parameters", source, "--site", site)
    assert done.code == 1
    assert str(source) in done.err
    assert not (site / "lists").exists()


def test_a_document_whose_keys_are_wrong_is_not_published(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onecard_lists.READERS, ListKind.PARAMETERS, (__name__, "refuse"))
    done = publish(site, {"pryce": 850})
    assert (done.code, "unknown key: pryce" in done.err) == (1, True)
    assert not (site / "lists").exists()


def test_a_file_that_is_not_there_is_said_in_a_sentence(site: Path) -> None:
    done = onecard_here("keys", "publish", "parameters", site / "missing.json", "--site", site)
    assert (done.code, len(done.err.splitlines())) == (1, 1)


def test_a_key_is_renewed_and_signs_the_next_version(site: Path) -> None:
    publish(site, {"price": 850})
    done = onecard_here("keys", "lists-key", "--site", site)
    assert (done.code, "--renew" in done.err) == (1, True)
    assert onecard_here("keys", "lists-key", "--renew", "--json", "--site", site).json["key_id"] == 2
    publish(site, {"price": 900})
    head, certificate, _ = parts(site / "lists" / "parameters.list")
    assert (head.key_id, certificate.key_id) == (2, 2)


def test_a_site_made_before_there_was_such_a_key_gets_one(site: Path) -> None:
    file = KeyFile.named(site / "offline", "lists")
    file.keystore.unlink()
    done = publish(site, {"price": 850})
    assert (done.code, "lists.keystore" in done.err) == (1, True)
    assert onecard_here("keys", "lists-key", "--site", site).code == 0
    assert publish(site, {"price": 850}).code == 0


def test_lists_names_every_version_and_what_is_wrong_with_it(site: Path) -> None:
    publish(site, {"price": 850})
    publish(site, {"price": 900})
    old = site / "lists" / "parameters-1-1.list"
    data = bytearray(old.read_bytes())
    data[40] ^= 1  # in the digest
    old.write_bytes(data)
    found = onecard_here("keys", "lists", "--json", "--site", site).json["lists"]
    assert [(one["version"], one["is_served"], bool(one["fault"])) for one in found] == [
        ("1.2", True, False),
        ("0.0", False, True),
    ]
    assert "1.2" in onecard_here("keys", "lists", "--site", site).out


def test_a_front_end_that_runs_takes_up_what_is_published_and_keeps_it_from_a_damaged_file(site: Path) -> None:
    publish(site, {"price": 850})

    def status() -> Any:
        return onecard_here("status", "--json", "--site", site).json

    with serving("serve", "--site", site) as server:
        wait_until(lambda: status()["lists"]["parameters"] == "1.1")
        publish(site, {"price": 900})
        publish(site, {"doors": []}, kind="permissions")
        wait_until(lambda: status()["lists"] == {"deny": None, "parameters": "1.2", "permissions": "1.1"})
        (site / "lists" / "parameters.list").write_bytes(b"damaged")
        wait_until(lambda: [one["alarm"] for one in status()["standing"]] == ["published list refused"])
        assert status()["lists"]["parameters"] == "1.2"
        assert "1.2 / 1.1" in onecard_here("status", "--site", site).out
        assert server.stop() == 0
    with serving("serve", "--site", site) as server:
        assert status()["lists"]["parameters"] == "1.2"
        assert server.stop() == 0
