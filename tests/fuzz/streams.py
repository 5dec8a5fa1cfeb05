"""Decoders of byte streams: whatever arrives, and however it is cut into pieces, what comes out is the same.

A stream is bent frames among whole ones. Half of the bent frames get their checks put right again: behind a wrong
CRC nothing of a decoder is ever reached.
"""

from __future__ import annotations

import random
import zlib
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from typing import Any, Final

from protocol.codes import Medium
from protocol.errors import RemoteError
from protocol.frame import HEADER_BYTES, MAGIC, FrameDecoder
from protocol.limits import BODY_BYTES_MAX_LINE, BODY_BYTES_MAX_TCP, GARBAGE_BYTES_MAX
from protocol.link_messages import LinkDecoder
from tests.fuzz.corpus import pieces
from tests.fuzz.mutate import mutated

FRAMES_MAX: Final = 4
Result = tuple[list[Any], str]
"""What came out, and the name of the error that ended it."""

Source = random.Random


def frames_of(medium: Medium) -> Callable[[Sequence[bytes]], Result]:
    """A reader of chunks by a fresh frame decoder."""
    body_bytes_max = BODY_BYTES_MAX_LINE if medium is Medium.LINE else BODY_BYTES_MAX_TCP

    def read(chunks: Sequence[bytes]) -> Result:
        decoder = FrameDecoder(medium, body_bytes_max)
        frames: list[Any] = []
        for chunk in chunks:
            frames += decoder.feed(chunk)
            held = len(decoder._buffer)
            assert held <= HEADER_BYTES + body_bytes_max + 24, f"the decoder holds {held} bytes"
        counts = (decoder.garbage_bytes if decoder.error is None else -1, decoder.noise_frames, decoder.unknown_frames)
        return [*frames, counts], type(decoder.error).__name__

    return read


def link_payloads(chunks: Sequence[bytes]) -> Result:
    """A reader of chunks by a fresh link decoder."""
    decoder = LinkDecoder()
    found: list[Any] = []
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            found += decoder.payloads()
    except RemoteError as error:
        return found, type(error).__name__
    return found, ""


READERS: Final[dict[str, tuple[Callable[[Sequence[bytes]], Result], tuple[str, ...]]]] = {
    "TCP frames": (frames_of(Medium.TCP), ("03_frames", "05_sealed_frames", "04_handshake")),
    "line frames": (frames_of(Medium.LINE), ("03_frames", "05_sealed_frames", "04_handshake")),
    "link stream": (link_payloads, ("11_link",)),
}


def corpus_of(name: str) -> tuple[bytes, ...]:
    """Whole frames of the stream, as the vectors have them."""
    _, stems = READERS[name]
    whole = pieces(*stems)
    if name == "link stream":
        return tuple(each for each in whole if int.from_bytes(each[:4], "big") == len(each) - 4)
    return tuple(each for each in whole if each[0] == MAGIC and len(each) >= HEADER_BYTES)


def checks_mended(frame: bytes, medium: Medium) -> bytes:
    """The frame with both its checks right for what it now contains."""
    if len(frame) < HEADER_BYTES:
        return frame
    head = frame[: HEADER_BYTES - 2]
    mended = head + crc_hqx(head, 0xFFFF).to_bytes(2, "big") + frame[HEADER_BYTES:]
    if medium is Medium.LINE and len(mended) >= HEADER_BYTES + 4:
        mended = mended[:-4] + zlib.crc32(mended[:-4]).to_bytes(4, "big")
    return mended


def stream(source: Source, name: str, corpus: Sequence[bytes]) -> bytes:
    """One to four frames, most of them bent."""
    medium = Medium.LINE if name == "line frames" else Medium.TCP
    parts = []
    for _ in range(source.randint(1, FRAMES_MAX)):
        if source.random() < 0.3:
            parts.append(source.choice(corpus))
            continue
        bent = mutated(source, corpus)
        is_mended = name != "link stream" and source.random() < 0.5
        parts.append(checks_mended(bent, medium) if is_mended else bent)
    return b"".join(parts)


def chunked(source: Source, data: bytes) -> list[bytes]:
    """`data` cut at random places; the pieces may be empty."""
    cuts = sorted(source.randint(0, len(data)) for _ in range(source.randint(1, 6)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def try_stream(source: Source, name: str, corpus: Sequence[bytes]) -> tuple[bytes, bool]:
    """One stream, read whole, in random pieces and (short ones) byte by byte; returns it, and whether it was accepted.

    Raises AssertionError where two ways of cutting give two results.
    """
    read, _ = READERS[name]
    data = stream(source, name, corpus)
    whole = read([data])
    ways = [chunked(source, data)]
    if len(data) <= 256:
        ways.append([data[at : at + 1] for at in range(len(data))])
    for way in ways:
        again = read(way)
        assert again == whole, f"in {len(way)} pieces {again[1] or 'other items'}, whole {whole[1] or 'no error'}"
    return data, whole[1] in ("", "NoneType")


assert GARBAGE_BYTES_MAX > 0  # the TCP reader ends a stream of noise there, which the streams above reach
