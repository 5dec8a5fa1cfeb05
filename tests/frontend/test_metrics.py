"""Counters, histograms, and how they leave: control socket and scrapes. What they say must be what happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from frontend_server.exposition import Family, families, text
from frontend_server.histograms import BUCKETS, Histogram
from frontend_server.metrics import COUNTS, HELP, Metrics
from frontend_server.scrape import CLIENTS_MAX, REQUEST_BYTES_MAX, is_loopback
from frontend_server.settings import SettingsError
from protocol.messages import Upload
from protocol.ports import Stream
from tests.frontend.site import Site
from tests.simulation.world import Host

SCRAPED: Final = "127.0.0.1:9477"
LINE: Final = re.compile(r'[a-z_]+(_bucket)?(\{[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*\})? (-?[0-9.]+|[0-9.e+]+)')
TYPES: Final = frozenset({"counter", "gauge", "histogram"})


class Scraper:
    """A StreamHandler that asks once and keeps the answer."""

    def __init__(self, site: Site, request: bytes) -> None:
        self.request = request
        self.data = b""
        self.is_closed = False
        self.stream: Stream | None = None
        Host(site.world, "prometheus").connect(SCRAPED, self)

    def connected(self, stream: Stream) -> None:
        self.stream = stream
        stream.write(self.request)

    def received(self, data: bytes) -> None:
        self.data += data

    def drained(self) -> None:
        pass

    def closed(self, error: Exception | None) -> None:
        self.is_closed = True


@pytest.fixture
def scraped(make_site: Callable[..., Site]) -> Site:
    return make_site(metrics_address=SCRAPED)


# -- histograms


def test_a_value_is_counted_in_the_bucket_of_its_power_of_two() -> None:
    histogram = Histogram()
    for value in (0, 1, 2, 3, 4, 1_000, 1_023, 1_024):
        histogram.add(value)
    assert list(histogram.cumulative(12)) == [
        *((0, 1), (1, 2), (3, 4), (7, 5), (15, 5), (31, 5), (63, 5), (127, 5), (255, 5), (511, 5), (1_023, 7)),
        (2_047, 8),
    ]
    assert (histogram.count, histogram.total) == (8, 3_057)


def test_a_quantile_is_never_less_than_the_true_one_and_less_than_twice_as_much() -> None:
    histogram = Histogram()
    values = [3 * value + 1 for value in range(1_000)]
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.5, 0.99, 1.0):
        true = sorted(values)[int(share * 1_000) - 1]
        found = histogram.quantile(share)
        assert found is not None
        assert true <= found < 2 * true or true == 1
    assert Histogram().quantile(0.5) is None


def test_a_clock_that_jumps_is_counted_somewhere_and_breaks_nothing() -> None:
    histogram = Histogram()
    histogram.add(-5)
    histogram.add(1 << (BUCKETS - 2))
    assert histogram.count == 2


# -- what they say


def test_every_counter_has_its_help_and_nothing_else_has() -> None:
    assert set(HELP) == set(COUNTS)
    assert set(Metrics().as_dict()) == set(COUNTS)


def test_frames_and_their_waits_are_counted_by_lane(site: Site) -> None:
    terminal = site.logged_in(records=20)
    metrics = site.server.parts.metrics
    site.host.work_ms = 50
    terminal.upload(1, 10)
    site.run(500)
    terminal.say(Upload.of(terminal.records[10:11], live=True).encode())
    site.run(500)
    assert (metrics.upload_frames, metrics.live_frames, metrics.records_received) == (2, 1, 11)
    assert (metrics.backlog_ack_ms.count, metrics.live_ack_ms.count) == (1, 1)
    assert metrics.live_ack_ms.total == 51  # the disk's 50 ms, and one until the answer is told
    assert metrics.upload_bytes.total == 11 * 96 + 2 * 4
    assert metrics.group_frames.count == metrics.commit_ms.count == site.writer.groups
    answer = site.ask(verb="status")
    assert answer["waits"]["live"] == {"count": 1, "p50_ms": 63, "p99_ms": 63, "p999_ms": 63}


def test_the_text_is_what_prometheus_reads() -> None:
    made = Family("x_seconds", "histogram", "How long.")
    made.samples = [("_bucket", (("lane", "live"), ("le", "0.001")), 3), ("_sum", (), 0.25), ("_count", (), 3)]
    assert text([made, Family("y_total", "counter", "How many.", [("", (), 12_345_678_901)])]) == (
        "# HELP x_seconds How long.\n"
        "# TYPE x_seconds histogram\n"
        'x_seconds_bucket{lane="live",le="0.001"} 3\n'
        "x_seconds_sum 0.25\n"
        "x_seconds_count 3\n"
        "# HELP y_total How many.\n"
        "# TYPE y_total counter\n"
        "y_total 12345678901\n"
    )


def test_every_name_ends_in_its_unit_or_total_and_no_label_names_a_terminal_or_a_card(site: Site) -> None:
    terminal = site.logged_in(records=5)
    terminal.upload(1, 5)
    site.terminal(4_711).connect()  # refused
    site.run()
    site.ask(verb="metrics")  # the spool's figures are in the next answer
    answer = site.ask(verb="metrics")
    lines = answer["text"].splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in samples), [one for one in samples if not LINE.fullmatch(one)]
    kinds = dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE "))
    assert set(kinds.values()) == TYPES
    for name, kind in kinds.items():
        assert name.startswith("onecard_frontend_")
        assert name.endswith("_total") == (kind == "counter"), name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_frames", "_bytes")), name
    labels = set(re.findall(r'([a-z]+)="', answer["text"]))
    assert labels <= {"le", "lane", "reason", "kind"}
    assert "4711" not in answer["text"]
    assert "9000001" not in answer["text"]
    assert "onecard_frontend_records_received_total 5" in samples
    assert "onecard_frontend_terminals_online 1" in samples
    assert 'onecard_frontend_log_ins_refused_by_reason_total{reason="unknown terminal"} 1' in samples
    assert any(line.startswith("onecard_frontend_spool_rows ") for line in samples)


def test_buckets_rise_and_end_with_everything(site: Site) -> None:
    site.server.parts.metrics.live_ack_ms.add(1 << 40)  # beyond every bucket that is shown
    found = families(site.server.parts, None, {"state": "up"})
    waits = next(family for family in found if family.name.endswith("ack_seconds"))
    live = [value for suffix, labels, value in waits.samples if suffix == "_bucket" and ("lane", "live") in labels]
    assert live == sorted(live)
    assert live[-2:] == [0, 1]
    assert next(family for family in found if family.name.endswith("link_up")).samples == [("", (), True)]


# -- scrapes


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"405 Method Not Allowed"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"\xc3\x11\x10\x00 not a request\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics SPDY/3\r\n\r\n", b"400 Bad Request"),
        (b"G" * (REQUEST_BYTES_MAX + 1), b"400 Bad Request"),
    ],
)
def test_one_request_a_connection_is_answered_and_closed(scraped: Site, request_bytes: bytes, status: bytes) -> None:
    asked = Scraper(scraped, request_bytes)
    scraped.run()
    assert asked.data.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert asked.is_closed
    head, _, body = asked.data.partition(b"\r\n\r\n")
    if request_bytes.startswith(b"HEAD"):
        assert body == b""
        assert b"Content-Length: 0" not in head
    else:
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    if status == b"200 OK":
        assert b"Content-Type: text/plain; version=0.0.4" in head
        assert b"onecard_frontend_log_ins_total 0\n" in body or not body


def test_a_scraper_that_says_nothing_loses_its_place_and_places_are_few(scraped: Site) -> None:
    silent = [Scraper(scraped, b"GET /met") for _ in range(CLIENTS_MAX)]
    scraped.run()
    late = Scraper(scraped, b"GET /metrics HTTP/1.1\r\n\r\n")
    scraped.run()
    assert (late.is_closed, late.data) == (True, b"")
    scraped.run(5_200)
    assert all(one.is_closed for one in silent)
    again = Scraper(scraped, b"GET /metrics HTTP/1.1\r\n\r\n")
    scraped.run()
    assert again.data.startswith(b"HTTP/1.1 200 OK")


def test_without_an_address_nobody_listens_and_at_the_stop_nobody_does_any_more(site: Site, scraped: Site) -> None:
    assert site.server.ready_facts()["metrics"] == ""
    assert SCRAPED not in site.world.listeners
    assert scraped.server.ready_facts()["metrics"] == SCRAPED
    Scraper(scraped, b"GET /")
    scraped.run()
    scraped.server.stop(lambda: None)
    scraped.run(6_000)
    assert SCRAPED not in scraped.world.listeners


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        *((address, True) for address in ("127.0.0.1:9477", "localhost:1", "[::1]:9477", "127.9.9.9:2")),
        *((address, False) for address in ("0.0.0.0:9477", "10.0.0.1:9477", ":9477", "[::]:1", "example.org:1")),
    ],
)
def test_metrics_are_served_on_a_loopback_address_alone(
    make_site: Callable[..., Site], address: str, is_one: bool
) -> None:
    assert is_loopback(address) == is_one
    if not is_one:
        with pytest.raises(SettingsError, match="loopback"):
            make_site(metrics_address=address)
