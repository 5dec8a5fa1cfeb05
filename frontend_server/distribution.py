"""Versions on their way down: taken from the ledger, kept over restarts, pushed to every session (R27, R28).

    ledger ── LIST ──▶ verify: root, site, higher ──▶ make, on the executor ──▶ durable file ──▶ every live session

The order is the rule: a version is durable here before a terminal hears of it, so a restart never offers an older one
than a terminal has already taken from this front-end. Only when the disk refuses it is pushed all the same, with an
alarm: a lost card must be refused, terminals never go back by themselves, and the ledger sends its newest again after a
restart. A version that is not higher, not signed, or of another site is refused and alarmed; what is held stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from frontend_server.alarms import AlarmKind, Alarms
from frontend_server.list_cache import decode_cache, encode_cache, next_version
from frontend_server.metrics import Metrics
from protocol.codes import ListForm, ListKind
from protocol.errors import RemoteError
from protocol.list_transfer import ListVersion
from protocol.ports import Clock, Executor, Files, Log
from protocol.signed import NO_VERSION, Certificate, SignedHead, Version, verify_certificate, verify_head

KINDS: Final = (ListKind.DENY,)
"""What version 1 distributes; the other kinds are reserved."""


@dataclass(slots=True)
class _Waiting:
    """The newest LIST that came while an earlier one was being made; one a kind, since only the newest counts."""

    head: SignedHead
    certificate: Certificate
    form: ListForm
    base: Version
    data: bytes


ASK_AGAIN_MS: Final = 2_000
"""After a list that was damaged on its way: soon, for a lost card waits for it; never faster, whoever sends rubbish."""


class Distribution:
    """The list versions of one front-end.

    Args:
        executor: for work of up to a second (verifying and storing a list of a million cards); not the spool's.
        cache_dir: existing directory for one file a kind.
        push: called with every new version, after it is durable.
        request_list: asks the ledger; (0, 0) asks for a snapshot.
    """

    def __init__(
        self,
        *,
        site: int,
        root_public: bytes,
        cache_dir: str,
        clock: Clock,
        files: Files,
        executor: Executor,
        alarms: Alarms,
        metrics: Metrics,
        log: Log,
        push: Callable[[ListVersion], None],
        request_list: Callable[[ListKind, Version], None],
    ) -> None:
        self._site = site
        self._root_public = root_public
        self._cache_dir = cache_dir
        self._clock = clock
        self._files = files
        self._executor = executor
        self._alarms = alarms
        self._metrics = metrics
        self._log = log
        self._push = push
        self._request_list = request_list
        self._held: dict[ListKind, ListVersion] = {}
        self._making: set[ListKind] = set()
        self._waiting: dict[ListKind, _Waiting] = {}
        self._asking: set[ListKind] = set()
        self._closed = False

    def load(self) -> None:
        """Read what an earlier life kept; a damaged file is set aside, alarmed and fetched again."""
        for kind in KINDS:
            data = self._files.read(self._path(kind))
            if data is None:
                continue
            try:
                self._held[kind] = decode_cache(data, kind=kind, root_public=self._root_public, site=self._site)
            except RemoteError as error:
                self._files.replace(self._path(kind) + ".damaged", data)
                self._alarm(AlarmKind.LIST_CACHE, kind, str(error))

    def held(self, kind: int) -> ListVersion | None:
        """What sessions are to be brought to; None before the ledger's first."""
        return self._held.get(kind)  # type: ignore[call-overload,no-any-return]  # an IntEnum is found by its number

    def version(self, kind: ListKind) -> Version:
        """(0, 0) when none is held."""
        held = self._held.get(kind)
        return NO_VERSION if held is None else held.head.version

    def on_list(self, head: SignedHead, certificate: Certificate, form: ListForm, base: Version, data: bytes) -> None:
        """A LIST from the ledger; nothing about it is believed yet."""
        try:
            kind = ListKind(head.list_kind)
        except ValueError:
            return  # a kind of a later version: not for us, and no fault
        if kind not in KINDS or self._closed or not self._is_welcome(kind, head, certificate):
            return
        if kind in self._making:
            newest = self._waiting.get(kind)
            if newest is None or newest.head.version < head.version:
                self._waiting[kind] = _Waiting(head, certificate, form, base, data)
            return
        self._make(kind, _Waiting(head, certificate, form, base, data))

    def close(self) -> None:
        """Take no more; what is being made is stored, and pushed to nobody."""
        self._closed = True
        self._waiting.clear()

    def _is_welcome(self, kind: ListKind, head: SignedHead, certificate: Certificate) -> bool:
        """Check signatures, site and version; alarm what is refused."""
        held = self._held.get(kind)
        if held is not None and head == held.head:
            return False  # every LINK_WELCOME is followed by the current list
        try:
            verify_certificate(certificate, self._root_public, self._site, self._clock.now_ms())
            verify_head(head, certificate)
        except RemoteError as error:
            self._refuse(kind, str(error))
            self._ask_again(kind)
            return False
        if held is not None and head.version <= held.head.version:
            if head.version == held.head.version and head.digest == held.head.digest:
                return False  # the same content signed again
            self._refuse(kind, f"version {_shown(head.version)}, held is {_shown(held.head.version)}")
            return False
        return True

    def _make(self, kind: ListKind, offered: _Waiting) -> None:
        held = self._held.get(kind)
        base = offered.base if offered.form == ListForm.DELTA else None
        if base is not None and (held is None or held.head.version != base):
            self._request_list(kind, NO_VERSION)
            return
        path = self._path(kind)

        def work() -> tuple[ListVersion, OSError | None]:
            made = next_version(held, offered.head, offered.certificate, base=base, data=offered.data)
            try:
                self._files.replace(path, encode_cache(made))
            except OSError as error:
                return made, error
            return made, None

        self._making.add(kind)
        self._executor.submit(work, lambda made, error: self._made(kind, offered, made, error))

    def _made(
        self,
        kind: ListKind,
        offered: _Waiting,
        result: tuple[ListVersion, OSError | None] | None,
        error: BaseException | None,
    ) -> None:
        self._making.discard(kind)
        if result is not None:
            made, disk_error = result
            self._held[kind] = made
            self._alarms.clear(AlarmKind.LIST_REFUSED, kind.name)
            if disk_error is None:
                self._alarms.clear(AlarmKind.LIST_CACHE, kind.name)
            else:
                self._alarm(AlarmKind.LIST_CACHE, kind, f"not stored: {disk_error}")
            self._log("list.taken", kind=kind.name, version=_shown(made.head.version), bytes=len(made.content))
            if not self._closed:
                self._push(made)
        else:
            self._refuse(kind, str(error))
            if isinstance(error, RemoteError) and offered.form == ListForm.DELTA:
                self._request_list(kind, NO_VERSION)
            else:
                self._ask_again(kind)
        waiting = self._waiting.pop(kind, None)
        if waiting is not None and not self._closed:
            self.on_list(waiting.head, waiting.certificate, waiting.form, waiting.base, waiting.data)

    def _refuse(self, kind: ListKind, why: str) -> None:
        self._metrics.list_offers_refused += 1
        self._alarm(AlarmKind.LIST_REFUSED, kind, why)

    def _ask_again(self, kind: ListKind) -> None:
        """Ask the ledger what is newer than what is held, a little later; one question at a time."""
        if kind in self._asking:
            return
        self._asking.add(kind)

        def ask() -> None:
            self._asking.discard(kind)
            if not self._closed:
                self._request_list(kind, self.version(kind))

        self._clock.call_at(self._clock.monotonic_ms() + ASK_AGAIN_MS, ask)

    def _alarm(self, alarm: AlarmKind, kind: ListKind, text: str) -> None:
        if self._alarms.raise_alarm(alarm, kind.name, text, self._clock.now_ms()):
            self._log("alarm", kind=alarm.value, subject=kind.name, text=text)

    def _path(self, kind: ListKind) -> str:
        return f"{self._cache_dir}/list-{kind.name.lower()}.cache"


def _shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
