"""Which terminals of a registry play, and with what in their SAMs: the first N that move money, and the doors.

A till and a meal terminal have the refund key, only a load station has the load key as well (R21, R36).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from protocol.cards.memory_layout import Application, KeyLetter
from protocol.cards.memory_sam import MemorySam, SoftwareMemorySam
from protocol.cards.pboc_sam import PbocLoadSam, PbocSam, PbocTerminalMasters, SoftwarePbocSam
from protocol.codes import TerminalClass, TerminalKind
from protocol.keystore import Keystore
from protocol.registry import EnrolledTerminal, Registry
from protocol.sam import SoftwareSam, TerminalMasters
from terminal_sim.population import Seat, SetupError, SimPlace
from terminal_sim.provisioning import TerminalSecrets

SEATED_KINDS: Final = frozenset({TerminalKind.POS, TerminalKind.MEAL, TerminalKind.LOAD_STATION})
DOORS_MAX: Final = 256  # door terminals of a site that play beside its tills
SAM_CONTEXTS_MAX: Final = 16_384  # two keys a card; 13 MB, shared by the whole fleet


def load_seats(place: SimPlace, terminals: int) -> list[Seat]:
    """The first `terminals` of the registry that move money, then the doors.

    Raises SetupError, OSError, ProtocolError.
    """
    registry = _registry(place)
    enrolled = [each for each in registry if _is_played(each) and each.kind in SEATED_KINDS]
    if len(enrolled) < terminals:
        raise SetupError(
            f"{place.registry} has {len(enrolled)} selling terminals and {terminals} shall play; "
            f"enrol more: onecard keys enrol --terminals {terminals - len(enrolled)}"
        )
    doors = [each for each in registry if _is_played(each) and each.kind == TerminalKind.DOOR]
    return _seats(place, registry.site, enrolled[:terminals] + doors[:DOORS_MAX])


def load_seat(place: SimPlace, terminal: int) -> Seat:
    """One terminal as the registry names it now. Raises SetupError, OSError, ProtocolError."""
    registry = _registry(place)
    entry = registry.get(terminal)
    if entry is None:
        raise SetupError(f"terminal {terminal} is not in {place.registry}")
    return _seats(place, registry.site, [entry])[0]


def sam_of(store: Keystore, load_store: Keystore | None = None) -> SoftwareSam:
    """The SAM that `store` holds the masters of; with the load masters of `load_store`, a load station's."""
    names = ("authenticate", "debit", "refund")
    authenticate, debit, refund = (store.versions(f"card_{name}_master") for name in names)
    load = load_store.versions("card_load_master") if load_store is not None else {}
    masters = {
        each: TerminalMasters(authenticate[each], debit[each], refund.get(each, b""), load.get(each, b""))
        for each in authenticate.keys() & debit.keys()
    }
    if not masters:
        raise SetupError("the SAM's key file holds no card master; make it with `onecard keys init`")
    return SoftwareSam(masters, contexts_max=SAM_CONTEXTS_MAX)


@dataclass(slots=True, frozen=True)
class _Sams:
    """What a selling terminal's SAM holds, shared by the fleet; a kind whose masters the file lacks is not served."""

    aes: SoftwareSam
    memory: MemorySam | None
    pboc: PbocSam | None
    memory_load: MemorySam | None = None
    pboc_load: Mapping[int, PbocLoadSam] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Keystore) -> _Sams:
        purse = store.versions("memory_purse_a_master")
        memory = {each: {Application.PURSE: master} for each, master in purse.items()}
        named = [store.versions(f"pboc_{name}_master") for name in ("internal", "purchase", "maintenance")]
        versions = named[0].keys() & named[1].keys() & named[2].keys()
        pboc = {each: PbocTerminalMasters(*(keys[each] for keys in named)) for each in versions}
        return cls(
            sam_of(store),
            SoftwareMemorySam(memory) if memory else None,
            SoftwarePbocSam(pboc) if pboc else None,
        )

    def of_station(self, store: Keystore, load_store: Keystore) -> _Sams:
        """What a load station's SAM holds beside: the only one that can put money on a card (R36)."""
        purse = load_store.versions("memory_purse_b_master")
        memory = {each: {Application.PURSE: master} for each, master in purse.items()}
        return replace(
            self,
            aes=sam_of(store, load_store),
            memory_load=SoftwareMemorySam(memory, letter=KeyLetter.B) if memory else None,
            pboc_load={each: PbocLoadSam(key) for each, key in load_store.versions("pboc_load_master").items()},
        )


def _seats(place: SimPlace, site: int, playing: list[EnrolledTerminal]) -> list[Seat]:
    store = place.keystore("terminals")
    root_public = bytes.fromhex(str(store.facts.get("root_public", "")))
    sams = station = _Sams.of(place.keystore("sam"))
    if any(each.kind == TerminalKind.LOAD_STATION for each in playing):
        station = sams.of_station(place.keystore("sam"), place.keystore("load"))
    kind = TerminalKind.LOAD_STATION
    return [_seat(each, site, store, station if each.kind == kind else sams, root_public) for each in playing]


def _seat(each: EnrolledTerminal, site: int, store: Keystore, sams: _Sams, root_public: bytes) -> Seat:
    identity = f"{each.terminal}.{each.epoch}"
    secrets = TerminalSecrets(
        site=site,
        terminal=each.terminal,
        epoch=each.epoch,
        key_version=each.key_version,
        link_key=store.key(f"link.{identity}"),
        seal_key=store.key(f"seal.{identity}"),
        enrolment_id=each.enrolment_id,
        merchant=each.merchant,
        root_public=root_public,
        sam=sams.aes,
        memory_sam=sams.memory,
        pboc_sam=sams.pboc,
        memory_load_sam=sams.memory_load,
        pboc_load_sams=sams.pboc_load,
        suite=each.suite,
        proof_suite=each.proof_suite,
        terminal_kind=each.kind,
    )
    return Seat(secrets, each.name)


def _is_played(each: EnrolledTerminal) -> bool:
    return each.terminal_class == TerminalClass.TERMINAL


def _registry(place: SimPlace) -> Registry:
    return Registry.parse(_read(place.registry))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file; `onecard keys enrol` makes the registry") from None
