"""How a list gets from a front-end into a terminal (docs/protocol.md §6, §10; R27, R28). Pure.

    terminal: ListReceiver                      front-end: ListSender, one per session and list kind
    ---------------------------------------------------------------------------------------------
    LIST_STATE 00, held head          ──▶       same head: nothing to do
                                      ◀──       LIST_OFFER: head, certificate, first part of a delta or snapshot
    checks all, stages                ──▶       LIST_STATE 01, staged bytes: goes on from there
                                      ◀──       LIST_CHUNK, at most 4 unanswered
    LIST_STATE 01 for each            ──▶
    complete: digest right, applies   ──▶       LIST_STATE 00 with the new head: done
    else 02 … 06                      ──▶       04, 05: snapshot; others: alarm, and no more in this session

This module gathers the names; the two sides live in `list_receiver` and `list_sender` and know nothing of each other.
"""

from __future__ import annotations

from protocol.list_receiver import (
    Apply,
    ListEvent,
    ListReceiver,
    ListStore,
    StageAppend,
    StageBegin,
    StageClear,
    Staged,
)
from protocol.list_sender import Alarm, AlarmKind, ListSender, ListVersion, SenderOutput, SenderState

__all__ = [
    "Alarm",
    "AlarmKind",
    "Apply",
    "ListEvent",
    "ListReceiver",
    "ListSender",
    "ListStore",
    "ListVersion",
    "SenderOutput",
    "SenderState",
    "StageAppend",
    "StageBegin",
    "StageClear",
    "Staged",
]
