"""The report: one page without anything from outside, whose pictures are well-formed and show what the run did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from terminal_sim.report import render, write_report
from tests.terminal_sim.fleet_kit import Canteen, asked


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    canteen = Canteen(tmp_path_factory.mktemp("canteen"))
    play, ports = canteen.begin(asked(taps=300, faults="cut:at=30%,seconds=2;thief:card=any,at=50%"))
    assert canteen.finish(play, ports) == 0
    return play.result


def pictures(page: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_the_page_needs_nothing_from_outside(sim: dict[str, Any]) -> None:
    page = render(sim)
    assert not re.search(r"https?://|src=|href=|<script|@import|url\(", page)
    assert len(page) < 200_000


def test_pictures_are_well_formed_and_inside_their_frames(sim: dict[str, Any]) -> None:
    found = pictures(render(sim))
    assert len(found) == 4
    for picture in found:
        width, height = (float(side) for side in picture.attrib["viewBox"].split()[2:])
        for line in picture.iter("polyline"):
            for point in line.attrib["points"].split():
                x, y = (float(each) for each in point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
        for bar in picture.iter("rect"):
            assert float(bar.attrib["height"]) >= 0
            assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width


def test_headings_totals_and_faults_stand_in_the_page(sim: dict[str, Any]) -> None:
    page = render(sim)
    for text in (
        "Totals 合计",
        "Timeline 时间线",
        "Acknowledgement latency 确认时延",
        "Recoveries 恢复",
        "flash and cards agree",
        "network cut",
        "network back",
        "cut:at=30%,seconds=2",
        "300 of 300",
    ):
        assert text in page
    assert "Missing" not in page


def test_a_run_that_failed_says_so_first(sim: dict[str, Any]) -> None:
    missing = [{"terminal": 4001, "unacknowledged": 7, "state": "waiting"}]
    page = render(sim | {"agrees": False, "drained": False, "missing": missing})
    assert "DISAGREE" in page
    assert "still unacknowledged" in page
    assert "Missing 未确认" in page
    assert "<td>4001</td><td class=n>7</td><td class=n>waiting</td>" in page


def test_what_a_person_typed_cannot_become_markup(sim: dict[str, Any]) -> None:
    assert "<b>x" not in render(sim | {"faults": "<b>x</b>"})


def test_a_run_without_records_still_has_a_page(sim: dict[str, Any], tmp_path: Path) -> None:
    empty: dict[str, Any] = {"count": 0, "mean": None, "p50": None, "p99": None, "max": None, "counts": {}}
    path = write_report(tmp_path / "new", sim | {"timeline": [], "ack_ms": empty, "recovery": [], "merchants": {}})
    assert "too short for a picture" in path.read_text(encoding="utf-8")
