"""Which terminals of a registry play, and with what in their SAMs: the first N that move money, of every kind.

A till and a meal terminal have the refund key, only a load station has the load key as well (R21, R36).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol.codes import TerminalClass, TerminalKind
from protocol.keystore import Keystore
from protocol.registry import EnrolledTerminal, Registry
from protocol.sam import SoftwareSam, TerminalMasters
from terminal_sim.population import SAM_CONTEXTS_MAX, Seat, SetupError, SimPlace
from terminal_sim.provisioning import TerminalSecrets

SEATED_KINDS: Final = frozenset({TerminalKind.POS, TerminalKind.MEAL, TerminalKind.LOAD_STATION})


def load_seats(place: SimPlace, terminals: int) -> list[Seat]:
    """The first `terminals` of the registry that move money. Raises SetupError, OSError, ProtocolError."""
    registry = Registry.parse(_read(place.registry))
    enrolled = [each for each in registry if _plays(each)]
    if len(enrolled) < terminals:
        raise SetupError(
            f"{place.registry} has {len(enrolled)} selling terminals and {terminals} shall play; "
            f"enrol more: onecard keys enrol --terminals {terminals - len(enrolled)}"
        )
    store = place.keystore("terminals")
    root_public = bytes.fromhex(str(store.facts.get("root_public", "")))
    till_sam = sam_of(place.keystore("sam"))
    playing = enrolled[:terminals]
    station_sam = till_sam
    if any(each.kind == TerminalKind.LOAD_STATION for each in playing):
        station_sam = sam_of(place.keystore("sam"), place.keystore("load"))
    return [
        _seat(
            each,
            registry.site,
            store,
            station_sam if each.kind == TerminalKind.LOAD_STATION else till_sam,
            root_public,
        )
        for each in playing
    ]


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


def _plays(each: EnrolledTerminal) -> bool:
    return each.terminal_class == TerminalClass.TERMINAL and each.kind in SEATED_KINDS


def _seat(each: EnrolledTerminal, site: int, store: Keystore, sam: SoftwareSam, root_public: bytes) -> Seat:
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
        sam=sam,
        suite=each.suite,
        proof_suite=each.proof_suite,
        terminal_kind=each.kind,
    )
    return Seat(secrets, each.name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file; `onecard keys enrol` makes the registry") from None
