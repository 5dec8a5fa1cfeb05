"""Messages between a front-end and the ledger, and their proofs (docs/protocol.md §11). Pure.

Order of use on receipt: `decode_up` (which names the front-end), then `verify_up` with that front-end's batch key;
`decode_down`, then `verify_down` with the certified public key of the ledger. Nothing decoded may be acted upon
before it was verified. LIST and REFUSAL carry no proof: a list is proved by its signed head and digest
(protocol.signed), and a refusal settles nothing.

Envelope and stream decoder: protocol.link_envelope. Bodies: protocol.link_up, protocol.link_down, and for batches,
their names and digests protocol.link_batch. All names are gathered here.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest

from protocol.codes import LinkType
from protocol.errors import Malformed, ProofError, UnknownFrame
from protocol.link_batch import (
    BATCH_HEAD_BYTES,
    BATCH_NAME_BYTES,
    CHAIN_START,
    BatchMessage,
    BatchName,
    Row,
    batch_digest,
    batch_row_parts,
    chain_hash,
    encode_batch_head,
    name_batch,
    result_digest,
)
from protocol.link_down import (
    DOWN_DECODERS,
    DOWN_ENCODERS,
    DownMessage,
    LinkWelcome,
    ListMessage,
    Pong,
    Receipt,
    ReceiptException,
    RecollectRequest,
    Refusal,
)
from protocol.link_envelope import (
    DOWN_BIT,
    ENVELOPE_BYTES,
    LINK_CONTEXT,
    LINK_CONTEXT_PREFIX,
    UNSIGNED_TYPES,
    Buffer,
    LinkDecoder,
    envelope_head,
    split_payload,
    with_length,
)
from protocol.link_fields import packed
from protocol.link_requests import Answer, Request
from protocol.link_up import UP_DECODERS, UP_ENCODERS, LinkHello, ListRequest, Ping, Report, UpMessage
from protocol.mac import MacKey
from protocol.signed import DIGEST_BYTES, SIGNATURE_BYTES, Signer, sign_context, verify_signature

__all__ = [
    "CHAIN_START",
    "Answer",
    "BatchMessage",
    "BatchName",
    "DownMessage",
    "LinkDecoder",
    "LinkHello",
    "LinkWelcome",
    "ListMessage",
    "ListRequest",
    "Ping",
    "Pong",
    "Receipt",
    "ReceiptException",
    "RecollectRequest",
    "Refusal",
    "Report",
    "Request",
    "Row",
    "UpMessage",
    "batch_digest",
    "chain_hash",
    "decode_down",
    "decode_up",
    "encode_down",
    "encode_up",
    "name_batch",
    "result_digest",
    "verify_down",
    "verify_up",
]


def encode_up(message: UpMessage, batch_key: MacKey) -> bytes:
    """A message of a front-end, with its length in front and its MAC behind.

    Raises:
        OutOfRange: a value does not fit its field.
    """
    if isinstance(message, BatchMessage):
        proved = envelope_head(LinkType.BATCH) + encode_batch_head(message)
        mac = batch_key.mac(LINK_CONTEXT_PREFIX, proved)
        return with_length(proved, *batch_row_parts(message.rows), mac)
    link_type, encode = UP_ENCODERS[type(message)]
    proved = envelope_head(link_type) + packed(encode, message)
    return with_length(proved, batch_key.mac(LINK_CONTEXT_PREFIX, proved))


def decode_up(payload: Buffer) -> UpMessage:
    """What a front-end says; not to be acted upon before `verify_up`.

    Raises:
        RemoteError: Malformed, UnknownFrame or TooLong; the bytes are at fault.
    """
    link_type, body, _ = split_payload(payload)
    if link_type & DOWN_BIT:
        raise UnknownFrame(f"link message of type {link_type:#04x} goes down, not up")
    return UP_DECODERS[link_type](body)


def verify_up(payload: Buffer, batch_key: MacKey) -> None:
    """Check the MAC of a front-end's message and, of a BATCH, the digest of its rows.

    Raises:
        ProofError: either is wrong.
        RemoteError: as `decode_up`.
    """
    link_type, body, proof = split_payload(payload)
    if link_type & DOWN_BIT:
        raise UnknownFrame(f"link message of type {link_type:#04x} goes down, not up")
    view = memoryview(payload)
    if link_type is not LinkType.BATCH:
        proved = view[: ENVELOPE_BYTES + len(body)]
    elif len(body) < BATCH_HEAD_BYTES:
        raise Malformed("BATCH", f"a body of {len(body)} bytes")
    else:
        proved = view[: ENVELOPE_BYTES + BATCH_HEAD_BYTES]
    if not batch_key.verifies(proof, LINK_CONTEXT_PREFIX, proved):
        raise ProofError("link message: the MAC does not verify")
    if link_type is LinkType.BATCH:
        stated = body[BATCH_NAME_BYTES - DIGEST_BYTES : BATCH_NAME_BYTES]
        if not compare_digest(sha256(body[BATCH_HEAD_BYTES:]).digest(), stated):
            raise ProofError("BATCH: its rows do not have the digest of its name")


def encode_down(message: DownMessage, signer: Signer) -> bytes:
    """A message of the ledger, with its length in front and its signature, if it has one, behind.

    Raises:
        OutOfRange: a value does not fit its field.
    """
    link_type, encode = DOWN_ENCODERS[type(message)]
    proved = envelope_head(link_type) + packed(encode, message)
    if link_type in UNSIGNED_TYPES:
        return with_length(proved)
    return with_length(proved, signer.sign(sign_context(LINK_CONTEXT, proved)))


def decode_down(payload: Buffer) -> DownMessage:
    """What the ledger says; not to be acted upon before `verify_down`.

    Raises:
        RemoteError: Malformed, UnknownFrame or TooLong; the bytes are at fault.
    """
    link_type, body, _ = split_payload(payload)
    if not link_type & DOWN_BIT:
        raise UnknownFrame(f"link message of type {link_type:#04x} goes up, not down")
    return DOWN_DECODERS[link_type](body)


def verify_down(payload: Buffer, public_key: bytes) -> None:
    """Check the ledger's signature; LIST and REFUSAL have none, and pass.

    Raises:
        ProofError: it is wrong.
        RemoteError: as `decode_down`.
    """
    link_type, body, proof = split_payload(payload)
    if not link_type & DOWN_BIT:
        raise UnknownFrame(f"link message of type {link_type:#04x} goes up, not down")
    if link_type in UNSIGNED_TYPES:
        return
    assert len(proof) == SIGNATURE_BYTES
    proved = memoryview(payload)[: ENVELOPE_BYTES + len(body)]
    verify_signature(public_key, proof, sign_context(LINK_CONTEXT, proved), what="link message")
