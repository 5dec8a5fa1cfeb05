"""`onecard demo`: a site of every kind sells through faults, and three totals are compared.

Real processes and files, one story:

    keys, terminals, cards, lists ─▶ ledger serve ─▶ two × serve ─▶ sim run sells …
        … the network goes down for a while; the terminals go on selling
        … one till's memory fills up, and it refuses until it is connected again
        … a terminal is replaced by another device
        … a card is reported lost; it is tapped on and on, and refused
        … a front-end is killed with -9; its terminals move over, and it is started again
        … cards are torn out of the field; each is tapped once at the end, and what none can prove two persons decide
    … all drains ─▶ flash of the terminals, spools and ledger are read, each by itself, and must agree

It reaches into nobody: it starts processes, reads their lines and files, and asks by their own verbs and sockets.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from onecard_agreement import Agreement, compare
from onecard_demo_cast import Cast, order_loads, prepare
from onecard_demo_decide import decide_by_two_persons
from onecard_demo_process import Child, DemoFailed, asking, data_directory, run_onecard
from onecard_demo_screen import Screen, show_verdict

SELLING_SECONDS: Final = 20.0
RATE_OF_SMALL_RUNS: Final = 60.0  # a few taps should not take those seconds
SELLING_PER_OUTAGE: Final = 3.0  # so that there is selling before, during and after it
RATE_MIN: Final = 20.0
RATE_MAX: Final = 1_200.0
CUT_AT_PERCENT: Final = 20
FULL_AT_PERCENT: Final = 62
TORN_EVERY: Final = 60
FULL_FROM_TAPS: Final = 2_000  # a memory of some hundred records is filled by customers that others then lack
REPLACE_AT_SHARE: Final = 0.55
LOSS_AT_SHARE: Final = 0.70
KILL_AT_SHARE: Final = 0.80
REGISTRY_SECONDS: Final = 2.5  # front-ends look at the registry every two seconds
DRAIN_SECONDS_MAX: Final = 90.0
SETTLE_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.1
OPEN_LISTED_MAX: Final = 100
LOSS_GRACE_MS: Final = 1_000  # promise: refused within a second at every terminal online over TCP

app = typer.Typer(rich_markup_mode=None)


@dataclass(slots=True, kw_only=True)
class Story:
    """What was asked for, and what has happened so far."""

    terminals: int
    taps: int
    outage_seconds: float
    seed: int
    directory: Path
    rate: float
    card_check: bool = True
    cast: Cast = field(default_factory=Cast)
    lost_card: int = 0
    lost_at_ms: int = 0
    front_end_killed: bool = False
    is_network_down: bool = False
    replacing: str = ""
    """Where the replacement of a device has come to: asked, retired, enrolled, done."""
    enrolled_at: float = 0.0
    memory_full: int = 0
    decided: int = 0
    open_listed: list[dict[str, Any]] = field(default_factory=list)
    offered_again: int = 0
    """Records that the front-ends, since their last start, were offered again and held already."""
    has_sold: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def replaced_terminal(self) -> int:
        """The first one."""
        return 1001


class Demo:
    """The story, told to a Screen."""

    def __init__(self, story: Story, screen: Screen) -> None:
        self.story = story
        self.screen = screen
        self.directory = story.directory
        self._children: dict[str, Child] = {}
        self._addresses: dict[int, str] = {}

    # -- scenes

    def run(self) -> tuple[Agreement, dict[str, Any]]:
        """The whole story; raises DemoFailed. Nothing runs any more at return."""
        started = time.monotonic()
        try:
            self._prepare()
            orders = self._open()
            self._sell(orders)
            self._settle()
            self._decide()
        finally:
            for child in reversed(self._children.values()):
                child.stop()
        agreement = self._compare()
        return agreement, self._result(agreement, time.monotonic() - started)

    def _prepare(self) -> None:
        story = self.story
        self.screen.scene("keys, terminals, cards, parameters and permissions", "密钥、机具、卡片、参数、权限")
        story.cast = prepare(self.directory, terminals=story.terminals, taps=story.taps)
        story.lost_card = story.cast.first_card + story.seed % 50
        self._onecard("ledger", "init")
        self._onecard("ledger", "card", "issue")
        self.screen.event(f"{_counted(story.cast.terminals)}; {_counted(story.cast.cards)} cards", "")

    def _open(self) -> Path | None:
        self.screen.scene("ledger and two front-ends start", "账务与两台前置机启动")
        self._start("ledger", "ledger", "serve", "--site", str(self.directory))
        for number in (1, 2):
            self._start_front_end(number)
        orders = order_loads(self.directory, self.story.cast, taps=self.story.taps)
        if orders is not None:
            self.screen.event(f"{self.story.cast.load_orders} top-ups are paid at the counter", "充值单")
        return orders

    def _start_front_end(self, number: int) -> None:
        arguments = ("serve", "--config", str(self.directory), "--frontend", str(number))
        self._addresses[number] = str(self._start(f"front-end-{number}", *arguments)["address"])

    def _sell(self, orders: Path | None) -> None:
        story = self.story
        self.screen.scene(f"{story.terminals} terminals work, {story.rate:g} taps a second", "机具营业")
        sim = Child("simulator", self._simulator(orders), self.directory)
        self._children["simulator"] = sim
        while sim.process.poll() is None:
            for line in sim.lines():
                self._hear(line)
            self._act()
            for name, child in self._children.items():
                if name != "simulator":
                    child.must_live()
            self.screen.refresh(story.progress)
            time.sleep(LOOK_SECONDS)
        for line in sim.lines():
            self._hear(line)
        if sim.close() not in {0, 1}:
            raise DemoFailed(f"the simulator ended with {sim.process.returncode}:\n{sim.last_words()}")

    def _simulator(self, orders: Path | None) -> list[str]:
        story = self.story
        faults = [f"cut:at={CUT_AT_PERCENT}%,seconds={story.outage_seconds:g}", f"torn:every={TORN_EVERY}"]
        if story.taps >= FULL_FROM_TAPS:
            faults.append(f"full:at={FULL_AT_PERCENT}%")
        return [
            *("sim", "run", "--site", str(self.directory)),
            *(part for address in self._addresses.values() for part in ("--connect", address)),
            *("--terminals", str(story.cast.selling), "--taps", str(story.taps), "--rate", f"{story.rate:g}"),
            *("--seed", str(story.seed), "--faults", ";".join(faults)),
            *("--dump", str(self.directory / "dump"), "--report", str(self.directory / "report")),
            *("--control", str(self.directory / "run" / "sim.sock"), "--json"),
            *("--drain-seconds", f"{DRAIN_SECONDS_MAX:g}"),
            *(() if orders is None else ("--orders", str(orders))),
            *(() if story.card_check else ("--no-card-check",)),
        ]

    def _hear(self, line: dict[str, Any]) -> None:
        story, tell = self.story, self.screen.event
        match line.get("event"):
            case "progress":
                story.progress = line
            case "network_cut":
                story.is_network_down = True
                tell("the network is down; terminals go on selling", "断网，脱机消费")
            case "network_back":
                story.is_network_down = False
                tell("the network is back; everybody uploads at once", "网络恢复，集中上传")
            case "memory_full":
                story.memory_full = line["unacknowledged"]
                tell(f"terminal {line['terminal']} has {story.memory_full} records nobody took, and refuses", "存储满")
            case "terminal_retired":
                story.replacing = "retired"
            case "terminal_replaced":
                tell(f"terminal {line['terminal']} is another device now, in epoch {line['epoch']}", "换机")
            case "selling_finished":
                story.has_sold = True
                tell("selling has ended; what is left drains", "营业结束，补传")
            case "cards_checked":
                tell(f"{line['checked']} torn cards are tapped once: {line['completed']} debits brought home", "卡检查")
            case _:
                pass

    def _act(self) -> None:
        story = self.story
        if story.is_network_down and not story.has_sold:
            return  # a loss is reported, and a front-end dies, when that means something to terminals online
        share = 1.0 if story.has_sold else story.progress.get("taps", 0) / story.taps
        if share >= REPLACE_AT_SHARE and story.terminals > 1:  # the only one is not taken away
            self._replace()
        if share >= LOSS_AT_SHARE and not story.lost_at_ms:
            self._ask_sim({"verb": "thief", "card": story.lost_card})
            answer = json.loads(self._onecard("ledger", "lost", str(story.lost_card), "--json"))
            story.lost_at_ms = int(answer.get("at_ms") or time.time_ns() // 1_000_000)
            self.screen.event(f"card …{story.lost_card % 10_000:04d} is reported lost", "挂失")
        if share >= KILL_AT_SHARE and not story.front_end_killed:
            story.front_end_killed = True
            self._children["front-end-1"].kill()
            self.screen.event("front-end 1 is killed with -9; its terminals move to front-end 2", "前置机切换")
            self._start_front_end(1)

    def _replace(self) -> None:
        """One step of the replacement, whenever its turn has come; a run that has sold out replaces nothing more."""
        story = self.story
        terminal = str(story.replaced_terminal)
        if not story.replacing and not story.has_sold:
            story.replacing = "asked"
            self._ask_sim({"verb": "replace", "terminal": story.replaced_terminal})
        elif story.replacing == "retired":
            self._onecard("keys", "replace", terminal)
            self._onecard("ledger", "register")
            story.replacing, story.enrolled_at = "enrolled", time.monotonic()
        elif story.replacing == "enrolled" and time.monotonic() > story.enrolled_at + REGISTRY_SECONDS:
            story.replacing = "done"
            self._ask_sim({"verb": "install", "terminal": story.replaced_terminal})

    def _settle(self) -> None:
        """Wait until the ledger's receipts cover every row of both spools."""
        self.screen.scene("the ledger posts what is left", "入账")
        story, end = self.story, time.monotonic() + SETTLE_SECONDS_MAX
        while time.monotonic() < end:
            found = [json.loads(self._onecard("status", "--json", "--frontend", str(one))) for one in self._addresses]
            if not any(one["spool"]["rows_unsettled"] for one in found):
                story.offered_again = sum(one["counts"]["duplicate_records"] for one in found)
                return
            time.sleep(LOOK_SECONDS)
        raise DemoFailed("rows of the spools were not settled in time; see " + str(self._children["ledger"].log))

    def _decide(self) -> None:
        """What no card proves is for two persons, who know what happened from the cards in their hands (R20)."""
        if not self.story.card_check:
            return
        with asking(self.directory / "run" / "ledger.sock") as ledger:
            items = json.loads(self._onecard("ledger", "suspense", "list", "--json"))["items"]
            loads = json.loads(self._onecard("ledger", "loads", "list", "--json"))
            self.story.decided = decide_by_two_persons(ledger, items, loads, self.directory / "dump")
        if self.story.decided:
            self.screen.event(f"{self.story.decided} items that no card proves are decided by two persons", "双人处理")

    # -- the end

    def _compare(self) -> Agreement:
        self.screen.scene("three artefacts are read and compared", "三方对账")
        dump = self.directory / "dump"
        terminals = json.loads((dump / "terminals.json").read_text())
        spools = json.loads(self._onecard("spool", "totals", "--all", "--json"))
        ledger = json.loads(self._onecard("ledger", "report", "--json"))
        self.story.open_listed = [
            {"kind": kind, **{name: one[name] for name in ("terminal", "epoch", "first", "amount_cents", "detail")}}
            | {"age_s": (ledger["at_ms"] - one["since_ms"]) // 1000}
            for kind, item in ledger["open_items"].items()
            for one in item["listed"][:OPEN_LISTED_MAX]
        ]
        self.story.figures = json.loads((dump / "sim.json").read_text())
        cards = json.loads((dump / "cards.json").read_text())
        return compare(terminals["terminals"], spools, ledger, cards["cards"])

    def _result(self, agreement: Agreement, seconds: float) -> dict[str, Any]:
        story, sim = self.story, self.story.figures
        denied, accepted = self._after_loss()
        return {
            "terminals": story.terminals,
            "terminal_kinds": story.cast.terminals,
            "terminals_of_suite_b": story.cast.suite_b,
            "cards": story.cast.cards,
            "frontends": len(self._addresses),
            "taps": story.taps,
            "records_created": agreement.records_created,
            "records_by_type": sim["flash"]["records_by_type"],
            "records_acknowledged": agreement.records_acknowledged,
            "records_posted": agreement.records_posted,
            "duplicates": agreement.duplicates + story.offered_again,
            "held_by_two_frontends": agreement.twins,
            "quarantined": agreement.quarantined,
            "gaps_open": agreement.gaps_open,
            "open_items": agreement.open_items,
            "open_listed": story.open_listed,
            "decided_by_two_persons": story.decided,
            "torn_taps": sum(sim["torn_by_kind"].values()),
            "torn_by_kind": sim["torn_by_kind"],
            "torn_cards": sim["card_check"]["torn"] if story.card_check else sim["torn_cards"]["count"],
            "left_on_cards": sim["torn_cards"],
            "memory_full_at_records": story.memory_full,
            "replaced_terminals": int(story.replacing == "done"),
            "amount_terminals_cents": agreement.total.terminals_cents,
            "amount_spool_cents": agreement.total.spool_cents,
            "amount_ledger_cents": agreement.total.ledger_cents,
            "amount_open_items_cents": agreement.total.open_cents,
            "lost": agreement.lost,
            "double_posted": agreement.double_posted,
            "denied_after_loss": denied,
            "accepted_after_loss": accepted,
            "ack_ms_p50": sim["ack_ms"]["p50"],
            "ack_ms_p99": sim["ack_ms"]["p99"],
            "records_per_second": round(agreement.records_posted / max(sim["selling_ms"] / 1000, 0.001), 1),
            "recovery_records_per_second": sim["recovery_records_per_second"],
            "seconds": round(seconds, 1),
            "seed": story.seed,
            "data_dir": str(self.directory),
            "disagreements": agreement.disagreements,
        }

    def _after_loss(self) -> tuple[int, int]:
        """(refused, accepted a second after the report at terminals online all that second) taps of the lost card."""
        denied = accepted = 0
        for line in (self.directory / "dump" / "thief.jsonl").read_text().splitlines():
            tap = json.loads(line)
            if tap["outcome"] != "sold":
                denied += tap["why"] == "deny_list"
            elif tap["utc_ms"] > self.story.lost_at_ms + LOSS_GRACE_MS:
                online_since_ms = tap["online_since_utc_ms"]
                accepted += bool(online_since_ms) and online_since_ms <= tap["utc_ms"] - LOSS_GRACE_MS
        return denied, accepted

    # -- processes

    def _start(self, name: str, *arguments: str) -> dict[str, Any]:
        child = Child(name, list(arguments), self.directory)
        self._children[name] = child
        return child.ready()

    def _onecard(self, *arguments: str) -> str:
        return run_onecard(self.directory, *arguments)

    def _ask_sim(self, request: dict[str, Any]) -> None:
        """Tell the simulator, unless so few taps were asked for that it has ended already."""
        with contextlib.suppress(OSError), asking(self.directory / "run" / "sim.sock") as sim:
            sim.ask(request)


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())


