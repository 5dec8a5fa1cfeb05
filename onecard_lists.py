"""Lists that people publish (参数, 权限): signed offline, as the next version, into files that a front-end serves.

    offline/lists.keystore        the signing seed; its certificate, by the root, for published lists alone (R36)
    lists/parameters.list         what is served: head(128) ‖ certificate(120) ‖ content
    lists/parameters-1-3.list     every version by its generation and counter; never overwritten

Run where the masters are, never beside a server; the files under `lists/` are no secret and are carried to it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

from frontend_server.published import decode_published
from onecard_keys import CERTIFICATE_YEARS, MS_PER_YEAR, OFFLINE, KeyFile, KeysError, fresh_key
from onecard_runtime import RealFiles
from onecard_site import SiteFile
from protocol.codes import ListKind
from protocol.documents import canonical, read_any
from protocol.errors import ProtocolError
from protocol.keystore import Keystore
from protocol.limits import DOCUMENT_BYTES_MAX
from protocol.signed import (
    SEED_BYTES,
    Certificate,
    CertificateUse,
    SignedHead,
    SoftwareSigner,
    Version,
    issue_certificate,
    sign_head,
    verify_certificate,
    verify_head,
)

LISTS_KEY: Final = "lists"
SEED: Final = "signing_seed"
SOURCE_BYTES_MAX: Final = 4 * DOCUMENT_BYTES_MAX  # blanks and line ends are a person's; the document is bounded
CLOCK_GRACE_MS: Final = 86_400_000  # of machines whose clocks lag
READERS: Final[Mapping[ListKind, tuple[str, str]]] = {
    ListKind.PARAMETERS: ("protocol.parameters", "decode_parameters"),
    ListKind.PERMISSIONS: ("protocol.permissions", "Permissions.decode"),
}
"""What knows the keys of a document; without it only the form is checked."""


@dataclass(frozen=True, slots=True)
class Published:
    """One version that lies in a file."""

    kind: ListKind
    version: Version
    issued_ms: int
    content_bytes: int
    is_served: bool
    fault: str = ""
    """Why a front-end would not take it; empty: it would."""


def lists_key(root: SoftwareSigner, *, site: int, key_id: int, now_ms: int) -> Keystore:
    """A new signing key for published lists, certified by the root."""
    seed = fresh_key(SEED_BYTES)
    certificate = issue_certificate(
        root,
        key_id=key_id,
        site=site,
        valid_from_ms=now_ms - CLOCK_GRACE_MS,
        valid_to_ms=now_ms + CERTIFICATE_YEARS * MS_PER_YEAR,
        public_key=SoftwareSigner(seed).public_key,
        use=CertificateUse.OFFLINE,
    )
    facts = {"certificate": certificate.encode().hex(), "root_public": root.public_key.hex()}
    return Keystore(LISTS_KEY, site, {SEED: seed}, facts)


def make_lists_key(site: SiteFile, *, is_renewal: bool, now_ms: int) -> Certificate:
    """Make the key of a site that has none, or the next one. Raises KeysError."""
    file = KeyFile.named(site.path(OFFLINE), LISTS_KEY)
    if file.keystore.exists() and not is_renewal:
        raise KeysError(
            f"{file.keystore}: there is one; --renew makes the next, and terminals take it with the next list"
        )
    key_id = _certificate_of(file.open()).key_id + 1 if file.keystore.exists() else 1
    root = KeyFile.named(site.path(OFFLINE), "root").open()
    made = lists_key(SoftwareSigner(root.key("root_seed")), site=site.site.id, key_id=key_id, now_ms=now_ms)
    file.write(made)
    return _certificate_of(made)


def publish(
    site: SiteFile, kind: ListKind, source: Path, *, now_ms: int, generation: int | None = None
) -> tuple[Version, bool]:
    """Sign the document as the next version and put it where the front-end looks; (version, whether it is new).

    The version's own file is durable before the served one is replaced, so a cut leaves the old one served, and the
    next try takes a higher number. A document that is served already is not published again.

    Raises:
        KeysError: the document, the key or an earlier file cannot be used; the text says why.
    """
    content = content_of(kind, source)
    served = served_path(site, kind)
    directory = served.parent
    versions = [version for version, _ in _kept(directory, kind)]
    if served.exists():
        held = _decoded(served, kind)
        versions.append(held[0].version)
        if held[2] == content and (generation is None or generation == held[0].generation):
            return held[0].version, False
    newest = max(versions, default=(1, 0))
    if generation is not None and generation < newest[0]:
        raise KeysError(f"generation {generation} is below {newest[0]}; versions only rise")
    version = (newest[0] if generation is None else generation, newest[1] + 1)
    store = KeyFile.named(site.path(OFFLINE), LISTS_KEY).open()
    certificate = _certificate_of(store)
    if not certificate.valid_from_ms <= now_ms <= certificate.valid_to_ms:
        raise KeysError("the certificate of the lists key is not valid now; run: onecard keys lists-key --renew")
    head = sign_head(
        store.key(SEED),
        key_id=certificate.key_id,
        site=site.site.id,
        list_kind=kind,
        generation=version[0],
        counter=version[1],
        issued_ms=now_ms,
        content=content,
    )
    data = head.encode() + certificate.encode() + content
    directory.mkdir(parents=True, exist_ok=True)
    files = RealFiles()
    files.replace(str(_kept_path(directory, kind, version)), data)
    files.replace(str(served), data)
    return version, True


def content_of(kind: ListKind, source: Path) -> bytes:
    """The canonical form of what a person wrote, checked by whatever knows its keys. Raises KeysError."""
    try:
        with source.open("rb") as file:
            text = file.read(SOURCE_BYTES_MAX + 1)
    except OSError as error:
        raise KeysError(f"{source}: {error.strerror}") from None
    if len(text) > SOURCE_BYTES_MAX:
        raise KeysError(f"{source}: more than {SOURCE_BYTES_MAX} bytes")
    reader = _reader_of(kind)
    content, fault = b"", ""
    try:
        content = canonical(read_any(text))
        if reader is not None:
            reader(content)
    except ProtocolError as error:
        fault = str(error)
    if fault:  # raised out here: a person's document is refused, not damaged
        raise KeysError(f"{source}: {fault}")
    return content


def published(site: SiteFile) -> list[Published]:
    """Every version that lies beside the served files, newest first, and which is served."""
    found = []
    for kind in READERS:
        served = served_path(site, kind)
        is_there = served.exists()
        current = _shown(site, kind, served, is_served=True) if is_there else None
        kept = sorted(_kept(served.parent, kind), reverse=True)
        older = [_shown(site, kind, path, is_served=False) for version, path in kept
                 if current is None or version != current.version]  # fmt: skip
        found += [*([current] if current is not None else []), *older]
    return found


def served_path(site: SiteFile, kind: ListKind) -> Path:
    """The file that the front-end looks at."""
    ours = site.frontend
    return site.path(ours.parameters_file if kind == ListKind.PARAMETERS else ours.permissions_file)


def _shown(site: SiteFile, kind: ListKind, path: Path, *, is_served: bool) -> Published:
    try:
        head, certificate, content = _decoded(path, kind)
    except KeysError as error:
        return Published(kind, (0, 0), 0, 0, is_served, str(error))
    fault = ""
    try:
        verify_certificate(certificate, site.root_public_key(), site.site.id, None, use=CertificateUse.OFFLINE)
        verify_head(head, certificate)
    except ProtocolError as error:
        fault = str(error)
    return Published(kind, head.version, head.issued_ms, len(content), is_served, fault)


def _decoded(path: Path, kind: ListKind) -> tuple[SignedHead, Certificate, bytes]:
    try:
        return decode_published(path.read_bytes(), kind)
    except (OSError, ProtocolError) as error:
        raise KeysError(f"{path}: {error}") from None


def _kept(directory: Path, kind: ListKind) -> list[tuple[Version, Path]]:
    name = re.compile(rf"{kind.name.lower()}-(\d{{1,10}})-(\d{{1,10}})\.list")
    if not directory.is_dir():
        return []
    found = [(name.fullmatch(path.name), path) for path in directory.iterdir()]
    return [((int(match[1]), int(match[2])), path) for match, path in found if match is not None]


def _kept_path(directory: Path, kind: ListKind, version: Version) -> Path:
    return directory / f"{kind.name.lower()}-{version[0]}-{version[1]}.list"


def _certificate_of(store: Keystore) -> Certificate:
    try:
        return Certificate.decode(bytes.fromhex(str(store.facts.get("certificate", ""))))
    except (ValueError, ProtocolError):
        raise KeysError("lists.keystore: it holds no certificate; run: onecard keys lists-key --renew") from None


def _reader_of(kind: ListKind) -> Callable[[bytes], object] | None:
    module_name, attribute = READERS[kind]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:
        return None
    reader: Callable[[bytes], object] = attrgetter(attribute)(module)
    return reader
