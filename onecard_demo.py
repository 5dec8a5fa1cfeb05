"""`onecard demo`: a site of every kind sells through faults, and three totals are compared.

Real processes and files, one story:

    keys, terminals, cards, lists ─▶ ledger serve ─▶ two × serve ─▶ sim run sells …       (--link mqtt: over a broker)
        … the network goes down for a while; the terminals go on selling
        … one till's memory fills up, and it refuses until it is connected again
        … a terminal is replaced by another device
        … with a broker: it is killed with -9, and started again
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
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from onecard_agreement import Agreement, compare
from onecard_demo_broker import BrokerScene, DemoBroker, NoBroker, lead_over
from onecard_demo_cast import FRONTENDS, FRONTENDS_MAX, order_loads, prepare
from onecard_demo_decide import decide_by_two_persons
from onecard_demo_process import Child, DemoFailed, Errand, asking, data_directory, run_onecard
from onecard_demo_screen import Screen, show_verdict
from onecard_demo_story import LOSS_GRACE_MS, Story, result_of
from onecard_host import EXIT_USAGE

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
LOSS_AT_PERCENT: Final = 70
KILL_AT_SHARE: Final = 0.80
REGISTRY_SECONDS: Final = 2.5  # front-ends look at the registry every two seconds
DRAIN_SECONDS_MAX: Final = 90.0
SETTLE_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.1
OPEN_LISTED_MAX: Final = 100
OPERATOR: Final = "demo"
LINKS: Final = ("local", "mqtt")

app = typer.Typer(rich_markup_mode=None)


class Demo:
    """The story, told to a Screen."""

    def __init__(self, story: Story, screen: Screen) -> None:
        self.story = story
        self.screen = screen
        self.directory = story.directory
        self._children: dict[str, Child] = {}
        self._addresses: dict[int, str] = {}
        self._errand: Errand | None = None
        self._broker: DemoBroker | None = None
        self._broker_scene = BrokerScene(story, screen)

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
            if self._errand is not None:
                self._errand.close()
            for child in reversed(self._children.values()):
                child.stop()
            if self._broker is not None:
                self._broker.kill()
        agreement = self._compare()
        seconds = time.monotonic() - started
        return agreement, result_of(self.story, agreement, frontends=len(self._addresses), seconds=seconds)

    def _prepare(self) -> None:
        story = self.story
        if story.link == "mqtt":
            self._broker = self._broker_scene.broker = DemoBroker(self.directory)
            story.broker_kind = self._broker.kind
        self.screen.scene("keys, terminals, cards, parameters and permissions", "密钥、机具、卡片、参数、权限")
        taps, frontends = story.taps, story.frontends
        story.cast = prepare(self.directory, terminals=story.terminals, taps=taps, frontends=frontends)
        if self._broker is not None:
            lead_over(self.directory, self._broker.address)
        story.lost_card = story.cast.first_card + story.seed % 50
        self._onecard("ledger", "init")
        self._onecard("ledger", "card", "issue")
        self.screen.event(f"{_counted(story.cast.terminals)}; {_counted(story.cast.cards)} cards", "")

    def _open(self) -> Path | None:
        self.screen.scene(f"ledger and {self.story.frontends} front-ends start", "账务与前置机启动")
        if self._broker is not None:
            self._broker.start()
            self.screen.event(f"the link goes over a broker, {self._broker.kind}", "消息代理")
        self._start("ledger", "ledger", "serve", "--site", str(self.directory))
        for number in range(1, self.story.frontends + 1):
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
            self._broker_scene.act()
            for name, child in self._children.items():
                if name != "simulator":
                    child.must_live()
            self.screen.refresh(story.progress)
            time.sleep(LOOK_SECONDS)
        for line in sim.lines():
            self._hear(line)
        if sim.close() not in {0, 1}:
            raise DemoFailed(f"the simulator ended with {sim.process.returncode}:\n{sim.last_words()}")
        if not self.story.front_end_killed:  # so few taps that they were over before its turn
            self._kill_front_end()
        self._broker_scene.finish()

    def _simulator(self, orders: Path | None) -> list[str]:
        story = self.story
        faults = [f"cut:at={CUT_AT_PERCENT}%,seconds={story.outage_seconds:g}", f"torn:every={TORN_EVERY}"]
        faults.append(f"thief:card={story.lost_card},at={LOSS_AT_PERCENT}%")
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
            case "thief":
                story.is_card_stolen = True
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
        if story.is_card_stolen and not story.lost_at_ms and self._is_link_up():
            self._report_loss()
        is_loss_known = story.lost_at_ms and _utc_ms() > story.lost_at_ms + LOSS_GRACE_MS
        if share >= KILL_AT_SHARE and (is_loss_known or story.has_sold) and not story.front_end_killed:
            self._kill_front_end()

    def _is_link_up(self) -> bool:
        """Whether every front-end hears the ledger: a loss that is reported while a broker is away arrives later."""
        if self._broker is None:
            return True
        with asking(self.directory / "run" / "ledger.sock") as ledger:
            links = ledger.ask({"verb": "status", "operator": OPERATOR}).get("links", [])
        return bool(sum(one["state"] == "up" for one in links) == self.story.frontends)

    def _report_loss(self) -> None:
        """By the ledger's own socket: a verb's process takes its time to start, and the thief does not wait."""
        story = self.story
        with asking(self.directory / "run" / "ledger.sock") as ledger:
            answer = ledger.ask({"verb": "lost", "card": story.lost_card, "operator": OPERATOR})
        if not answer.get("ok"):
            raise DemoFailed(f"card {story.lost_card} could not be reported lost: {answer.get('says', answer)}")
        story.lost_at_ms = int(answer.get("at_ms") or _utc_ms())
        self.screen.event(f"card …{story.lost_card % 10_000:04d} is reported lost", "挂失")

    def _kill_front_end(self) -> None:
        self.story.front_end_killed = True
        self._children["front-end-1"].kill()
        self.screen.event("front-end 1 is killed with -9; its terminals move to another", "前置机切换")
        self._start_front_end(1)

    def _replace(self) -> None:
        """One step of the replacement, whenever its turn has come; a run that has sold out replaces nothing more."""
        story = self.story
        terminal = str(story.replaced_terminal)
        if not story.replacing and not story.has_sold:
            if self._ask_sim({"verb": "replace", "terminal": story.replaced_terminal}):
                story.replacing = "asked"
        elif story.replacing == "retired":
            self._errand = Errand(self.directory, ("keys", "replace", terminal), ("ledger", "register"))
            story.replacing = "enrolling"
        elif story.replacing == "enrolling" and self._errand is not None:
            if self._errand.is_done():
                story.replacing, story.enrolled_at = "enrolled", time.monotonic()
        elif (
            story.replacing == "enrolled"
            and time.monotonic() > story.enrolled_at + REGISTRY_SECONDS
            and self._ask_sim({"verb": "install", "terminal": story.replaced_terminal})
        ):
            story.replacing = "done"

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

    # -- processes

    def _start(self, name: str, *arguments: str) -> dict[str, Any]:
        child = Child(name, list(arguments), self.directory)
        self._children[name] = child
        return child.ready()

    def _onecard(self, *arguments: str) -> str:
        return run_onecard(self.directory, *arguments)

    def _ask_sim(self, request: dict[str, Any]) -> bool:
        """Whether the simulator does it; not if so few taps were asked for that it has ended already."""
        with contextlib.suppress(OSError), asking(self.directory / "run" / "sim.sock") as sim:
            return bool(sim.ask(request).get("ok"))
        return False


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())


@app.command(
    name="demo",
    epilog="\b\nExample:\n  onecard demo --terminals 50 --taps 5000 --outage-seconds 3 --seed 7 --data-dir run1",
)
def demo(
    *,
    terminals: Annotated[int, typer.Option(min=1, max=10_000, help="Terminals of all kinds (机具).")] = 200,
    taps: Annotated[int, typer.Option(min=1, max=10_000_000, help="Card taps in all.")] = 20_000,
    outage_seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long the network is down.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Replays the same customers and faults.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Keep everything here (a new or empty directory).")] = None,
    frontends: Annotated[
        int, typer.Option(min=2, max=FRONTENDS_MAX, help="Front-end servers; one of them is killed.")
    ] = FRONTENDS,
    link: Annotated[
        str, typer.Option(help="The way to the ledger: local, or mqtt (a broker, which is killed).")
    ] = "local",
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
    if link not in LINKS:
        print(f"onecard demo: --link {link}: it is local or mqtt", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)
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
                frontends=frontends,
                link=link,
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
    except NoBroker as error:
        print(f"onecard demo: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    except DemoFailed as error:
        print(f"onecard demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if good else 1)
