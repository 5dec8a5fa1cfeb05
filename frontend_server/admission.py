"""Who may log in: the registry's word on what a HELLO claims (R35, R40). No I/O.

The answer on the wire is one and the same; so is the work: a link key is derived in every case, whoever it is for.
"""

from __future__ import annotations

from collections.abc import Callable

from frontend_server.keys import FrontendKeys
from frontend_server.refusals import Reason
from protocol.codes import TerminalClass
from protocol.handshake import Hello
from protocol.keys import link_key
from protocol.registry import EnrolledTerminal, Registry


class Admission:
    """Checks HELLOs against registry and keys; `replace` takes up a changed registry while the server runs."""

    def __init__(self, registry: Registry, keys: FrontendKeys) -> None:
        self.registry = registry
        self._keys = keys

    def find_key(self, hello: Hello) -> tuple[bytes, Reason | None]:
        """The link key of what is claimed, and why it is refused all the same, or None."""
        master = self._keys.link_master(hello.key_version)
        key = link_key(
            master, terminal=hello.terminal, epoch=hello.epoch, key_version=hello.key_version, suite=hello.suite
        )
        return key, self._why_not(hello)

    def _why_not(self, hello: Hello) -> Reason | None:
        entry = self.registry.get(hello.terminal)
        if entry is None:
            return Reason.UNKNOWN_TERMINAL
        # A proxy lives in the front-end itself (R41): over a network nobody is one.
        if hello.terminal_class != entry.terminal_class or entry.terminal_class != TerminalClass.TERMINAL:
            return Reason.WRONG_CLASS
        if hello.terminal_kind != entry.kind:
            return Reason.WRONG_KIND
        if hello.epoch != entry.epoch:
            return Reason.WRONG_EPOCH
        if hello.suite != entry.suite:
            return Reason.WRONG_SUITE
        if hello.key_version != entry.key_version or not self._keys.has_link_master(hello.key_version):
            return Reason.WRONG_KEY_VERSION
        return None

    def replace(self, registry: Registry) -> Callable[[int, int], bool]:
        """Take up another registry; tells of a session (terminal, epoch) admitted before whether it may go on."""
        before, self.registry = self.registry, registry

        def stays(terminal: int, epoch: int) -> bool:
            now, then = registry.get(terminal), before.get(terminal)
            return now is not None and now.epoch == epoch and (then is None or _link_facts(now) == _link_facts(then))

        return stays


def _link_facts(entry: EnrolledTerminal) -> tuple[object, ...]:
    """What a session was admitted by; merchant and name may change under it."""
    return entry.terminal_class, entry.kind, entry.epoch, entry.suite, entry.key_version, entry.enrolment_id
