"""docs/doors.md says what the code does: its example is a document, its tables have every reason, state and event."""

from __future__ import annotations

import json
import re
from pathlib import Path

from protocol.canonical import dump
from protocol.codes import AccessReason, DoorEventKind
from protocol.door import PASSBACK_CARDS_MAX
from protocol.door_lock import LockState
from protocol.local_time import LocalTime, day_of_date
from protocol.permission_parts import Door
from protocol.permissions import PERMISSIONS_BYTES_MAX, Permissions

PAGE = (Path(__file__).parents[2] / "docs" / "doors.md").read_text(encoding="utf-8")


def example() -> Permissions:
    found = re.search(r"permissions example: begin -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return Permissions.decode(dump(json.loads(found[1])))


def test_the_example_is_a_permissions_document() -> None:
    made = example()
    assert [door.name for door in made.doors_of(4101)] == ["main entrance", "main entrance, inside", "server room"]
    assert Permissions.decode(made.encode()) == made


def test_the_examples_office_hours_are_as_its_mask_says() -> None:
    made = example()
    holiday, workday, saturday = (day_of_date(written) for written in (20261001, 20261009, 20261010))
    opens = {day: [minute for minute in range(1440) if made.is_open(1, LocalTime(day, minute))] for day in (
        holiday, workday, saturday)}  # fmt: skip
    assert opens == {holiday: list(range(600, 720)), workday: list(range(480, 1080)), saturday: []}


def test_the_page_names_every_reason_state_event_and_field() -> None:
    for reason in AccessReason:
        assert f"`{reason:02X}`" in PAGE, reason
    for event in DoorEventKind:
        assert f"`{event:02X}`" in PAGE, event
    for state in LockState:
        assert f"| `{state.name}` |" in PAGE, state
    for name in (*Door.__dataclass_fields__, "cards", "intervals", "holidays", "utc_offsets"):
        assert f'"{name}":' in PAGE, name


def test_the_pages_figures_are_those_of_the_code() -> None:
    assert f"{PASSBACK_CARDS_MAX:,} cards" in PAGE
    assert f"{PERMISSIONS_BYTES_MAX:,} bytes" in PAGE
