"""Keys of a site, made and handed out offline: `onecard keys init|enrol|cards|show` (R36, R37, R39, R40).

Masters of different branches meet only here, in files under `offline/` that no server opens:

    offline/root.keystore             root seed: certifies the ledger's signing key
    offline/enrolment.keystore        link and seal masters: give a terminal its two keys
    offline/lists.keystore            seed that signs parameters and permissions (onecard_lists.py)
    offline/cards.keystore            the card masters of every kind: give a card its keys (onecard_cards.py)
    secrets/frontend.keystore         link masters, this front-end's batch key
    secrets/ledger.keystore           seal and TAC masters (AES, PBOC), signing seed, batch keys
    secrets/sam.keystore              card-application masters of a selling terminal's SAM
    secrets/load.keystore             load masters of a load station's SAM
    secrets/terminals.keystore        what enrolment put into each terminal's secure element (for the simulator)

Each file has its own unlock secret beside it, mode 0600; a systemd credential of the same name takes its place where
`$CREDENTIALS_DIRECTORY` is set. Names of keys: docs/keys.md.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from onecard_runtime import RealFiles, RealRandom
from onecard_site import SITE_FILE_NAME, SiteError, SiteFile, frontend_section
from protocol.codes import CardKind, ProofSuite, Suite, TerminalClass, TerminalKind
from protocol.errors import DamagedData, ProtocolError
from protocol.keys import link_key, seal_key
from protocol.keystore import NONCE_BYTES, SALT_BYTES, Keystore, open_keystore, seal_keystore, unlock_secret_of
from protocol.mac import KEY_BYTES, MacKey
from protocol.registry import ENROLMENT_ID_BYTES, EnrolledTerminal, Registry
from protocol.signed import SEED_BYTES, SoftwareSigner, issue_certificate

OFFLINE: Final = "offline"
SECRETS: Final = "secrets"
CARD_IMAGES: Final = "cards/images.bin"
"""Of AES cards; those of the other kinds stand beside it (onecard_cards.py)."""
CARD_REGISTER: Final = "cards/register.jsonl"
UNLOCK_BYTES: Final = 32
CERTIFICATE_YEARS: Final = 3
MS_PER_YEAR: Final = 365 * 86_400_000
FIRST_TERMINAL: Final = 1001
FIRST_CARD: Final = 1_000_001
FIRST_MERCHANT: Final = 101
MODE_PRIVATE: Final = 0o077
"""Bits that neither an unlock secret nor a keystore may have."""

Progress = Callable[[int], None]


class KeysError(Exception):
    """A key file cannot be used or made; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One keystore and its unlock secret."""

    keystore: Path
    unlock: Path

    @classmethod
    def named(cls, directory: Path, name: str) -> KeyFile:
        return cls(directory / f"{name}.keystore", directory / f"{name}.unlock")

    def write(self, contents: Keystore) -> None:
        """Seal the contents under the unlock secret, which is made if there is none."""
        files, random = RealFiles(), RealRandom()
        self.keystore.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.unlock.exists():
            files.replace(str(self.unlock), random.random_bytes(UNLOCK_BYTES).hex().encode() + b"\n")
        sealed = seal_keystore(
            contents, self._secret(), salt=random.random_bytes(SALT_BYTES), nonce=random.random_bytes(NONCE_BYTES)
        )
        files.replace(str(self.keystore), sealed)

    def open(self) -> Keystore:
        """Decrypt; raises KeysError in words."""
        try:
            return open_keystore(self.keystore.read_bytes(), self._secret())
        except FileNotFoundError as error:
            raise KeysError(f"{error.filename}: no such file; `onecard keys init` makes the files of a site") from None
        except (OSError, ProtocolError) as error:
            raise KeysError(f"{self.keystore}: {error}") from None

    def _secret(self) -> bytes:
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if credentials and (credential := Path(credentials) / self.unlock.name).exists():
            return unlock_secret_of(credential.read_bytes())
        if stat.S_IMODE(self.unlock.stat().st_mode) & MODE_PRIVATE:
            raise KeysError(f"{self.unlock}: others may read this unlock secret; run: chmod 600 {self.unlock}")
        return unlock_secret_of(self.unlock.read_bytes())


def weak_key(key: bytes) -> bool:
    """All bytes equal, or each one more than the last: what people type, never what a generator makes (promise 6)."""
    return len(set(key)) == 1 or all((b - a) % 256 == 1 for a, b in pairwise(key))


def check_value(key: bytes) -> str:
    """Three bytes that let two people compare a key without seeing it."""
    return MacKey(key).mac(bytes(KEY_BYTES))[:3].hex().upper() if len(key) == KEY_BYTES else "–"


def init_site(directory: Path, *, site: int, frontends: int, time_zone: str, now_ms: int) -> None:
    """Make every key file of a new site and its site file. Raises KeysError if the directory already has one."""
    from onecard_cards import LEDGER_MASTERS, LOAD_MASTERS, SAM_MASTERS, card_masters
    from onecard_lists import LISTS_KEY, lists_key  # it stands on this module

    site_file = directory / SITE_FILE_NAME
    if site_file.exists():
        raise KeysError(f"{site_file}: there is a site here already; keys are made once")
    directory.mkdir(parents=True, exist_ok=True)
    offline, secrets = directory / OFFLINE, directory / SECRETS
    root_seed, signing_seed = (fresh_key(SEED_BYTES) for _ in range(2))
    root = SoftwareSigner(root_seed)
    link_master, seal_master = (fresh_key(KEY_BYTES) for _ in range(2))
    cards = card_masters(lambda: fresh_key(KEY_BYTES))
    batch_keys = {number: fresh_key(KEY_BYTES) for number in range(1, frontends + 1)}
    certificate = issue_certificate(
        root,
        key_id=1,
        site=site,
        valid_from_ms=now_ms - 86_400_000,  # a day of grace for clocks that lag
        valid_to_ms=now_ms + CERTIFICATE_YEARS * MS_PER_YEAR,
        public_key=SoftwareSigner(signing_seed).public_key,
    )
    public = {"root_public": root.public_key.hex()}

    def write(where: Path, name: str, kind: str, keys: dict[str, bytes], facts: Mapping[str, object]) -> None:
        KeyFile.named(where, name).write(Keystore(kind, site, keys, dict(facts)))

    write(offline, "root", "root", {"root_seed": root_seed}, public)
    write(offline, "enrolment", "enrolment", {"link_master.1": link_master, "seal_master.1": seal_master}, public)
    KeyFile.named(offline, LISTS_KEY).write(lists_key(root, site=site, key_id=1, now_ms=now_ms))
    write(offline, "cards", "cards", cards, {})
    for number, batch_key in batch_keys.items():
        name = "frontend" if number == 1 else f"frontend-{number}"
        keys = {"link_master.1": link_master, "batch_key": batch_key}
        write(secrets, name, "frontend", keys, {"frontend": number, **public})
    ledger = {"seal_master.1": seal_master, "signing_seed": signing_seed}
    ledger |= {name: cards[name] for name in LEDGER_MASTERS}
    ledger |= {f"batch_key.{number}": key for number, key in batch_keys.items()}
    write(secrets, "ledger", "ledger", ledger, {"certificate": certificate.encode().hex()} | public)
    write(secrets, "sam", "sam", {name: cards[name] for name in SAM_MASTERS}, {})
    write(secrets, "load", "load", {name: cards[name] for name in LOAD_MASTERS}, {})
    write(secrets, "terminals", "terminals", {}, public)
    RealFiles().replace(str(directory / "registry.json"), Registry(site).dump())
    others = "".join(map(frontend_section, range(2, frontends + 1)))
    RealFiles().replace(str(site_file), (_site_text(site, time_zone, root.public_key) + others).encode())


def enrol(
    site: SiteFile,
    *,
    count: int,
    kind: TerminalKind,
    merchants: int,
    suite: Suite = Suite.A,
    proof_suite: ProofSuite = ProofSuite.AES_CMAC,
) -> list[int]:
    """Enrol `count` new terminals, whose suites are fixed by it; merchants in turn. Returns their numbers (R40)."""
    registry_path = site.path(site.site.registry)
    registry = Registry.parse(registry_path.read_bytes())
    masters = KeyFile.named(site.path(OFFLINE), "enrolment").open()
    store = KeyFile.named(site.path(SECRETS), "terminals")
    provisioned = store.open()
    first = max(registry.terminals, default=FIRST_TERMINAL - 1) + 1
    for offset in range(count):
        terminal = first + offset
        registry.put(
            EnrolledTerminal(
                terminal=terminal,
                terminal_class=TerminalClass.TERMINAL,
                kind=kind,
                epoch=1,
                suite=suite,
                key_version=1,
                enrolment_id=fresh_key(ENROLMENT_ID_BYTES),
                merchant=FIRST_MERCHANT + offset % merchants,
                name=f"till {terminal}",
                proof_suite=proof_suite,
            )
        )
        _provision(provisioned, masters, registry.terminals[terminal])
    store.write(provisioned)
    RealFiles().replace(str(registry_path), registry.dump())
    return list(range(first, first + count))


def replace_terminal(site: SiteFile, terminal: int) -> int:
    """Enrol a terminal anew, after its replacement or the loss of its memory; returns its new epoch (R1, R11).

    Raises SiteError for a terminal that was never enrolled.
    """
    registry_path = site.path(site.site.registry)
    registry = Registry.parse(registry_path.read_bytes())
    entry = registry.get(terminal)
    if entry is None:
        raise SiteError(f"terminal {terminal} is not in {registry_path}; enrol it: onecard keys enrol")
    masters = KeyFile.named(site.path(OFFLINE), "enrolment").open()
    store = KeyFile.named(site.path(SECRETS), "terminals")
    provisioned = store.open()
    renewed = entry.re_enrolled(fresh_key(ENROLMENT_ID_BYTES))
    registry.put(renewed)
    _provision(provisioned, masters, renewed)
    store.write(provisioned)  # keys first: a terminal that the registry names must find them
    RealFiles().replace(str(registry_path), registry.dump())
    return renewed.epoch


def _provision(store: Keystore, masters: Keystore, entry: EnrolledTerminal) -> None:
    link_master = masters.key(f"link_master.{entry.key_version}")
    number, epoch = entry.terminal, entry.epoch
    store.keys[f"link.{number}.{epoch}"] = link_key(
        link_master, terminal=number, epoch=epoch, key_version=entry.key_version, suite=entry.suite
    )
    store.keys[f"seal.{number}.{epoch}"] = seal_key(
        masters.key("seal_master.1"), terminal=number, epoch=epoch, proof_suite=entry.proof_suite
    )


def personalise(
    site: SiteFile, *, count: int, opening_cents: int, memory: int = 0, pboc: int = 0, progress: Progress | None = None
) -> int:
    """Make `count` cards, the last of them memory cards and PBOC purses: images for the simulator, a ledger's lines.

    Returns the first number. Raises KeysError where the site has no masters for a kind, or more of a kind than cards.
    """
    from onecard_cards import IMAGES_OF_KIND, KEY_VERSION, card_maker

    if memory + pboc > count:
        raise KeysError(f"{memory} memory cards and {pboc} PBOC purses are more than {count} cards")
    masters = KeyFile.named(site.path(OFFLINE), "cards").open()
    register = site.path(CARD_REGISTER)
    register.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = list(registered_cards(site)) if register.exists() else []
    first = number = max((card["number"] for card in held), default=FIRST_CARD - 1) + 1
    lines: list[str] = []
    shares = {CardKind.AES: count - memory - pboc, CardKind.MEMORY: memory, CardKind.PBOC: pboc}
    for kind, share in shares.items():
        if not share:
            continue
        try:
            make = card_maker(kind, masters)
        except DamagedData as error:
            raise KeysError(f"no {kind.name} cards here: {error}; a site made today has these masters") from None
        images = bytearray()
        for each in range(number, number + share):
            uid = b"\x04" + fresh_key(6)
            images += make(each, uid, opening_cents)
            facts = {"number": each, "uid": uid.hex(), "kind": int(kind), "key_version": KEY_VERSION, "group": 0}
            lines.append(json.dumps(facts | {"opening_cents": opening_cents}))
            if progress is not None:
                progress(1)
        number += share
        RealFiles().append(str(site.path(IMAGES_OF_KIND[kind])), bytes(images))
    RealFiles().append(str(register), ("\n".join(lines) + "\n").encode())
    return first


def registered_cards(site: SiteFile) -> Iterator[dict[str, int]]:
    """The register lines that `personalise` wrote."""
    with site.path(CARD_REGISTER).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def key_table(site: SiteFile) -> list[tuple[str, str, str]]:
    """(file, key, check value) of every key that can be opened here; never a key itself."""
    rows = []
    for place in (OFFLINE, SECRETS):
        for path in sorted(site.path(place).glob("*.keystore")):
            contents = KeyFile.named(path.parent, path.stem).open()
            names = sorted(contents.keys)
            shown = names if len(names) <= 24 else []
            rows += [(f"{place}/{path.name}", name, check_value(contents.keys[name])) for name in shown]
            if not shown:
                rows.append((f"{place}/{path.name}", f"{len(names)} keys of terminals", "–"))
    return rows


def fresh_key(count: int) -> bytes:
    """Random bytes that are no pattern (promise 6)."""
    while True:
        key = RealRandom().random_bytes(count)
        if not weak_key(key):
            return key


def _site_text(site: int, time_zone: str, root_public: bytes) -> str:
    if not 1 <= site <= 0xFFFF_FFFF:
        raise SiteError(f"site {site}: must be a number from 1 to 4294967295")
    return f"""# The site file: every process of this site reads it. Paths start at this file's directory.
# One value can be set from outside: ONECARD_FRONTEND__LISTEN_ADDRESS=0.0.0.0:4700

[site]
id = {site}
name = "one-card site {site}"
time_zone = "{time_zone}"                  # of the trade day
registry = "registry.json"                 # enrolled terminals, written by `onecard keys enrol`
root_public_key = "{root_public.hex()}"

[frontend]                                 # 前置机
id = 1
listen_address = "127.0.0.1:0"             # port 0: a free one, kept for the next start
data_dir = "data/frontend"
keystore = "secrets/frontend.keystore"
unlock = "secrets/frontend.unlock"
control_socket = "run/frontend.sock"
ledger_link = "run/ledger-link.sock"         # or mqtts://HOST:8883 with broker_ca, broker_certificate, broker_key
parameters_file = "lists/parameters.list"  # written by `onecard keys publish`, taken up while it runs
permissions_file = "lists/permissions.list"

[ledger]                                   # 中心账务
data_dir = "data/ledger"
keystore = "secrets/ledger.keystore"
unlock = "secrets/ledger.unlock"
link_socket = "run/ledger-link.sock"         # or the same broker as the front-ends: docs/link.md
admin_socket = "run/ledger.sock"
"""
