"""The verbs of the ledger, pure of transport: the admin socket and the command line run the same `Admin`.

    request   {"verb": "lost", "card": 7, "operator": "Li"}
    answer    {"ok": true, …}  or  {"ok": false, "error": "refused" | "usage" | "failed", "says": "…"}

Reading verbs: report, verify, card_show, balances, status, version. Changing verbs: those of `operations` but `init`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from ledger_sync.ledger import catalogue
from ledger_sync.ledger.cards import U32_MAX, number_of, show_card
from ledger_sync.ledger.core import Ledger
from ledger_sync.ledger.errors import LedgerError, LedgerFailure, VerbRefused
from ledger_sync.ledger.operations import ISSUES_A_VERSION, VERBS
from ledger_sync.ledger.report import balances, report
from ledger_sync.ledger.verify import verify
from protocol.ports import Files
from protocol.registry import Registry

REQUEST_BYTES_MAX: Final = 4 << 20  # 5,000 cards a line, with room
CHANGING: Final = frozenset(VERBS) - {"init"}

Answer = dict[str, Any]


class Admin:
    """Runs one request after the other on an open ledger; the caller provides the time."""

    def __init__(self, ledger: Ledger, *, files: Files, heads_path: str) -> None:
        self._ledger = ledger
        self._files = files
        self._heads_path = heads_path
        self._reading: Mapping[str, Callable[[Mapping[str, Any], int], Answer]] = {
            "report": self._report,
            "verify": self._verify,
            "card_show": self._card_show,
            "balances": lambda _request, _now: balances(self._ledger.connection),
            "status": self._status,
            "version": self._version,
        }

    def run(self, request: object, now_ms: int) -> Answer:
        """One request; never raises for what a request says, only LedgerFailure for our own disk."""
        if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
            return refusal("usage", "a request is an object with a verb")
        arguments = {name: value for name, value in request.items() if name not in ("verb", "operator")}
        verb = request["verb"]
        try:
            if verb in self._reading:
                return {"ok": True} | self._reading[verb](arguments, now_ms)
            if verb not in CHANGING:
                return refusal("usage", f"no verb {verb!r}; there are {', '.join(sorted([*self._reading, *CHANGING]))}")
            told = self._ledger.operate(verb, arguments, operator=request.get("operator", ""), now_ms=now_ms)
        except LedgerFailure:
            raise
        except (LedgerError, ValueError, KeyError, TypeError) as error:
            return refusal("refused", str(error))
        return {"ok": True} | told

    def issues_a_version(self, request: object) -> bool:
        """Whether the newest LIST must go to the front-ends after this request was done."""
        return isinstance(request, dict) and request.get("verb") in ISSUES_A_VERSION

    # -- reading verbs

    def _report(self, request: Mapping[str, Any], now_ms: int) -> Answer:
        return report(self._ledger.connection, now_ms=now_ms, with_items=request.get("items", True) is True)

    def _verify(self, _request: Mapping[str, Any], _now_ms: int) -> Answer:
        found = verify(
            self._ledger.connection,
            self._files.read(self._heads_path),
            self._ledger.keys,
            utc_offset_ms=self._ledger.utc_offset_ms,
        )
        return {
            "sound": found.is_sound,
            "batches": found.batches,
            "operations": found.operations,
            "rows": found.rows,
            "rows_compared": found.rows_compared,
            "findings": [asdict(finding) | {"text": str(finding)} for finding in found.findings],
        }

    def _card_show(self, request: Mapping[str, Any], _now_ms: int) -> Answer:
        return show_card(self._ledger.books, number_of(request, "card", 1, U32_MAX))

    def _status(self, _request: Mapping[str, Any], now_ms: int) -> Answer:
        ledger = self._ledger
        newest = catalogue.current(ledger.connection, ledger.keys)
        return {
            "site": ledger.site,
            "generation": ledger.generation,
            "position": ledger.position,
            "at_ms": now_ms,
            "list_version": None if newest is None else list(newest.version),
        }

    def _version(self, _request: Mapping[str, Any], _now_ms: int) -> Answer:
        newest = catalogue.current(self._ledger.connection, self._ledger.keys)
        if newest is None:
            raise VerbRefused("no deny list was issued yet")
        return {"list_version": list(newest.version), "bytes": len(newest.content)}


def refusal(error: str, says: str) -> Answer:
    """The answer to a request that was not done."""
    return {"ok": False, "error": error, "says": says}


def parse_request(line: bytes) -> object:
    """A request line as an object; a line that is no JSON gives None, which `run` refuses."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def registrations(registry: Registry) -> list[dict[str, Any]]:
    """The terminals of the registry file as the `register` verb takes them, closed epochs included (R40)."""
    found = []
    for entry in registry:
        facts = {
            "terminal": entry.terminal,
            "class": int(entry.terminal_class),
            "kind": int(entry.kind),
            "merchant": entry.merchant,
        }
        epochs = [(one.epoch, one.enrolment_id, one.proof_suite, True) for one in entry.closed]
        epochs.append((entry.epoch, entry.enrolment_id, entry.proof_suite, False))
        found += [
            facts
            | {"epoch": epoch, "enrolment_id": enrolment.hex(), "proof_suite": int(proof_suite), "closed": is_closed}
            for epoch, enrolment, proof_suite, is_closed in epochs
        ]
    return found
