"""Versions on their way down: taken, kept over restarts, pushed to every session (R27, R28).

    ledger ── LIST (deny list) ──┐
    published file (a document) ─┴▶ verify: root, use, site, higher ─▶ make, on the executor ─▶ durable file ─▶ sessions

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
from frontend_server.published import decode_published
from protocol.codes import ListForm, ListKind
from protocol.errors import RemoteError
from protocol.list_kinds import LIST_KINDS, certificate_use
from protocol.list_transfer import ListVersion
from protocol.ports import Clock, Executor, Files, Log
from protocol.signed import NO_VERSION, Certificate, SignedHead, Version, verify_certificate, verify_head


@dataclass(slots=True)
class _Waiting:
    """The newest LIST that came while an earlier one was being made; one a kind, since only the newest counts."""

    head: SignedHead
    certificate: Certificate
    form: ListForm
    base: Version
    data: bytes
    life: int
    """Of the link to the ledger, when it came."""


ASK_AGAIN_MS: Final = 2_000
"""After a list that was damaged on its way: soon, for a lost card waits for it; never faster, whoever sends rubbish."""


class Distribution:
    """The list versions of one front-end.

    Args:
        executor: for work of up to a second (verifying and storing a list of a million cards); not the spool's.
        cache_dir: existing directory for one file a kind.
        push: called with every new version, after it is durable.
        request_list: asks the ledger; (0, 0) asks for a snapshot.
        link_life: which link to the ledger this is; another number when it has ended.
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
        link_life: Callable[[], int],
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
        self._link_life = link_life
        self._held: dict[ListKind, ListVersion] = {}
        self._said: dict[ListKind, int] = {}
        """The life of the link on which the ledger has sent the version held, or said it again."""
        self._making: set[ListKind] = set()
        self._waiting: dict[ListKind, _Waiting] = {}
        self._asking: set[ListKind] = set()
        self._closed = False

    def load(self) -> None:
        """Read what an earlier life kept; a damaged file is set aside, alarmed and fetched again."""
        for kind in LIST_KINDS:
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
        if head.list_kind != ListKind.DENY:
            return  # of a later version, or what only people publish: not for us, and no fault
        self._offered(ListKind.DENY, _Waiting(head, certificate, form, base, data, self._link_life()))

    def on_damaged_list(self, why: str) -> None:
        """A LIST from the ledger of which not even the head can be read: the deny list alone comes that way."""
        self._refuse(ListKind.DENY, why)
        self._ask_again(ListKind.DENY)

    def on_published(self, kind: ListKind, data: bytes) -> None:
        """A file of parameters or permissions; nothing about it is believed yet. What is held stays if it is wrong."""
        try:
            head, certificate, content = decode_published(data, kind)
        except RemoteError as error:
            self._refuse(kind, str(error))
            return
        self._offered(kind, _Waiting(head, certificate, ListForm.SNAPSHOT, NO_VERSION, content, 0))

    def on_unreadable(self, kind: ListKind, why: str) -> None:
        """A file of parameters or permissions is there and cannot be read."""
        self._refuse(kind, why)

    def is_newest(self, kind: ListKind) -> bool:
        """Whether what is held is the newest that the ledger has issued: it has said so on the link that is up now."""
        is_under_way = kind in self._making or kind in self._asking
        return not is_under_way and kind in self._said and self._said[kind] == self._link_life()

    def _offered(self, kind: ListKind, offered: _Waiting) -> None:
        if self._closed or not self._is_welcome(kind, offered):
            return
        if kind in self._making:
            newest = self._waiting.get(kind)
            if newest is None or newest.head.version < offered.head.version:
                self._waiting[kind] = offered
            return
        self._make(kind, offered)

    def close(self) -> None:
        """Take no more; what is being made is stored, and pushed to nobody."""
        self._closed = True
        self._waiting.clear()

    def _is_welcome(self, kind: ListKind, offered: _Waiting) -> bool:
        """Check signatures, site and version; alarm what is refused."""
        held, head = self._held.get(kind), offered.head
        if held is not None and head == held.head:
            self._is_held(kind, offered.life)
            return False  # every LINK_WELCOME is followed by the current list
        try:
            use = certificate_use(kind)
            verify_certificate(offered.certificate, self._root_public, self._site, self._clock.now_ms(), use=use)
            verify_head(head, offered.certificate)
        except RemoteError as error:
            self._refuse(kind, str(error))
            self._ask_again(kind)
            return False
        if held is not None and head.version <= held.head.version:
            if head.version == held.head.version and head.digest == held.head.digest:
                self._is_held(kind, offered.life)
                return False  # the same content signed again
            self._refuse(kind, f"version {_shown(head.version)}, held is {_shown(held.head.version)}")
            return False
        return True

    def _is_held(self, kind: ListKind, life: int) -> None:
        """What was offered is what is held: nothing is wrong with its source any more."""
        self._said[kind] = life
        if kind != ListKind.DENY:
            self._alarms.clear(AlarmKind.PUBLISHED_REFUSED, kind.name)

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
            self._said[kind] = offered.life
            self._alarms.clear(_refusal_of(kind), kind.name)
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
            self._offered(kind, waiting)

    def _refuse(self, kind: ListKind, why: str) -> None:
        self._metrics.list_offers_refused += 1
        self._alarm(_refusal_of(kind), kind, why)

    def _ask_again(self, kind: ListKind) -> None:
        """Ask the ledger what is newer than what is held, a little later; one question at a time.

        A published file is looked at again when it has changed.
        """
        if kind in self._asking or kind != ListKind.DENY:
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


def _refusal_of(kind: ListKind) -> AlarmKind:
    return AlarmKind.LIST_REFUSED if kind == ListKind.DENY else AlarmKind.PUBLISHED_REFUSED


def _shown(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
