"""Parameters and permissions as files: what people publish offline (docs/protocol.md §10, *published lists*).

    offset size field
    0      128  signed head
    128    120  certificate of the site's offline key
    248    …    content, a document

A file is read when it has changed; whoever takes it believes nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from protocol.codes import ListKind
from protocol.errors import DamagedData, Malformed
from protocol.limits import DOCUMENT_BYTES_MAX
from protocol.list_kinds import check_content
from protocol.signed import CERTIFICATE_BYTES, HEAD_BYTES, Certificate, SignedHead

HEADS_BYTES: Final = HEAD_BYTES + CERTIFICATE_BYTES
FILE_BYTES_MAX: Final = HEADS_BYTES + DOCUMENT_BYTES_MAX

FileState = tuple[int, int, int]


def decode_published(data: bytes, kind: ListKind) -> tuple[SignedHead, Certificate, bytes]:
    """Head, certificate and content of a file of that kind; the signatures are still to be verified.

    Raises:
        DamagedData: the content is not what the head names, or the file is cut short or too long.
        Malformed: head, certificate or content break their layout, or it is a list of another kind.
    """
    if not HEADS_BYTES < len(data) <= FILE_BYTES_MAX:
        raise DamagedData(f"{kind.name.lower()} file: {len(data)} bytes, {HEADS_BYTES + 1} to {FILE_BYTES_MAX}")
    head = SignedHead.decode(data[:HEAD_BYTES])
    certificate = Certificate.decode(data[HEAD_BYTES:HEADS_BYTES])
    content = data[HEADS_BYTES:]
    if head.list_kind != kind:
        raise Malformed("published list", f"of kind {head.list_kind:02x}, not {int(kind):02x}", offset=8)
    if not head.names(content):
        raise DamagedData(f"{kind.name.lower()} file: the content is not what its head names")
    check_content(kind, content)
    return head, certificate, content


class PublishedFiles:
    """Watches one file a kind.

    Args:
        take: called with the bytes of every file that is there at first, and again when it has changed.
        refused: told of a file that cannot be read.
    """

    def __init__(
        self,
        paths: Mapping[ListKind, Path],
        *,
        take: Callable[[ListKind, bytes], None],
        refused: Callable[[ListKind, str], None],
    ) -> None:
        self._paths = dict(paths)
        self._take = take
        self._refused = refused
        self._states: dict[ListKind, FileState] = {}

    def look(self) -> None:
        """Hand over what has changed since the last look; a file that is not there changes nothing."""
        for kind, path in self._paths.items():
            state = file_state(path)
            if state is None or state == self._states.get(kind):
                continue
            self._states[kind] = state
            try:
                with path.open("rb") as file:
                    data = file.read(FILE_BYTES_MAX + 1)  # one more than allowed tells that it is too long
            except OSError as error:
                self._refused(kind, str(error))
            else:
                self._take(kind, data)


def file_state(path: Path) -> FileState | None:
    """What changes when a file is replaced; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
