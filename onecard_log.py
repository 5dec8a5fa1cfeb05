"""The log: one line of JSON per event, to stderr or to a file, behind the `Log` port of `protocol/ports.py`.

    {"at": "2026-11-22T09:30:00.125170Z", "level": "warning", "event": "spool.space_low", "alarm": true, …}

A fact `alarm=True` makes the level `warning`. Never in it, whatever a caller hands over: keys, proofs, bytes of any
kind, full card numbers. Everything is bounded: facts, their length, lines per event and second, file size. Events
come from the loop and from executor threads alike. A log that cannot be written never stops a server.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

FACTS_MAX: Final = 32
TEXT_CHARACTERS_MAX: Final = 512
ITEMS_MAX: Final = 16  # of a list in a fact
LINES_PER_EVENT_AND_SECOND_MAX: Final = 100  # a flood of one kind must not hide the others or fill the disk
EVENTS_COUNTED_MAX: Final = 512
FILE_BYTES_MAX: Final = 64 << 20  # then it becomes `.1`, and the one before that goes
REDACTED: Final = "[redacted]"

SECRET_WORDS: Final = frozenset(
    "key keys secret secrets seed seal seals mac tac tag proof signature password passphrase pin unlock token".split()
)
CARD_WORDS: Final = frozenset("card cards uid uids".split())
PLAIN_NAMES: Final = frozenset({"key_version", "keystore", "key_id"})
"""Names that have a secret's word in them and hold none."""
SPOOL_NAMES: Final = frozenset({"spool", "lost_spool"})
"""Ids of 16 bytes that look like keys and are none."""

_HEX_OF_KEYS: Final = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{16,}(?![0-9A-Za-z])")
_BYTES_LITERAL: Final = re.compile(r"""\bb(?:ytearray\(b)?(['"]).*?\1""")
_CARD_IN_TEXT: Final = re.compile(r"\b(cards?|uid)((?:\s+number)?\s*[=:#]?\s*)(\d{5,}|[0-9a-f]{8,})", re.IGNORECASE)
_DECIMAL: Final = re.compile(r"\d+")


def redacted(name: str, value: object) -> object:
    """A fact as it may stand in a log; a value that JSON has no form for becomes text."""
    words = frozenset(name.lower().split("_"))
    if name not in PLAIN_NAMES and words & SECRET_WORDS:
        return REDACTED
    if words & CARD_WORDS and not isinstance(value, bool) and value is not None:
        return _card_masked(value)
    if isinstance(value, Mapping):
        return {str(key)[:64]: redacted(str(key), inner) for key, inner in list(value.items())[:ITEMS_MAX]}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(name, inner) for inner in list(value)[:ITEMS_MAX]]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    text = value if isinstance(value, str) else str(value)
    return text[:TEXT_CHARACTERS_MAX] if name in SPOOL_NAMES else redacted_text(text)


def redacted_text(text: str) -> str:
    """Free text, for instance of an exception, without what looks like keys, bytes or card numbers."""
    text = _BYTES_LITERAL.sub("[bytes]", text[: 4 * TEXT_CHARACTERS_MAX])
    text = _CARD_IN_TEXT.sub(lambda found: f"{found[1]}{found[2]}{_card_masked(found[3])}", text)
    text = _HEX_OF_KEYS.sub(lambda found: found[0] if _DECIMAL.fullmatch(found[0]) else REDACTED, text)
    return text[:TEXT_CHARACTERS_MAX]


def _card_masked(value: object) -> object:
    """The last four digits, as `protocol.records.card_masked`; several cards become their number."""
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        return f"[{len(value)} cards]"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    text = str(value)
    return text if text.startswith("…") else f"…{text[-4:]:0>4}"


class _BoundedFile:
    """What structlog writes to: a file that is put aside when it has grown, or a stream that somebody else owns."""

    def __init__(self, target: Path | TextIO, *, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = target if isinstance(target, Path) else None
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self.lost = 0
        """Lines that could not be written, ever."""
        self._file = self._opened() if isinstance(target, Path) else target

    def _opened(self) -> TextIO:
        assert self._path is not None
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(self._path, "a", encoding="utf-8", errors="backslashreplace", opener=_private)

    def write(self, text: str) -> None:
        with self._lock:
            try:
                if self._path is not None and self._file.tell() + len(text) > self._bytes_max:
                    self._file.close()
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
                    self._file = self._opened()
                self._file.write(text)
            except (OSError, ValueError):  # full disk, closed pipe: the server goes on, and says how much is missing
                self.lost += 1

    def flush(self) -> None:
        with self._lock:
            try:
                self._file.flush()
            except (OSError, ValueError):
                self.lost += 1

    def close(self) -> None:
        if self._path is not None:
            with self._lock:
                self._file.close()


def _private(path: str, flags: int) -> int:
    """It names terminals and addresses."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class JsonLog:
    """A `Log`. Made with a path it owns the file and closes it; made with a stream it does not."""

    def __init__(
        self,
        target: Path | TextIO | None = None,
        *,
        facts: Mapping[str, object] | None = None,
        file_bytes_max: int = FILE_BYTES_MAX,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`target` None: stderr. `facts` stand in every line."""
        self._file = _BoundedFile(target if target is not None else sys.stderr, bytes_max=file_bytes_max)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._second = -1
        self._told_lost = 0
        self._counts: dict[str, int] = {}
        logger: Any = structlog.wrap_logger(
            structlog.WriteLogger(cast(TextIO, self._file)),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                _in_order,
                structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        )
        self._logger = logger.bind(**{name: redacted(name, value) for name, value in (facts or {}).items()})

    def __call__(self, event: str, /, **facts: object) -> None:
        is_alarm = bool(facts.get("alarm")) or event == "alarm"
        is_fault = event == "callback_failed"
        if not self._may_write(event):
            return
        shown = {_safe_name(name): redacted(name, value) for name, value in list(facts.items())[:FACTS_MAX]}
        if not shown.get("alarm", True):
            del shown["alarm"]
        lost = self._file.lost
        if lost > self._told_lost:
            shown["lines_lost"] = lost - self._told_lost
        level = "error" if is_fault else "warning" if is_alarm else "info"
        getattr(self._logger, level)(redacted_text(event), **shown)
        if self._file.lost == lost:
            self._told_lost = lost

    def _may_write(self, event: str) -> bool:
        """Count the event; what was left out in a second is told in the next one."""
        second = int(self._monotonic())
        with self._lock:
            left_out: dict[str, int] = {}
            if second != self._second:
                over = LINES_PER_EVENT_AND_SECOND_MAX
                left_out = {name: count - over for name, count in self._counts.items() if count > over}
                self._counts.clear()
                self._second = second
            name = event if event in self._counts or len(self._counts) < EVENTS_COUNTED_MAX else "others"
            self._counts[name] = self._counts.get(name, 0) + 1
            is_wanted = self._counts[name] <= LINES_PER_EVENT_AND_SECOND_MAX
        for name, count in left_out.items():
            self._logger.info("log.left_out", of=name, lines=count)
        return is_wanted

    def close(self) -> None:
        """Close the file, if it is ours; idempotent."""
        self._file.close()


def _safe_name(name: str) -> str:
    """Fields of structlog keep their meaning."""
    return f"{name}_" if name in {"event", "level", "at"} else name


def _in_order(_logger: object, _method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Time, level and event first: lines are read by people too."""
    first = {name: fields[name] for name in ("at", "level", "event") if name in fields}
    return first | {name: value for name, value in fields.items() if name not in first}
