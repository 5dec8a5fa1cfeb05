"""OSDPCAP traces: one JSON object a line, readable by the tools of other OSDP implementations.

    {"timeSec": "1790000000", "timeNano": "123000000", "io": "trace", "data": "53-00-…",
     "osdpTraceVersion": "1", "osdpSource": "…"}

Times are UTC. A trace holds what passed on the wires, so card numbers of readers in clear too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import DamagedData
from protocol.osdp.limits import PACKET_BYTES_MAX

VERSION: Final = "1"
DIRECTIONS: Final = ("input", "output", "trace")
LINE_CHARACTERS_MAX: Final = 8 * PACKET_BYTES_MAX
_DIGITS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_BYTES: Final = re.compile(r"(?:[0-9A-Fa-f]{2}(?:[- ]|$))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """Bytes of one packet (mark bytes may stand before it), and when they passed."""

    time_ns: int
    direction: str
    """`input` and `output` as the recording end saw them, `trace` for one that only listened."""
    data: bytes
    source: str = "onecard"


def write_entry(entry: TraceEntry) -> str:
    """One line, with its end."""
    seconds, nanoseconds = divmod(entry.time_ns, 1_000_000_000)
    fields = {
        "timeSec": str(seconds),
        "timeNano": f"{nanoseconds:09}",
        "io": entry.direction,
        "data": entry.data.hex("-").upper(),
        "osdpTraceVersion": VERSION,
        "osdpSource": entry.source,
    }
    return json.dumps(fields) + "\n"


def read_entry(line: bytes | bytearray | memoryview | str) -> TraceEntry:
    """One line of a trace; separators of the bytes may be `-` or a space, as different writers have it.

    Raises:
        DamagedData: it is none.
    """
    text = line if isinstance(line, str) else bytes(line).decode("utf-8", "replace")
    if len(text) > LINE_CHARACTERS_MAX:
        raise DamagedData(f"a trace line of {len(text)} characters")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedData("a trace line that is no JSON") from error
    wanted = ("timeSec", "timeNano", "io", "data")
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in wanted):
        raise DamagedData("a trace line without its fields")
    seconds, nanoseconds, direction, data = (fields[name] for name in wanted)
    if not (_DIGITS.fullmatch(seconds) and _DIGITS.fullmatch(nanoseconds)) or direction not in DIRECTIONS:
        raise DamagedData("a trace line with a wrong time or direction")
    if not _BYTES.fullmatch(data):
        raise DamagedData("a trace line whose data are no bytes")
    source = fields.get("osdpSource", "")
    raw = bytes.fromhex(data.replace("-", " "))
    time_ns = int(seconds) * 1_000_000_000 + int(nanoseconds)
    return TraceEntry(time_ns, direction, raw, source if isinstance(source, str) else "")
