"""Questions to the ledger: answered, expired, doubled, foreign, forgotten; each exactly once, none settles anything."""

from __future__ import annotations

import pytest

from ledger_sync.link.requests import WAITING_MAX, Requests
from protocol.codes import AnswerStatus, RequestKind
from protocol.link_messages import Answer, Request
from tests.simulation.world import EPOCH_MS, Host, World


class Asking:
    def __init__(self) -> None:
        self.world = World(seed=1)
        self.host = Host(self.world, "frontend")
        self.sent: list[Request] = []
        self.told: list[Answer | None] = []
        self.has_link = True
        self.requests = Requests(clock=self.host, random=self.host, send=self.send)

    def send(self, request: Request) -> bool:
        if self.has_link:
            self.sent.append(request)
        return self.has_link

    def ask(self, body: bytes = b"?") -> Request:
        self.requests.ask(RequestKind.ECHO, body, within_ms=5_000, answered=self.told.append)
        return self.sent[-1]

    def run(self, milliseconds: int) -> None:
        self.world.run_until(self.world.time_ms + milliseconds)


def answer_to(request: Request, **other: object) -> Answer:
    fields = {"correlation": request.correlation, "expires_ms": request.expires_ms, "kind": request.kind}
    return Answer(**{**fields, "status": AnswerStatus.DONE, "body": b"!", **other})  # type: ignore[arg-type]


def test_an_answer_reaches_who_asked_and_only_once() -> None:
    asking = Asking()
    request = asking.ask()
    assert (request.kind, request.body, request.expires_ms) == (1, b"?", EPOCH_MS + 5_000)
    asking.requests.answer(answer_to(request))
    asking.requests.answer(answer_to(request))
    asking.run(10_000)
    assert asking.told == [answer_to(request)]
    assert (asking.requests.dropped, asking.requests.expired) == (1, 0)


def test_no_answer_in_time_is_said_then_and_a_late_one_is_dropped() -> None:
    asking = Asking()
    request = asking.ask()
    asking.run(4_999)
    assert asking.told == []
    asking.run(2)
    assert asking.told == [None]
    asking.requests.answer(answer_to(request))
    assert asking.told == [None]
    assert (asking.requests.dropped, asking.requests.expired) == (1, 1)


@pytest.mark.parametrize("other", [{"correlation": bytes(16)}, {"expires_ms": EPOCH_MS}, {"kind": 2}])
def test_an_answer_to_something_else_is_dropped(other: dict[str, object]) -> None:
    asking = Asking()
    request = asking.ask()
    asking.requests.answer(answer_to(request, **other))
    assert (asking.told, asking.requests.dropped) == ([], 1)


def test_two_questions_have_two_correlations() -> None:
    asking = Asking()
    first, second = asking.ask(), asking.ask()
    assert first.correlation != second.correlation
    asking.requests.answer(answer_to(second))
    assert asking.told == [answer_to(second)]


def test_who_waits_when_the_connection_ends_is_told_at_once() -> None:
    asking = Asking()
    asking.ask()
    asking.ask()
    asking.requests.forget()
    asking.run(10_000)
    assert asking.told == [None, None]


def test_without_a_link_or_with_too_many_waiting_nobody_waits() -> None:
    asking = Asking()
    for _ in range(WAITING_MAX):
        asking.ask()
    asking.ask()
    assert len(asking.sent) == WAITING_MAX
    asking.run(1)
    assert asking.told == [None]
    asking.requests.forget()
    asking.has_link = False
    asking.ask()
    assert len(asking.told) == WAITING_MAX + 1
    asking.run(1)
    assert len(asking.told) == WAITING_MAX + 2