@app.command(name="demo")
def demo(
    *,
    terminals: Annotated[int, typer.Option(min=1, max=10_000, help="Terminals of all kinds (机具).")] = 200,
    taps: Annotated[int, typer.Option(min=1, max=10_000_000, help="Card taps in all.")] = 20_000,
    outage_seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long the network is down.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Replays the same customers and faults.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Keep everything here (a new or empty directory).")] = None,
    card_check: Annotated[
        bool, typer.Option("--card-check/--no-card-check", help="Tap torn cards once at the end, decide what is left.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """A site sells through an outage; terminals, spools and ledger must agree to the cent (三方对账).

    Starts a ledger, two front-ends and simulated terminals of every kind as processes, cuts the network, fills a
    memory, replaces a terminal, tears cards, reports one lost, kills a front-end, and compares three independent
    totals. Exit code 0 only if they agree.
    """
    selling_seconds = max(min(SELLING_SECONDS, taps / RATE_OF_SMALL_RUNS), SELLING_PER_OUTAGE * outage_seconds)
    rate = max(RATE_MIN, min(RATE_MAX, taps / selling_seconds))
    try:
        with data_directory(data_dir) as (directory, keep), Screen(taps=taps, quiet=as_json) as screen:
            story = Story(
                terminals=terminals,
                taps=taps,
                outage_seconds=outage_seconds,
                seed=seed,
                directory=directory,
                rate=rate,
                card_check=card_check,
            )
            try:
                agreement, result = Demo(story, screen).run()
            except BaseException:
                keep()
                raise
            screen.close()
            good = agreement.agrees and not result["accepted_after_loss"]
            if not good:
                keep()
            result["data_kept"] = data_dir is not None or not good
            if as_json:
                print(json.dumps(result, ensure_ascii=False))
            else:
                show_verdict(agreement, result, good=good)
    except DemoFailed as error:
        print(f"onecard demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if good else 1)
