"""The heads file: a signed line per batch and per operation, outside the database (R26). Append-only JSON lines.

    {"head": "batch", "position": P, "generation": G, "posted_ms": …, "name": hex(68), "chain": hex, "signature": hex}
    {"head": "operation", "operation": N, "after_position": P, "at_ms": …, "operator": …, "verb": …,
     "arguments": hex(SHA-256), "hash": hex, "signature": hex}

The signature is the ledger's Ed25519 over "onecard.ledger-head.v1" ‖ 00 ‖ the line without its signature (canonical
JSON: sorted keys, no blanks). Whoever keeps a copy of this file elsewhere can prove a truncated or rewritten ledger.
A line is written after the commit and before the receipt; a crash between the two is mended at the next opening.
After a restore the same positions come again behind the line of the `restore` operation, and the later line counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from protocol.errors import ProofError
from protocol.signed import Signer, sign_context, verify_signature

HEAD_CONTEXT: Final = "onecard.ledger-head.v1"
OPERATION_CONTEXT: Final = b"onecard.operation.v1\0"
OPERATIONS_START: Final = bytes(32)
HEADS_FILE_BYTES_MAX: Final = 1 << 30  # some two million lines; larger ones are rotated away by the operator


def canonical(value: object) -> bytes:
    """JSON with one form only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def operation_hash(
    previous: bytes, *, operation: int, after_position: int, at_ms: int, operator: str, verb: str, arguments: str
) -> bytes:
    """Chain hash of one operation; `previous` is that of the one before, or OPERATIONS_START."""
    facts = canonical([operation, after_position, at_ms, operator, verb, arguments])
    return sha256(b"".join((OPERATION_CONTEXT, previous, facts))).digest()


def batch_line(signer: Signer, *, position: int, generation: int, posted_ms: int, name: bytes, chain: bytes) -> bytes:
    """The line of one batch, signed, with its line end."""
    facts = {"head": "batch", "position": position, "generation": generation, "posted_ms": posted_ms}
    return _signed(signer, facts | {"name": name.hex(), "chain": chain.hex()})


def operation_line(
    signer: Signer,
    *,
    operation: int,
    after_position: int,
    at_ms: int,
    operator: str,
    verb: str,
    arguments: str,
    hash_: bytes,
) -> bytes:
    """The line of one operation; of its arguments the digest only, since they name cards."""
    facts = {"head": "operation", "operation": operation, "after_position": after_position, "at_ms": at_ms}
    facts |= {"operator": operator, "verb": verb, "arguments": sha256(arguments.encode()).hexdigest()}
    return _signed(signer, facts | {"hash": hash_.hex()})


def _signed(signer: Signer, facts: dict[str, Any]) -> bytes:
    signature = signer.sign(sign_context(HEAD_CONTEXT, canonical(facts)))
    return canonical(facts | {"signature": signature.hex()}) + b"\n"


@dataclass(slots=True)
class Heads:
    """A heads file as read: what it says last of every position and operation, and what is wrong with it."""

    batches: dict[int, dict[str, Any]] = field(default_factory=dict)
    operations: dict[int, dict[str, Any]] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """(line number from 1, what is wrong)."""
    torn: int = 0
    """Lines that are no heads: a crash may cut one; if it was a real one, its position is missed."""

    @property
    def last_position(self) -> int:
        return next(reversed(self.batches), 0)

    @property
    def last_operation(self) -> int:
        return next(reversed(self.operations), 0)


def read_heads(data: bytes, public_key: bytes | None) -> Heads:
    """Read a heads file; `public_key` None: signatures are not checked (at opening, where only the tail matters)."""
    heads = Heads()
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            facts = json.loads(line)
            signature = bytes.fromhex(facts.pop("signature"))
            kind = facts["head"]
            key = int(facts["position"] if kind == "batch" else facts["operation"])
            if kind != "batch":
                facts |= {"verb": str(facts["verb"]), "after_position": int(facts["after_position"])}
            if public_key is not None:
                verify_signature(public_key, signature, sign_context(HEAD_CONTEXT, canonical(facts)), what="head")
        except ProofError:
            heads.faults.append((number, "the signature does not verify"))
            continue
        except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            heads.torn += 1
            continue
        _take(heads, number, kind, key, facts)
    return heads


def _take(heads: Heads, number: int, kind: str, key: int, facts: dict[str, Any]) -> None:
    """Lines follow each other without holes; only a restore takes the place of what came after its position."""
    table = heads.batches if kind == "batch" else heads.operations
    last = next(reversed(table), 0)
    if kind == "operation" and facts["verb"] == "restore" and key <= last + 1:
        for later in range(key, last + 1):
            del table[later]
        for position in [each for each in heads.batches if each > facts["after_position"]]:
            del heads.batches[position]
        table[key] = facts
    elif key == last + 1:
        table[key] = facts
    elif table.get(key) != facts:  # the same line twice is what mending after a crash may leave
        heads.faults.append((number, f"{kind} {key} follows {last}"))
